"""What a device acknowledged of blobs: each is there, and whole, until it is deleted."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

import xxhash

from pinfold.device.api import BlobStore, BlobWriter
from pinfold.env.api import Buffer
from pinfold.model.errors import Corrupt, NotFound, PinfoldError
from pinfold.model.ids import BlobId
from pinfold.sim.audit.effects import Effects

_CHECKED: Final = 64 << 10
"""Bytes that one of a blob's sums stands for."""

_READ_AT_ONCE: Final = 8
"""Blobs read back after an opening: some of those that were put last."""

_EVERYTHING: Final = 1 << 30


class _Blob(NamedTuple):
    length: int
    checks: tuple[int, ...]


class BlobLedger:
    """Of one device."""

    def __init__(self) -> None:
        self.kept: dict[BlobId, _Blob] = {}
        """Acknowledged and not asked to be deleted since."""
        self.deleted: dict[BlobId, None] = {}
        """Deletions acknowledged."""
        self.placeless: dict[BlobId, None] = {}
        """The device was made to forget where these are: a deletion leaves their bytes there."""
        self.headless: dict[BlobId, None] = {}
        """Where the head of a record was changed on purpose: only the index knows the blob."""
        self.turns: dict[BlobId, int] = {}
        self.going: dict[BlobId, int] = {}
        """Puts under way: one that a deletion overtakes may come after it."""
        self.rotten = False
        """Whether some of its bytes were changed on purpose: they may fail, but not lie."""

    def turn(self, blob: BlobId) -> int:
        """It is put or deleted: what was asked for before is not the last word."""
        self.turns[blob] = turn = self.turns.get(blob, 0) + 1
        return turn

    def lose_place(self, blob: BlobId) -> None:
        """What the device says of a blob was changed: it sets the blob aside."""
        self.placeless[blob] = None
        self.kept.pop(blob, None)
        self.deleted.pop(blob, None)

    def lose_heads(self, blobs: Iterable[BlobId]) -> None:
        """The heads of these blobs' records were changed: an index made anew has them no more."""
        self.headless.update(dict.fromkeys(blobs))

    def rebuilt(self) -> None:
        """A new index was made from the packs: it has what is in them, and nothing else had kept
        deleted blobs without a place out of it. As no row names them, they are collected.
        """
        for blob in self.headless:
            self.kept.pop(blob, None)
        self.headless.clear()
        self.rotten = True  # of two records of a blob it may keep the torn one
        for blob in self.placeless:
            self.deleted.pop(blob, None)

    async def compare(self, blobs: BlobStore, accuse: Callable[[str], None]) -> None:
        """Accuse the device of what it has forgotten, or brought back."""
        self.going.clear()
        failed = {blob for blob, _ in blobs.scan_quarantined(b"", _EVERYTHING)}
        for blob, known in self.kept.items():
            state = blobs.state(blob)
            if blob in failed:
                if not self.rotten:
                    accuse(f"blob {blob.hex()} has rotted by itself")
            elif state is None:
                accuse(f"blob {blob.hex()} is gone")
            elif (state.length, tuple(state.checks)) != known:
                accuse(f"blob {blob.hex()} has become another: {state}")
        for blob in self.deleted:
            if blobs.state(blob) is not None:
                accuse(f"blob {blob.hex()} was deleted and is back")
        for blob, known in list(self.kept.items())[-_READ_AT_ONCE:]:
            if blob in failed or blobs.state(blob) is None:
                continue
            try:
                found = blobs.read(blob, 0, known.length)
                buffers = await found if isinstance(found, asyncio.Future) else found
            except PinfoldError as error:
                if not self.rotten and isinstance(error, NotFound | Corrupt):
                    accuse(f"blob {blob.hex()} cannot be read: {error!r}")
                continue
            self.judge(blob, 0, buffers, accuse)

    def judge(
        self, blob: BlobId, offset: int, buffers: Sequence[Buffer], accuse: Callable[[str], None]
    ) -> None:
        """Whether what was read is what was put, as far as the sums tell."""
        known = self.kept.get(blob)
        if known is None or offset:
            return
        content = b"".join(buffers)
        for number, check in enumerate(known.checks):
            piece = content[number * _CHECKED : (number + 1) * _CHECKED]
            whole = len(piece) == min(_CHECKED, known.length - number * _CHECKED)
            if whole and xxhash.xxh3_64_intdigest(piece) != check:
                accuse(f"blob {blob.hex()}: other bytes were read than put")


