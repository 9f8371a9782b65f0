"""An index's engine in memory, without a disk: what was committed, and nothing else."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sortedcontainers import SortedDict

from pinfold.device.index import Change, Index


class MemoryEngine:
    """See `Engine`; `read` counts the rows read by table."""

    def __init__(self) -> None:
        self.rows: SortedDict[bytes, bytes] = SortedDict()
        self.verify: Callable[[bytes, bytes], object] = lambda _key, _stored: None

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self.rows.get(key)
        return found

    def scan(
        self, start: bytes, end: bytes | None, reverse: bool, *, proved: bool = True
    ) -> Iterator[tuple[bytes, bytes]]:
        for key in self.rows.irange(start, end, inclusive=(True, False), reverse=reverse):
            yield key, self.rows[key]

    def commit(self, changes: Sequence[Change]) -> None:
        for key, value in changes:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def grow(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def commit_index(self, index: Index) -> None:
        """One whole commit of the index above."""

        def lane(function: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
            done = asyncio.get_running_loop().create_future()
            done.set_result(function(*arguments))
            return done

        async def run() -> None:
            index.seal()
            await index.commit(lane)  # type: ignore[arg-type]

        asyncio.run(run())
