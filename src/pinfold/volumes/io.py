"""One request to a volume, as the front end submits it and the session answers it."""

from collections.abc import Sequence
from typing import Final, Protocol

from pinfold.env.api import Buffer
from pinfold.model.errors import PinfoldError

WRITE: Final = 0
ZERO: Final = 1
TRIM: Final = 2
"""Kinds that change bytes: the numbers are those of `device.api.ExtentOp`."""
READ: Final = 3
FLUSH: Final = 4
CACHE: Final = 5
"""A read whose bytes nobody wants: it warms the member that would be asked."""
STATUS: Final = 6
"""Which parts of the range hold data."""


class Owner(Protocol):
    """Where answers go."""

    def finished(self, ios: "list[Io]") -> None:
        """Requests of this owner that have their answer: all of one loop tick together."""
        ...


class Io:
    """A request and, in the end, its answer.

    The submitter sets the first six and keeps `payload` unchanged until the bytes are flushed
    everywhere (hand over a buffer nobody else writes to). `error` is None when all went well; a
    read's bytes are then `parts`, one behind the other.
    """

    __slots__ = (
        "cookie",
        "error",
        "first_only",
        "fua",
        "kind",
        "length",
        "offset",
        "owner",
        "parts",
        "payload",
        "pending",
        "runs",
        "sequence",
    )

    def __init__(
        self,
        kind: int,
        offset: int,
        length: int,
        owner: Owner,
        cookie: int = 0,
        *,
        payload: Buffer = b"",
        fua: bool = False,
        first_only: bool = False,
    ) -> None:
        self.kind = kind
        self.offset = offset
        self.length = length
        self.owner = owner
        self.cookie = cookie
        self.payload = payload
        self.fua = fua
        self.first_only = first_only
        """A status request that wants one run."""
        self.runs: Sequence[tuple[int, bool]] = ()
        """A status answer: (length, whether there is data) from the offset on, maybe not to the
        end."""
        self.error: PinfoldError | None = None
        self.parts: list[Buffer] = []
        self.pending = 0
        """Pieces (batches, spans) that have not ended."""
        self.sequence = 0
        """The last batch that carries a piece: what a FUA answer waits to be flushed."""


def deliver(ios: list[Io]) -> None:
    """Give requests their answers: each owner gets its own together."""
    owner = ios[0].owner
    if all(io.owner is owner for io in ios):
        owner.finished(ios)
        return
    by_owner: dict[int, list[Io]] = {}
    for io in ios:
        by_owner.setdefault(id(io.owner), []).append(io)
    for theirs in by_owner.values():
        theirs[0].owner.finished(theirs)
