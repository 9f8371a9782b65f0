import asyncio
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest

from pinfold.codec.digests import bucket_of
from pinfold.codec.records import Record
from pinfold.device import kinds
from pinfold.device.api import Entry, LogState, Part
from pinfold.device.device import Device
from pinfold.device.group import decode_group, encode_entries
from pinfold.device.logredo import LogRedo
from pinfold.env.api import Buffer
from pinfold.model.errors import Busy, Invalid, NotFound
from pinfold.model.ids import GroupId
from tests.device.worlds import PATH, SETTINGS, lives

G, H = GroupId(7), GroupId(8)


def entries(first: int, count: int, *, view: int = 1, size: int = 10) -> list[Entry]:
    return [Entry(op, view, b"%d/%d" % (view, op) * size) for op in range(first, first + count)]


def test_a_log_is_appended_truncated_applied_and_trimmed() -> None:
    async def first(device: Device) -> None:
        log = device.log
        with pytest.raises(NotFound):
            log.state(G)
        await log.create(G)
        await log.create(G)
        assert log.groups() == [G]
        assert log.tail(G, 1, 100) == []
        await log.append(G, entries(1, 5))
        log.apply(G, 1, [(b"a", b"1"), (b"b", b"1")])
        log.apply(G, 2, [(b"a", None)])
        await log.append(G, entries(4, 1, view=3))
        await log.set_view(G, 6, b"ballot")
        check(device)

    def check(device: Device) -> None:
        log = device.log
        assert [entry.view for entry in log.tail(G, 3, 1000)] == [1, 3]
        assert len(log.tail(G, 3, 1)) == 1
        assert log.tail(G, 5, 1000) == []
        state = log.state(G)
        assert (state.view, state.voted, state.last_op, state.last_view) == (6, b"ballot", 4, 3)
        assert (log.view_at(G, 4), log.view_at(G, 5)) == (3, None)

    async def second(device: Device) -> None:
        check(device)
        state = device.log.state(G)
        for op in range(state.applied_op + 1, 3):
            device.log.apply(G, op, [(b"a", b"1"), (b"b", b"1")] if op == 1 else [(b"a", None)])
        assert list(device.rows.scan(G, b"", None)) == [(b"b", b"1")]
        device.log.trim(G, 2)
        with pytest.raises(NotFound):
            device.log.tail(G, 1, 1000)
        assert device.log.view_at(G, 2) == 1

    lives(first, second, crash=True)
    lives(first, second)


def test_programmers_errors_are_caught() -> None:
    async def life(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 2))
        device.log.apply(G, 1, [])
        with pytest.raises(AssertionError):
            device.log.append(G, entries(4, 1))
        with pytest.raises(AssertionError):
            device.log.append(G, entries(1, 1))
        with pytest.raises(AssertionError):
            device.log.apply(G, 3, [])
        with pytest.raises(Invalid):
            device.log.append(G, [Entry(3, 1, bytes(SETTINGS.segment_bytes))])
        assert device.log.state(G).last_op == 2

    lives(life)


def test_a_group_that_stands_still_does_not_pin_the_journal() -> None:
    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.create(H)
        await device.log.append(G, entries(1, 3))
        for op in range(1, 200):
            await device.log.append(H, entries(op, 1, size=5000))
            device.log.apply(H, op, [(b"row", b"%d" % op)])
        await asyncio.sleep(1)
        segments = device._env.disk.list(f"{PATH}/journal")  # the journal's size on disk
        bound = SETTINGS.journal_retain_bytes // SETTINGS.segment_bytes
        assert len(segments) <= bound + 4

    async def second(device: Device) -> None:
        assert device.log.tail(G, 1, 1 << 20) == entries(1, 3)
        assert device.rows.get(H, b"row") == b"199"
        with pytest.raises(NotFound):
            device.log.tail(H, 1, 1)

    lives(first, second, crash=True)


async def append_many(device: Device) -> None:
    for op in range(1, 100):
        await device.log.append(G, entries(op, 1, size=4000))


def test_unapplied_entries_are_bounded() -> None:
    async def life(device: Device) -> None:
        await device.log.create(G)
        with pytest.raises(Busy):
            await append_many(device)
        assert device.log.state(G).first_op == 1

    lives(life)


def apply_all(device: Device) -> None:
    state = device.log.state(G)
    for op in range(state.applied_op + 1, state.last_op + 1):
        device.log.apply(G, op, [])


def test_a_full_tail_takes_more_once_it_was_applied() -> None:
    async def life(device: Device) -> None:
        await device.log.create(G)
        with pytest.raises(Busy):
            await append_many(device)
        apply_all(device)
        await device.log.append(G, entries(device.log.state(G).last_op + 1, 1))

    lives(life)


