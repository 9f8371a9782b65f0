"""What a device acknowledged of extents: tokens, flushed writes and their marks, volumes dropped.

Each block has versions: the last one flushed, and what was written over it since. A read must find
the newest; after a crash any of them may be left, and nothing else.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pinfold.device.api import Claim, ExtentOp, ExtentStore
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.sim.audit.asking import EVERYTHING, Place, dirty_marks, read_run, runs_of, token_of
from pinfold.sim.audit.cells import TOLD_BYTES

_ZEROES: Final = bytes(BLOCK_BYTES)


class _Version(NamedTuple):
    turn: int
    content: bytes | None
    """None: not known."""

    def may_be(self, piece: bytes, low: int = 0, high: int = BLOCK_BYTES) -> bool:
        return self.content is None or self.content[low:high] == piece


class _Mark(NamedTuple):
    turn: int
    token: int
    epoch: int
    sequence: int


@dataclass(slots=True)
class VolumeLedger:
    """Of one volume on one device."""

    token: int = 0
    """Highest acknowledged."""
    asked: list[int] = field(default_factory=list)
    """Tokens claimed since."""
    turn: int = 0
    """Counts writes."""
    flushed_turn: int = 0
    """Writes up to here were."""
    written_turn: int = 0
    """Writes up to here were answered: they survive a kill."""
    opened_turn: int = 0
    """Writes up to here came before the device was opened last."""
    base: bytes | None = _ZEROES
    """What blocks hold that nobody was seen to write."""
    blocks: dict[Place, list[_Version]] = field(default_factory=dict)
    open: dict[Place, None] = field(default_factory=dict)
    """Blocks with more than one version."""
    marks: dict[int, list[_Mark]] = field(default_factory=dict)
    """By extent: the newest flushed mark that was not declared stable, and newer ones."""
    lost: bool = False
    """The device has said that it lost extents, and was not told that it has them again."""
    dropped: bool = False
    """Forgotten, and that was acknowledged."""
    dropping: bool = False
    """It is being forgotten: a crash may bring all of it back."""
    emptied: int = 0
    """How often nothing was left."""
    reads: int = 0
    """Reads under way."""
    past: dict[Place, list[_Version]] = field(default_factory=dict)
    """Versions that a flush made old since the first of these began: it may have seen them."""

    def newest(self, at: tuple[int, int]) -> bytes | None:
        """How what lies at an offset of an extent began when it was taken last; None: not known."""
        return self._content(at, self.written_turn)

    def durable(self, at: tuple[int, int]) -> bytes | None:
        """The same, of what was flushed last."""
        return self._content(at, 0)

    def born_again(self, at: tuple[int, int]) -> bool:
        """Whether it was taken since the device was opened last."""
        versions = self.blocks.get((at[0], at[1] // BLOCK_BYTES), ())
        return any(self.opened_turn < one.turn <= self.written_turn for one in versions)

    def _content(self, at: tuple[int, int], turn: int) -> bytes | None:
        block, low = divmod(at[1], BLOCK_BYTES)
        versions = self.blocks.get((at[0], block))
        if versions is None:
            content = self.base
        else:
            content = next(
                (one for one in reversed(versions[1:]) if one.turn <= turn), versions[0]
            ).content
        return None if content is None else content[low : low + TOLD_BYTES]

    def write(self, place: Place, piece: bytes, low: int) -> None:
        """Something was sent for a block, from there on in it."""
        versions = self.blocks.setdefault(place, [_Version(0, self.base)])
        before, content = versions[-1].content, None
        if len(piece) == BLOCK_BYTES:
            content = piece
        elif before is not None:
            content = before[:low] + piece + before[low + len(piece) :]
        versions.append(_Version(self.turn, content))
        self.open[place] = None

    def empty(self, base: bytes | None = _ZEROES) -> None:
        """Nothing is left of its extents, or nothing is known of them any more."""
        self.past.clear()
        self.base = base
        self.emptied += 1
        self.blocks.clear()
        self.open.clear()
        self.marks.clear()

    def flushed(self, turn: int) -> None:
        """Everything written up to here was."""
        self.flushed_turn = max(self.flushed_turn, turn)
        for place in list(self.open):
            versions = self.blocks[place]
            while len(versions) > 1 and versions[1].turn <= turn:
                if self.reads:
                    self.past.setdefault(place, []).append(versions[0])
                del versions[0]
            if len(versions) == 1:
                del self.open[place]
        for marks in self.marks.values():
            while len(marks) > 1 and marks[1].turn <= turn:
                del marks[0]

    def seen_since(self, place: Place, turn: int) -> Iterator[_Version]:
        """What a read that began then may have found of a block since."""
        for version in (*self.past.get(place, ()), *self.blocks.get(place, ())):
            if version.turn > turn:
                yield version

    def read_ended(self) -> None:
        """One read less is under way."""
        self.reads -= 1
        if not self.reads:
            self.past.clear()

    def left(self, place: Place, content: bytes, *, killed: bool) -> bool:
        """A crash, or only a kill, has left this of a block; whether that may be."""
        versions = self.blocks[place]
        least = 0
        if killed:
            least = max(
                (at for at, one in enumerate(versions) if one.turn <= self.written_turn), default=0
            )
        may = [at for at, one in enumerate(versions) if at >= least and one.may_be(content)]
        if may:
            del versions[may[-1] + 1 :]
        if len(versions) == 1:
            self.open.pop(place, None)
        return bool(may)

    def lose_marks(self) -> None:
        """A crash: those that were not flushed may be left or not."""
        for extent, marks in list(self.marks.items()):
            self.marks[extent] = left = [one for one in marks if one.turn <= self.flushed_turn]
            if not left:
                del self.marks[extent]

    def stable(self, token: int, sequence: int) -> None:
        """Clear what is declared stable, and what was overwritten by it."""
        for extent, marks in list(self.marks.items()):
            cleared = [
                at
                for at, one in enumerate(marks)
                if one.token == token and one.sequence <= sequence
            ]
            if cleared:
                del marks[: cleared[-1] + 1]
            if not marks:
                del self.marks[extent]


class ExtentLedger:
    """Of one device, by volume."""

    def __init__(self) -> None:
        self.volumes: dict[VolumeId, VolumeLedger] = {}
        self.boot = 0
        """At which the device was opened last."""
        self.power_lost = False
        """Whether the device has lost power since it was last compared."""
        self.rotten = False
        """Whether some of its bytes were changed on purpose: they may fail, but not lie."""

    def volume(self, volume: VolumeId) -> VolumeLedger:
        """What is known of a volume."""
        return self.volumes.setdefault(volume, VolumeLedger())

    def opened(self, boot: int) -> None:
        """The device begins to serve."""
        self.boot = boot
        for known in self.volumes.values():
            known.opened_turn = known.turn

    def forget_extents(self) -> None:
        """A fault took all extents and marks; tokens must still be known."""
        for known in self.volumes.values():
            known.empty(None)
            known.lost = True

    async def compare(self, extents: ExtentStore, accuse: Callable[[str], None]) -> None:
        """Accuse the device of what it has forgotten."""
        present = set(extents.volumes(b"", EVERYTHING))
        for volume, known in self.volumes.items():
            known.reads = 0
            known.past.clear()
            if known.dropping:
                known.empty(None)
                known.dropping = False
            if known.dropped:
                if volume in present:
                    accuse(f"volume {volume.hex()} was dropped and is back")
            elif known.token:
                try:
                    await self._compare(volume, known, extents, accuse)
                except Corrupt as error:
                    if not self.rotten:
                        accuse(f"volume {volume.hex()}: {error!r}")
        self.power_lost = False

    async def _compare(
        self,
        volume: VolumeId,
        known: VolumeLedger,
        extents: ExtentStore,
        accuse: Callable[[str], None],
    ) -> None:
        token = token_of(extents, volume, [known.token, *known.asked])
        if token is None:
            accuse(f"volume {volume.hex()}: token {known.token} is forgotten")
            return
        known.token, known.asked = token, []
        known.lose_marks()
        dirty = {mark.extent: mark for mark in dirty_marks(extents, volume, token)}
        for extent, marks in known.marks.items():
            expected, found = marks[-1], dirty.get(extent)
            if found is None or found.epoch < expected.epoch or not found.token >= expected.token:
                accuse(f"volume {volume.hex()}: {expected} was flushed, {found} is left")
                break
        if known.lost:
            return
        for run in runs_of(known.blocks):
            contents = await read_run(extents, volume, token, run)
            if len(contents) < len(run) and not self.rotten:
                accuse(f"volume {volume.hex()}: one of the blocks {run} has rotted by itself")
                return
            for place, content in contents.items():
                if not known.left(place, content, killed=not self.power_lost):
                    accuse(
                        f"volume {volume.hex()}: block {place} is nothing that was written there"
                    )
                    return


class Extents:
    """An `ExtentStore` that notes and compares."""

    def __init__(
        self,
        inner: ExtentStore,
        ledger: ExtentLedger,
        accuse: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._ledger = ledger
        self._accuse = accuse
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def claim(self, volume: VolumeId, token: Token) -> asyncio.Future[Claim]:
        """See `ExtentStore.claim`."""
        future = self._inner.claim(volume, token)
        known = self._ledger.volume(volume)
        if token < known.token:
            self._accuse(f"volume {volume.hex()}: took token {token} after {known.token}")
        known.asked.append(token)

        def done(future: asyncio.Future[Claim]) -> None:
            if future.cancelled() or future.exception() is not None:
                return
            if token > known.token:
                known.token = token
            known.asked = [other for other in known.asked if other > known.token]
            if future.result().lost and not known.lost and not self._ledger.rotten:
                self._accuse(f"volume {volume.hex()}: lost by itself")
            known.lost = future.result().lost
            self._tell("extents.claim done")

        self._tell("extents.claim")
        future.add_done_callback(done)
        return future

    def write(
        self,
        volume: VolumeId,
        token: Token,
        epoch: int,
        sequence: int,
        ops: Sequence[ExtentOp],
        payload: memoryview,
    ) -> asyncio.Future[None]:
        """See `ExtentStore.write`."""
        future = self._inner.write(volume, token, epoch, sequence, ops, payload)
        known = self._ledger.volume(volume)
        if token < known.token:
            self._accuse(f"volume {volume.hex()}: a write of token {token} after {known.token}")
        known.turn += 1
        known.dropped = False
        position = 0
        for op in ops:
            marks = known.marks.setdefault(op.extent, [])
            marks.append(_Mark(known.turn, token, epoch, sequence))
            taken = payload[position : position + op.length] if not op.kind else None
            position += op.length if not op.kind else 0
            for block, low, high, at in _pieces(op):
                place = op.extent, block
                piece = bytes(high - low) if taken is None else bytes(taken[at : at + high - low])
                known.write(place, piece, low)
        turn = known.turn

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is None:
                known.written_turn = max(known.written_turn, turn)
                self._tell("extents.write done")

        self._tell("extents.write")
        future.add_done_callback(done)
        return future

    def flush(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """See `ExtentStore.flush`."""
        future = self._inner.flush(volume, token)
        known = self._ledger.volume(volume)
        turn = known.turn

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is None:
                known.flushed(turn)
                self._tell("extents.flush done")

        self._tell("extents.flush")
        future.add_done_callback(done)
        return future

    def read(
        self,
        volume: VolumeId,
        token: Token,
        spans: Sequence[tuple[int, int, int]],
        **options: Any,
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """See `ExtentStore.read`."""
        known = self._ledger.volume(volume)
        if token < known.token:
            self._accuse(f"volume {volume.hex()}: a read of token {token} after {known.token}")
        asked, emptied = list(_asked(known, spans)), known.emptied
        found = self._inner.read(volume, token, spans, **options)
        if not isinstance(found, asyncio.Future):
            self._judge(volume, known, asked, found)
            return found

        def done(future: asyncio.Future[list[Buffer]]) -> None:
            failed = future.cancelled() or future.exception() is not None
            if not failed and known.emptied == emptied:
                self._judge(volume, known, asked, future.result())
            known.read_ended()

        known.reads += 1

        found.add_done_callback(done)
        return found

    def _judge(
        self,
        volume: VolumeId,
        known: VolumeLedger,
        asked: Sequence["_Asked"],
        found: Sequence[Buffer],
    ) -> None:
        """Each block must be as it was at the time of the call, or later."""
        content = b"".join(found)
        for place, low, high, start, then in asked:
            piece = content[start : start + high - low]
            may = (then, *known.seen_since(place, then.turn))
            if not any(one.may_be(piece, low, high) for one in may):
                extent, block = place
                self._accuse(
                    f"volume {volume.hex()}: extent {extent} block {block} was read as "
                    "it was not at that time"
                )
                return

    def stable(self, volume: VolumeId, token: Token, sequence: int) -> None:
        """See `ExtentStore.stable`."""
        self._inner.stable(volume, token, sequence)
        self._ledger.volume(volume).stable(token, sequence)
        self._tell("extents.stable")

    def restored(self, volume: VolumeId, token: Token) -> asyncio.Future[None]:
        """See `ExtentStore.restored`."""
        future = self._inner.restored(volume, token)
        known = self._ledger.volume(volume)

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is None:
                known.lost = False
                self._tell("extents.restored done")

        self._tell("extents.restored")
        future.add_done_callback(done)
        return future

    def drop(self, volume: VolumeId) -> asyncio.Future[None]:
        """See `ExtentStore.drop`."""
        future = self._inner.drop(volume)
        known = self._ledger.volume(volume)
        known.empty()
        known.dropping = True
        turn = known.turn

        def done(future: asyncio.Future[None]) -> None:
            if not future.cancelled() and future.exception() is None:
                known.dropping = False
                known.dropped = known.turn == turn
                self._tell("extents.drop done")

        self._tell("extents.drop")
        future.add_done_callback(done)
        return future


_Asked = tuple[Place, int, int, int, _Version]
"""A block, first byte and end in it, offset in what is read, and its newest version."""


def _asked(known: VolumeLedger, spans: Sequence[tuple[int, int, int]]) -> Iterator[_Asked]:
    """The blocks of a read that somebody was seen to write."""
    position = 0
    for extent, offset, length in spans:
        for block, low, high, at in _pieces(ExtentOp(0, extent, offset, length)):
            if (versions := known.blocks.get((extent, block))) is not None:
                yield (extent, block), low, high, position + at, versions[-1]
        position += length


def _pieces(op: ExtentOp) -> Iterator[tuple[int, int, int, int]]:
    """(block, first byte in it, end in it, offset in the op) of an op's blocks."""
    position, end = op.offset, op.offset + op.length
    while position < end:
        block, low = divmod(position, BLOCK_BYTES)
        high = min(BLOCK_BYTES, low + end - position)
        yield block, low, high, position - op.offset
        position += high - low