class Blobs:
    """A `BlobStore` that notes and compares."""

    def __init__(
        self,
        inner: BlobStore,
        ledger: BlobLedger,
        effects: Effects,
        accuse: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._inner = inner
        self._ledger = ledger
        self._effects = effects
        self._accuse = accuse
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put(self, blob: BlobId, payload: memoryview, checks: Sequence[int]) -> asyncio.Future[None]:
        """See `BlobStore.put`."""
        length = len(payload)
        future = self._inner.put(blob, payload, checks)
        return self._stored("blobs.put", blob, length, checks, future)

    def begin(self, blob: BlobId, length: int, checks: Sequence[int]) -> BlobWriter:
        """See `BlobStore.begin`."""
        return _Writer(self, self._inner.begin(blob, length, checks), blob, length, checks)

    def committed(
        self, blob: BlobId, length: int, checks: Sequence[int], future: asyncio.Future[None]
    ) -> asyncio.Future[None]:
        """A larger blob is being committed."""
        return self._stored("blobs.commit", blob, length, checks, future)

    def _stored(
        self,
        name: str,
        blob: BlobId,
        length: int,
        checks: Sequence[int],
        future: asyncio.Future[None],
    ) -> asyncio.Future[None]:
        turn = self._ledger.turn(blob)
        self._ledger.deleted.pop(blob, None)
        self._ledger.going[blob] = self._ledger.going.get(blob, 0) + 1

        def done(future: asyncio.Future[None]) -> None:
            self._ledger.going[blob] -= 1
            if future.cancelled() or future.exception() is not None:
                return
            if self._ledger.turns[blob] == turn:
                self._ledger.kept[blob] = _Blob(length, tuple(checks))
            self._tell(f"{name} done")

        self._tell(name)
        future.add_done_callback(done)
        return future

    def read(
        self, blob: BlobId, offset: int, length: int, **options: Any
    ) -> list[Buffer] | asyncio.Future[list[Buffer]]:
        """See `BlobStore.read`."""
        try:
            found = self._inner.read(blob, offset, length, **options)
        except PinfoldError as error:
            self._failed(blob, error)
            raise
        if not isinstance(found, asyncio.Future):
            self._ledger.judge(blob, offset, found, self._accuse)
            return found

        def done(future: asyncio.Future[list[Buffer]]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is None:
                self._ledger.judge(blob, offset, future.result(), self._accuse)
            else:
                self._failed(blob, error)

        found.add_done_callback(done)
        return found

    def _failed(self, blob: BlobId, error: BaseException) -> None:
        if self._ledger.rotten or blob not in self._ledger.kept:
            return
        if isinstance(error, NotFound | Corrupt):
            self._accuse(f"blob {blob.hex()} was acknowledged, and: {error!r}")

    def delete(self, blobs: Sequence[BlobId]) -> asyncio.Future[None]:
        """See `BlobStore.delete`."""
        future = self._inner.delete(blobs)
        self._effects.deleted(blobs)
        turns = {blob: self._ledger.turn(blob) for blob in blobs}
        for blob in blobs:
            self._ledger.kept.pop(blob, None)

        def done(future: asyncio.Future[None]) -> None:
            if future.cancelled() or future.exception() is not None:
                return
            for blob, turn in turns.items():
                if self._ledger.turns[blob] == turn and not self._ledger.going.get(blob):
                    self._ledger.deleted[blob] = None
            self._tell("blobs.delete done")

        self._tell("blobs.delete")
        future.add_done_callback(done)
        return future


class _Writer:
    """A `BlobWriter` that notes."""

    def __init__(
        self, owner: Blobs, inner: BlobWriter, blob: BlobId, length: int, checks: Sequence[int]
    ) -> None:
        self._owner = owner
        self._inner = inner
        self._blob = blob
        self._length = length
        self._checks = checks

    def write(self, chunk: Buffer) -> asyncio.Future[None]:
        """See `BlobWriter.write`."""
        return self._inner.write(chunk)

    def commit(self) -> asyncio.Future[None]:
        """See `BlobWriter.commit`."""
        future = self._inner.commit()
        return self._owner.committed(self._blob, self._length, self._checks, future)

    def abort(self) -> None:
        """See `BlobWriter.abort`."""
        self._inner.abort()
