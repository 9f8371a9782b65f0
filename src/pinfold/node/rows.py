"""The row log as a gateway sees it."""

from pinfold.cluster.api import Change, Changed, Collapse, Page, Row, Rows
from pinfold.model.errors import Unavailable
from pinfold.node.context import NodeContext
from pinfold.node.placements import Placements


def row_client(context: NodeContext, placements: Placements) -> Rows:
    """`Rows` over the metadata policy's groups."""
    return _NoRows()


class _NoRows:
    async def get(self, place: bytes, key: bytes) -> Row | None:
        raise Unavailable("no row log")

    async def scan(
        self,
        place: bytes,
        start: bytes,
        end: bytes | None,
        limit: int,
        *,
        collapse: Collapse | None = None,
        kinds: bytes | None = None,
        reverse: bool = False,
    ) -> Page:
        raise Unavailable("no row log")

    async def change(self, place: bytes, change: Change) -> Changed:
        raise Unavailable("no row log")
