"""What the logs of all groups came to, together: changes made or refused, blobs named or given up.

Each entry is told once, when the first device applies it. Judged at once: a change takes effect
once, before its caller is told so, and not after its caller was told otherwise; one clock that is
wrong does not date it; a blob that a row names, or may come to name, is given back by nobody, one
that was dropped not before its readers have had their time, and none is named again after that.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from pinfold.cluster.groups.entries import (
    FREES_RANGE,
    RESERVED,
    RESULTS_RANGE,
    VERSION_SHIFT,
    Write,
    decode_free,
    decode_results,
    decode_row,
)
from pinfold.cluster.groups.ledger import CLOCKS_AGREE_MS
from pinfold.model.ids import BlobId, GroupId
from pinfold.sim.audit.splits import Splits

_DRIFT: Final = 0.9
"""Clocks of nodes run by some hundredths more slowly or faster than the world's."""


class Effects:
    """Of all groups."""

    def __init__(
        self, accuse: Callable[[str], None], now: Callable[[], float], keep_s: float = 0.0
    ) -> None:
        self._accuse = accuse
        self._now = now
        self._keep_s = keep_s * _DRIFT
        """How long a blob is kept at least that was dropped."""
        self.time_of_day: Callable[[], float] | None = None
        """What most clocks show, in Unix seconds; None: that is not looked at."""
        self.unjudged = False
        """An operator has forced members: what was committed may be lost."""
        self._splits = Splits(self._say)
        self._made: dict[bytes, int] = {}
        """By op id, the version of a change made."""
        self._refused: dict[bytes, str] = {}
        """By op id, who said that the change is not made."""
        self._attempts: dict[bytes, int] = {}
        """By op id, the attempts at a change that were taken by a primary."""
        self._refused_for_good: set[bytes] = set()
        """Of these, what an entry said it of."""
        self._rows: dict[tuple[GroupId, bytes], frozenset[bytes]] = {}
        """The blobs that a row names."""
        self._names: dict[bytes, int] = {}
        """How many rows name a blob."""
        self._perhaps_named: set[bytes] = set()
        """Blobs of changes of which nobody knows what became."""
        self._dropped: dict[bytes, float] = {}
        """By blob, when the last row that named it let it go."""
        self._gone: dict[bytes, None] = {}
        """Blobs that some device was asked to forget."""

    def applied(self, group: GroupId, writes: Sequence[Write]) -> None:
        """The next entry of a group."""
        named: list[tuple[tuple[GroupId, bytes], frozenset[bytes]]] = []
        for key, value in writes:
            if key[:1] != RESERVED:
                blobs = self._note_row(key, value)
                if blobs or (group, key) in self._rows:
                    named.append(((group, key), blobs))
            elif value is not None and RESULTS_RANGE[0] <= key < RESULTS_RANGE[1]:
                self._note_results(key, value)
            elif value is not None and FREES_RANGE[0] <= key < FREES_RANGE[1]:
                self._dropped.update((blob.id, self._now()) for blob in decode_free(value))
        for row, blobs in named:
            self._note_names(row, blobs)

    def _note_row(self, key: bytes, value: bytes | None) -> frozenset[bytes]:
        """The blobs that it names."""
        if value is None:
            self._splits.deleted(key)
            return frozenset()
        row = decode_row(value)
        self._splits.wrote(key, row)
        return frozenset(blob.id for blob in row.blobs)

    def _note_results(self, key: bytes, value: bytes) -> None:
        results = decode_results(value)
        ahead_s = results.stamp_ms / 1000 - self.time_of_day() if self.time_of_day else 0.0
        if ahead_s > CLOCKS_AGREE_MS / 1000:
            self._say(f"an entry is stamped {ahead_s:.0f} s ahead of most clocks")
        op = int.from_bytes(key[-8:], "big")
        for place, op_id in enumerate(results.op_ids()):
            if op_id in results.refused:
                self._refused_for_good.add(op_id)
                self._refuse(op_id, "an entry")
                continue
            if op_id in self._made:
                self._say(f"change {op_id.hex()} is made twice")
            elif op_id in self._refused:
                self._say(f"change {op_id.hex()} is made, which {self._refused[op_id]} had refused")
            self._made[op_id] = (op << VERSION_SHIFT) + place

    def answered(self, op_id: bytes, version: int) -> None:
        """Somebody was told that a change is made."""
        if self._made.get(op_id) != version:
            self._say(f"change {op_id.hex()} was answered, and no committed entry makes it")

    def refused(self, op_id: bytes) -> None:
        """Somebody was told that a change is not made, and never will be."""
        self._refuse(op_id, "an answer")

    def attempted(self, op_id: bytes) -> bool:
        """A primary is asked for a change. True if one was before: its answer has not been heard,
        or nothing would be asked again; but one that did not take the change does not count.
        """
        attempts = self._attempts[op_id] = self._attempts.get(op_id, 0) + 1
        return attempts > 1

    def not_taken(self, op_id: bytes) -> None:
        """The answer to an attempt: that the change is not looked at, here or now."""
        self._attempts[op_id] -= 1

    def refused_again(self, op_id: bytes) -> None:
        """A primary refused a change that had been sent before.

        The first attempt may still be on its way, in a socket or in a queue: an entry has to say
        that it is not made, or it may come to happen.
        """
        if op_id not in self._refused_for_good:
            self._say(f"change {op_id.hex()} was sent before, and no entry refuses it")

    def _refuse(self, op_id: bytes, who: str) -> None:
        if op_id in self._made:
            self._say(f"change {op_id.hex()} was made, and then {who} refused it")
        self._refused.setdefault(op_id, who)

    def _note_names(self, row: tuple[GroupId, bytes], blobs: frozenset[bytes]) -> None:
        before = self._rows.pop(row, frozenset())
        for blob in blobs - before:
            self._names[blob] = self._names.get(blob, 0) + 1
            if blob in self._gone:
                self._say(f"row {row[1]!r} names blob {blob.hex()}, which was given back")
            elif blob in self._dropped:
                self._say(f"row {row[1]!r} names blob {blob.hex()}, which was dropped")
        for blob in before - blobs:
            self._names[blob] -= 1
        if blobs:
            self._rows[row] = blobs

    def unknown(self, blobs: Iterable[bytes]) -> None:
        """Nobody knows what became of a change that names these."""
        self._perhaps_named.update(blobs)

    def discarded(self, blobs: Iterable[bytes]) -> None:
        """Somebody gives these back; a group does, of those that its rows have dropped."""
        for blob in blobs:
            if blob in self._perhaps_named and blob not in self._dropped:
                self._say(f"blob {blob.hex()} is discarded, and a row may name it")

    def deleted(self, blobs: Iterable[BlobId]) -> None:
        """A device was asked to forget these."""
        for blob in blobs:
            if self._names.get(blob):
                self._say(f"blob {blob.hex()} is given back, and a row names it")
            dropped_at = self._dropped.get(blob)
            if dropped_at is not None and self._now() < dropped_at + self._keep_s:
                kept_s = self._now() - dropped_at
                self._say(f"blob {blob.hex()} is given back {kept_s:.3f} s after it was dropped")
            self._gone[blob] = None

    def _say(self, what: str) -> None:
        if not self.unjudged:
            self._accuse(what)
