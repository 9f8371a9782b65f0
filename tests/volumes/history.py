"""A block model that knows what each block may contain, after any failure.

Every write gives its blocks a value of its own. Each block has a floor: the latest beginning of a
write that is known to have happened (acknowledged, or seen by a read). A read must not return a
value whose write had ended before the floor as it was when the read began. A power cut turns what
no finished flush covers into "may or may not have happened".
"""

from dataclasses import dataclass, field

FOREVER = float("inf")


@dataclass(eq=False)
class Written:
    """One write, as one block sees it."""

    value: int
    began: int
    ended: float = FOREVER
    flushed: bool = False


@dataclass
class _Block:
    writes: dict[int, Written] = field(default_factory=lambda: {0: Written(0, 0, 0, True)})
    floor: int = 0


class History:
    """All blocks of one volume. Instants are a counter: order is all that matters."""

    def __init__(self) -> None:
        self._now = 0
        self._values = 0
        self._blocks: dict[int, _Block] = {}
        self._unflushed: dict[Written, int] = {}

    def now(self) -> int:
        self._now += 1
        return self._now

    def _block(self, block: int) -> _Block:
        return self._blocks.setdefault(block, _Block())

    def value(self) -> int:
        self._values += 1
        return self._values

    def begin_write(self, block: int, value: int) -> Written:
        written = Written(value, self.now())
        self._block(block).writes[value] = written
        return written

    def end_write(self, block: int, written: Written) -> None:
        written.ended = self.now()
        self._unflushed[written] = block
        self._evidence(block, written)

    def refused_write(self, block: int, value: int) -> None:
        """The write has failed for good: nobody may ever see it."""
        del self._block(block).writes[value]

    def _evidence(self, block: int, written: Written) -> None:
        state = self._block(block)
        state.floor = max(state.floor, written.began)

    def begin_flush(self) -> list[Written]:
        return list(self._unflushed)

    def end_flush(self, covered: list[Written]) -> None:
        for written in covered:
            written.flushed = True
            self._unflushed.pop(written, None)

    def begin_read(self, block: int) -> int:
        return self._block(block).floor

    def end_read(self, block: int, floor: int, value: int) -> None:
        """Fail unless a read that began at this floor may return the value."""
        written = self._block(block).writes.get(value)
        assert written is not None, f"block {block}: value {value} was never written"
        assert written.ended >= floor, f"block {block}: {value} is older than what was known"
        self._evidence(block, written)

    def power_cut(self) -> None:
        """Everything lost its memory: what was not flushed may or may not be there."""
        for written in self._unflushed:
            written.ended = FOREVER
        self._unflushed.clear()
        for state in self._blocks.values():
            state.floor = max(w.began for w in state.writes.values() if w.flushed)