def test_a_full_tail_found_at_opening_is_not_in_the_way_of_what_applies_it() -> None:
    """After a power cut it may be as full on all members: none could take the next primary's."""
    limit = 2 * SETTINGS.log_tail_bytes
    body = bytes(4000)

    def not_applied(device: Device) -> int:
        first = device.log.state(G).applied_op + 1
        return sum(len(entry.body) for entry in device.log.tail(G, first, limit * 10))

    async def append_more(device: Device) -> None:
        first = device.log.state(G).last_op + 1
        for op in range(first, first + 1000):
            await device.log.append(G, [Entry(op, 1, body)])

    async def fill(device: Device) -> None:
        with pytest.raises(Busy):
            await append_more(device)

    async def first(device: Device) -> None:
        await device.log.create(G)
        await fill(device)
        assert limit < not_applied(device) <= limit + len(body)

    async def second(device: Device) -> None:
        await fill(device)
        assert 2 * limit < not_applied(device) <= 2 * (limit + len(body))
        apply_all(device)
        await fill(device)
        assert limit < not_applied(device) <= limit + len(body)

    lives(first, second, crash=True)


ROWS = [(b"row-%04d" % number, b"new") for number in range(300)]


def test_an_installed_copy_replaces_the_group_whole() -> None:
    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 4))
        device.log.apply(G, 1, [(b"old", b"1")])
        await device.log.set_view(G, 5, b"me")
        for start in range(0, 300, 100):
            page = ROWS[start : start + 100]
            await device.log.install(G, 90, 4, page, first=start == 0, last=start == 200)
        await device.log.append(G, entries(91, 2, view=5))
        check(device)

    def check(device: Device) -> None:
        state = device.log.state(G)
        assert (state.view, state.voted, state.applied_op, state.applied_view) == (5, b"me", 90, 4)
        assert (state.first_op, state.last_op) == (91, 92)
        assert device.log.view_at(G, 90) == 4
        assert list(device.rows.scan(G, b"", None)) == ROWS

    async def second(device: Device) -> None:
        check(device)
        await asyncio.sleep(1)
        assert not device._log.purging  # the old life's rows are gone from the index too

    lives(first, second, second, crash=True)


def test_a_digest_is_as_durable_as_the_rows_it_stands_for() -> None:
    """However much of what was applied a crash takes back: equal ops give equal digests."""
    told = {}

    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 40))
        told[0] = device.log.digest(G)
        for op in range(1, 41):
            device.log.apply(G, op, [(b"k%d" % (op % 7), None if op % 5 else b"%d" % op)])
            told[op] = device.log.digest(G)
            if op == 20:
                await asyncio.sleep(1)  # so much is in the index

    async def second(device: Device) -> None:
        op = device.log.state(G).applied_op
        assert op >= 20
        assert device.log.digest(G) == told[op]
        for later in range(op + 1, 41):
            device.log.apply(
                G, later, [(b"k%d" % (later % 7), None if later % 5 else b"%d" % later)]
            )
        assert device.log.digest(G) == told[40]

    lives(first, second, second, crash=True)
    assert len(set(told.values())) == 41


def test_a_copy_brings_the_digest_of_the_rows_it_replaces() -> None:
    digest = bytes(range(256)) * 8

    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 1))
        device.log.apply(G, 1, [(b"old", b"1")])
        await device.log.install(G, 90, 4, ROWS, first=True, last=True, digest=digest)
        assert device.log.digest(G) == digest

    async def second(device: Device) -> None:
        assert device.log.digest(G) == digest

    lives(first, second, crash=True)


def test_a_copy_of_some_buckets_replaces_their_rows_and_no_others() -> None:
    keys = [b"row-%03d" % number for number in range(200)]
    hot = sorted({bucket_of(G, key) for key in keys})[:40]
    buckets = sum(1 << bucket for bucket in hot).to_bytes(32, "big")
    within = [key for key in keys if bucket_of(G, key) in hot]
    kept = [(key, b"old") for key in keys if key not in within]
    copied = [(key, b"new") for key in within[::2]]  # the others are gone at the source
    middle = copied[len(copied) // 2][0]
    expected = sorted([*kept, *copied])
    digest = bytes(range(256)) * 8

    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 2))
        device.log.apply(G, 1, [(key, b"old") for key in keys])
        await asyncio.sleep(1)
        device.log.apply(G, 2, [(within[1], b"stale")])  # not in the index yet
        one, other = Part(b"", middle, buckets), Part(middle, b"", buckets)
        page = [row for row in copied if row[0] < middle]
        await device.log.install(G, 90, 4, page, first=True, last=False, part=one)
        page = [row for row in copied if row[0] >= middle]
        await device.log.install(G, 90, 4, page, first=False, last=True, digest=digest, part=other)
        await device.log.append(G, entries(91, 1, view=5))
        check(device)

    def check(device: Device) -> None:
        assert list(device.rows.scan(G, b"", None)) == expected
        assert (device.log.state(G).applied_op, device.log.state(G).last_op) == (90, 91)
        assert device.log.digest(G) == digest

    async def second(device: Device) -> None:
        check(device)

    async def third(device: Device) -> None:
        check(device)
        await device.log.install(G, 95, 4, ROWS, first=True, last=True)
        await asyncio.sleep(1)
        assert list(device.rows.scan(G, b"", None)) == ROWS

    async def last(device: Device) -> None:
        assert list(device.rows.scan(G, b"", None)) == ROWS

    lives(first, second, third, last, crash=True)


@pytest.mark.parametrize("settled", [False, True])
def test_an_interrupted_copy_of_some_buckets_leaves_an_empty_group(settled: bool) -> None:
    """What it kept and what it got are of two instants: neither may be taken for the group."""
    part = Part(b"", b"m", b"\x55" * 32)

    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 1))
        device.log.apply(G, 1, [(b"old%d" % n, b"1") for n in range(50)])
        await asyncio.sleep(1)
        done = device.log.install(G, 90, 4, [(b"k", b"v")], first=True, last=False, part=part)
        if settled:
            await done
        else:
            await device.log.set_view(G, 9)  # its record is durable, the index knows nothing

    async def second(device: Device) -> None:
        assert list(device.rows.scan(G, b"", None)) == []
        assert (device.log.state(G).last_op, device.log.state(G).applied_op) == (0, 0)
        assert device.log.digest(G) == bytes(2048)

    lives(first, second, second, crash=True)


def test_a_group_stored_by_an_earlier_version_is_read_and_its_digest_is_unknown() -> None:
    record = msgpack.packb((1, 9, b"voted", 3, 77, False, 12, 8))
    group = decode_group(G, record)
    assert group.state() == LogState(9, b"voted", 13, 12, 8, 12, 8)
    assert (group.generation, group.base, group.digest) == (3, 77, None)
    assert decode_group(G, group.encode()).digest is None
    fresh = decode_group(G, msgpack.packb((1, 9, b"voted", 3, 77, False, 0, 0)))
    assert fresh.digest is not None  # nothing was applied: what there is to know is known


def test_an_interrupted_copy_leaves_an_empty_group() -> None:
    async def first(device: Device) -> None:
        await device.log.create(G)
        await device.log.append(G, entries(1, 4))
        device.log.apply(G, 1, [(b"old", b"1")])
        await device.log.set_view(G, 5, b"me")
        await device.log.install(G, 90, 4, ROWS, first=True, last=False)

    async def second(device: Device) -> None:
        state = device.log.state(G)
        assert (state.view, state.voted, state.last_op, state.applied_op) == (5, b"me", 0, 0)
        assert list(device.rows.scan(G, b"", None)) == []
        await device.log.append(G, entries(1, 1, view=5))
        device.log.apply(G, 1, [(b"x", b"y")])

    async def third(device: Device) -> None:
        assert device.log.state(G).last_op == 1

    lives(first, second, third, crash=True)


def test_trimmed_entries_leave_nothing_in_memory() -> None:
    async def life(device: Device) -> None:
        await device.log.create(G)
        await device.log.create(H)
        await device.log.append(G, entries(1, 1))  # stands still in front of all others
        for first in range(1, 20_000, 100):
            await device.log.append(H, entries(first, 100, size=1))
            for op in range(first, first + 100):
                device.log.apply(H, op, [])
            device.log.trim(H, first + 100)
        assert len(device.log._order) < 3000

    lives(life)


class Visited(dict[int, tuple[Entry, int]]):
    """A dictionary that counts how many of its keys are looked at."""

    looked_at = 0

    def __iter__(self) -> Iterator[int]:
        for key in super().__iter__():
            self.looked_at += 1
            yield key

    def pop(self, *arguments: Any) -> Any:
        """See `dict.pop`."""
        self.looked_at += 1
        return super().pop(*arguments)


def test_redo_of_an_append_looks_at_what_it_replaces_and_at_nothing_else() -> None:
    redo, count = LogRedo({}), 500
    buffers, _ = encode_entries(G, entries(1, 1))
    redo.redo(record_of(kinds.LOG_APPEND, 1, buffers))
    found = redo._found[G]
    found.entries = visited = Visited(found.entries)
    for op in range(2, count + 1):
        buffers, _ = encode_entries(G, entries(op, 1))
        redo.redo(record_of(kinds.LOG_APPEND, op, buffers))
    assert visited.looked_at == 0
    buffers, _ = encode_entries(G, entries(count - 2, 1, view=2))
    redo.redo(record_of(kinds.LOG_APPEND, count + 1, buffers))
    assert visited.looked_at == 3
    assert redo.finish()[G].last_op == count - 2


def test_redo_takes_what_the_last_append_left() -> None:
    """Appends replace everything from their first op on; carried entries replace nothing."""
    appended = [(1, 3, 1), (3, 2, 2), (2, 1, 3), (3, 4, 3)]
    redo, sequence = LogRedo({}), 0
    for first, count, view in appended:
        sequence += 1
        buffers, _ = encode_entries(G, entries(first, count, view=view))
        redo.redo(record_of(kinds.LOG_APPEND, sequence, buffers))
    buffers, _ = encode_entries(G, entries(2, 1, view=3))
    redo.redo(record_of(kinds.LOG_CARRY, sequence + 1, buffers))
    found = redo.finish()[G]
    views = [found.entries[op][0].view for op in range(found.first_op, found.last_op + 1)]
    assert views == [1, 3, 3, 3, 3, 3]


def record_of(kind: int, sequence: int, buffers: list[Buffer]) -> Record:
    return Record(kind, sequence, 1, memoryview(b"".join(map(bytes, buffers))))
