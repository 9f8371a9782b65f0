"""The auditor: what a device acknowledged before a crash, it shows afterwards, or it is accused."""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import cast

import xxhash

from pinfold.cluster.groups.entries import dropped_key
from pinfold.device.api import BlobStore, Device, Entry, ExtentOp
from pinfold.device.device import Device as OpenDevice
from pinfold.env.api import Env
from pinfold.model.ids import BlobId, GroupId, Token, VolumeId
from pinfold.model.settings import DeviceSettings
from pinfold.objects.keys import object_key, part_key
from pinfold.sim.account import Account
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.audit.blobs import BlobLedger, _Blob
from pinfold.sim.audit.dropped import forgotten
from pinfold.sim.audit.rows import RowLedger
from pinfold.sim.events import Event, Events
from pinfold.sim.world import World

CLUSTER, GROUP, BLOB, VOLUME = b"c" * 16, GroupId(3), BlobId(b"b" * 16), VolumeId(b"v" * 16)
SETTINGS = DeviceSettings(index_engine="ordered", segment_bytes=320 << 10)
BLOCK = 4096


class Bench:
    """One device, opened through an auditor as often as needed."""

    def __init__(self, world: World) -> None:
        self.node = world.node("n")
        self.account = Account(lambda: world.loop.now)
        self.events = Events()
        self.auditor = Auditor(self.account, self.events)
        self.uuid = b""

    async def format(self) -> None:
        async def make(env: Env) -> None:
            self.uuid = await OpenDevice.format(env, "/d", CLUSTER, SETTINGS)

        await self.node.start(make)
        self.node.crash()

    async def life(self, work: Callable[[Device], Awaitable[None]], *, power: bool = True) -> None:
        async def live(env: Env) -> None:
            await work(await self.auditor.open("n", env, "/d", SETTINGS, cluster_id=CLUSTER))

        await self.node.start(live)
        self.auditor.of(self.uuid).extents.power_lost |= power
        self.node.crash(power=power)

    @property
    def accused(self) -> str:
        return "\n".join(str(violation) for violation in self.account.violations)


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def run(bench: Bench) -> None:
        await bench.format()
        await story(bench)

    with World(7) as world:
        world.run(run(Bench(world)))


async def begin(device: Device) -> None:
    await device.log.create(GROUP)
    await device.extents.claim(VOLUME, Token(4))


async def promise(device: Device) -> None:
    payload = b"blob" * 100
    done = [
        device.log.append(GROUP, [Entry(1, 5, b"first"), Entry(2, 5, b"second")]),
        device.blobs.put(BLOB, memoryview(payload), [xxhash.xxh3_64_intdigest(payload)]),
        device.extents.claim(VOLUME, Token(9)),
    ]
    for future in done:
        await future
    await device.log.set_view(GROUP, 7, b"vote")
    op = ExtentOp(0, 2, BLOCK, BLOCK)
    await device.extents.write(VOLUME, Token(9), 1, 1, [op], memoryview(b"x" * BLOCK))
    await device.extents.flush(VOLUME, Token(9))


async def rest(_device: Device) -> None:
    await asyncio.sleep(0)


def test_a_device_that_keeps_its_word_is_not_accused() -> None:
    async def story(bench: Bench) -> None:
        await bench.life(begin)
        await bench.life(promise)
        await bench.life(rest, power=False)
        await bench.life(rest)
        assert not bench.account.violations

    play(story)


def test_a_device_that_is_as_it_was_earlier_is_accused_of_all_it_forgot() -> None:
    async def story(bench: Bench) -> None:
        await bench.life(begin)
        earlier = copy.deepcopy(bench.node.disk.pull("/d"))
        bench.node.disk.plug("/d", copy.deepcopy(earlier))
        await bench.life(promise)
        bench.node.disk.plug("/d", earlier)
        await bench.life(rest)
        for what in ("view 7 was acknowledged", "op 1 of view 5", BLOB.hex(), "token 9"):
            assert what in bench.accused

    play(story)


def test_marks_and_bytes_are_compared_where_the_token_is_known() -> None:
    async def story(bench: Bench) -> None:
        async def claim(device: Device) -> None:
            await device.extents.claim(VOLUME, Token(9))

        await bench.life(claim)
        earlier = copy.deepcopy(bench.node.disk.pull("/d"))
        bench.node.disk.plug("/d", copy.deepcopy(earlier))

        async def write(device: Device) -> None:
            op = ExtentOp(0, 0, 0, BLOCK)
            await device.extents.write(VOLUME, Token(9), 3, 1, [op], memoryview(b"y" * BLOCK))
            await device.extents.flush(VOLUME, Token(9))

        await bench.life(write)
        bench.node.disk.plug("/d", earlier)
        await bench.life(rest)
        assert "was flushed, None is left" in bench.accused
        assert "nothing that was written there" in bench.accused

    play(story)


def test_a_write_that_was_answered_survives_a_kill_but_not_a_power_cut() -> None:
    async def story(bench: Bench) -> None:
        await bench.life(begin)

        async def write(device: Device) -> None:
            op = ExtentOp(0, 0, 0, BLOCK)
            await device.extents.write(VOLUME, Token(4), 1, 1, [op], memoryview(b"z" * BLOCK))

        kept = copy.deepcopy(bench.node.disk.pull("/d"))
        bench.node.disk.plug("/d", copy.deepcopy(kept))
        await bench.life(write)
        bench.node.disk.plug("/d", copy.deepcopy(kept))
        await bench.life(rest)
        assert not bench.account.violations, "power was lost"
        await bench.life(write, power=False)
        bench.node.disk.plug("/d", kept)
        await bench.life(rest)
        assert "nothing that was written there" in bench.accused

    play(story)


def test_a_log_that_shows_again_what_was_replaced_is_accused() -> None:
    async def story(bench: Bench) -> None:
        async def replace(device: Device) -> None:
            await device.log.create(GROUP)
            await device.log.append(GROUP, [Entry(1, 1, b"first"), Entry(2, 1, b"second")])
            await device.log.append(GROUP, [Entry(1, 2, b"other")])

        await bench.life(replace)
        await bench.life(rest)
        assert not bench.account.violations
        known = bench.auditor.of(bench.uuid).log.group(GROUP)
        known.replaced[1] = [known.shown.pop(1)]
        await bench.life(rest)
        assert "op 1 of view 2 was replaced and is back" in bench.accused

    play(story)


def test_a_log_that_gives_up_what_it_has_not_applied_is_accused_at_once() -> None:
    async def story(bench: Bench) -> None:
        async def forget(device: Device) -> None:
            await device.log.create(GROUP)
            await device.log.append(GROUP, [Entry(1, 1, b"first"), Entry(2, 1, b"second")])
            assert not bench.account.violations
            device.log._inner.group(GROUP).first_op = 2  # type: ignore[attr-defined]
            await device.log.append(GROUP, [Entry(3, 1, b"third")])
            assert "applied 0, its log begins at 2" in bench.accused

        await bench.life(forget)

    play(story)


def test_a_log_that_stands_beside_the_rows_of_a_copy_is_accused() -> None:
    async def story(bench: Bench) -> None:
        async def apply(device: Device) -> None:
            await device.log.create(GROUP)
            await device.log.append(GROUP, [Entry(1, 1, b"first")])
            device.log.apply(GROUP, 1, [])
            await asyncio.sleep(2)

        await bench.life(apply)
        bench.auditor.of(bench.uuid).log.group(GROUP).copying = 9
        await bench.life(rest)
        assert "applied 1, though a copy had replaced its rows" in bench.accused

    play(story)


def test_a_drop_that_a_crash_overtakes_may_have_had_no_effect() -> None:
    async def story(bench: Bench) -> None:
        async def write(device: Device, content: bytes, *, flush: bool) -> None:
            op = ExtentOp(0, 0, 0, BLOCK)
            await device.extents.write(VOLUME, Token(4), 1, 1, [op], memoryview(content * BLOCK))
            if flush:
                await device.extents.flush(VOLUME, Token(4))

        async def drop(device: Device) -> None:
            device.extents.drop(VOLUME)

        await bench.life(begin)
        await bench.life(lambda device: write(device, b"x", flush=True))
        kept = copy.deepcopy(bench.node.disk.pull("/d"))
        for life in (drop, lambda device: write(device, b"y", flush=False), rest):
            bench.node.disk.plug("/d", copy.deepcopy(kept))
            await bench.life(life)
        assert not bench.account.violations

    play(story)


def test_a_slow_read_may_show_what_was_overwritten_and_flushed_meanwhile() -> None:
    async def story(bench: Bench) -> None:
        async def write(device: Device) -> None:
            extents, op = device.extents, ExtentOp(0, 0, 0, BLOCK)
            await extents.claim(VOLUME, Token(4))
            await extents.write(VOLUME, Token(4), 1, 1, [op], memoryview(b"x" * BLOCK))
            await extents.flush(VOLUME, Token(4))
            await asyncio.sleep(2)
            bench.node.disk.faults.cached_chance = 0.0
            reading = extents.read(VOLUME, Token(4), [(0, 0, BLOCK)])
            assert isinstance(reading, asyncio.Future)
            await extents.write(VOLUME, Token(4), 1, 2, [op], memoryview(b"y" * BLOCK))
            inner = bench.auditor.of(bench.uuid).extents.volume(VOLUME)
            inner.flushed(inner.turn)
            assert b"".join(await reading) == b"x" * BLOCK

        await bench.life(write)
        assert not bench.account.violations

    play(story)


def test_whoever_waits_for_the_nth_event_is_told_of_it() -> None:
    async def run() -> None:
        events = Events()
        waiting = asyncio.create_task(events.wait(lambda event: event.name == "flush", nth=2))
        await asyncio.sleep(0)
        for name, node in (("flush", "a"), ("append", "b"), ("flush", "c"), ("flush", "d")):
            events.tell(name, node)
        assert await waiting == Event("flush", "c")

    asyncio.run(run())


def test_a_copy_that_another_replaced_before_it_was_durable_promised_nothing() -> None:
    """Both become durable in one transaction: the last page of the one, the first of the other."""

    async def copies(device: Device) -> None:
        await begin(device)
        rows = [(b"k", b"v")]
        await device.log.install(GROUP, 5, 1, rows, first=True, last=False)
        done = device.log.install(GROUP, 5, 1, rows, first=False, last=True)
        begun = device.log.install(GROUP, 9, 1, rows, first=True, last=False)
        await asyncio.gather(done, begun)

    async def story(bench: Bench) -> None:
        await bench.life(copies)
        await bench.life(rest)
        assert not bench.accused

    play(story)


def test_a_deleted_blob_whose_place_was_lost_may_be_back_in_a_rebuilt_index_alone() -> None:
    accused: list[str] = []

    class Back:
        def scan_quarantined(self, _after: bytes, _limit: int) -> list[tuple[BlobId, int]]:
            return []

        def state(self, blob: BlobId) -> BlobId:
            return blob

    ledger = BlobLedger()
    other = BlobId(b"o" * 16)
    ledger.lose_place(BLOB)
    ledger.deleted = {BLOB: None, other: None}
    store = cast(BlobStore, Back())
    asyncio.run(ledger.compare(store, accused.append))
    assert len(accused) == 2, "the index that set it aside has it"
    accused.clear()
    ledger.rebuilt()
    asyncio.run(ledger.compare(store, accused.append))
    assert accused == [f"blob {other.hex()} was deleted and is back"]


def test_a_blob_whose_record_has_no_head_is_missing_in_a_rebuilt_index_alone() -> None:
    accused: list[str] = []

    class Gone:
        def scan_quarantined(self, _after: bytes, _limit: int) -> list[tuple[BlobId, int]]:
            return []

        def state(self, _blob: BlobId) -> None:
            return None

    ledger = BlobLedger()
    other = BlobId(b"o" * 16)
    ledger.kept = {BLOB: _Blob(1, (1,)), other: _Blob(1, (1,))}
    ledger.lose_heads([BLOB])
    store = cast(BlobStore, Gone())
    asyncio.run(ledger.compare(store, accused.append))
    assert len(accused) == 2, "the index that was there knows it"
    accused.clear()
    ledger.rebuilt()
    asyncio.run(ledger.compare(store, accused.append))
    assert accused == [f"blob {other.hex()} is gone"]


FIRST, SECOND = b"1" * 16, b"2" * 16
"""Shards."""


def row(shard: bytes, name: bytes = b"n") -> bytes:
    return object_key(shard, name)


def test_a_blob_whose_last_name_went_without_a_word_is_told_of() -> None:
    named = RowLedger()
    named.wrote(GROUP, 1, [(row(FIRST), b"names " + BLOB)])
    assert not forgotten([named], {BLOB}), "it is named still"
    unseen = copy.deepcopy(named)
    named.wrote(GROUP, 2, [(row(FIRST), b"names another")])
    assert len(forgotten([named], {BLOB})) == 1
    assert not forgotten([named], {BlobId(b"x" * 16)}), "nobody ever named it"
    assert not forgotten([named, unseen], {BLOB}), "some member has not heard of its end"


def test_a_blob_that_was_dropped_or_moved_is_not_forgotten() -> None:
    dropped = RowLedger()
    dropped.wrote(GROUP, 1, [(row(FIRST), b"names " + BLOB)])
    dropped.wrote(GROUP, 2, [(row(FIRST), None), (dropped_key(BLOB), b"")])
    dropped.wrote(GROUP, 3, [(dropped_key(BLOB), None)])
    assert not forgotten([dropped], {BLOB})
    moved = RowLedger()
    moved.wrote(GROUP, 1, [(row(FIRST), b"names " + BLOB)])
    moved.wrote(GROUP, 2, [(row(SECOND), b"names " + BLOB)])
    moved.wrote(GROUP, 3, [(row(FIRST), None)])
    assert not forgotten([moved], {BLOB})
    moved.wrote(GROUP, 4, [(row(SECOND), None)])
    assert not forgotten([moved], {BLOB}), "who saw its name move may not have seen it dropped"


def test_a_part_that_became_an_object_keeps_its_blob() -> None:
    completed = RowLedger()
    completed.wrote(GROUP, 1, [(part_key(FIRST, b"n", b"u" * 16, 1), b"names " + BLOB)])
    completed.wrote(
        GROUP, 2, [(part_key(FIRST, b"n", b"u" * 16, 1), None), (row(FIRST), b"names " + BLOB)]
    )
    assert not forgotten([completed], {BLOB})
    completed.wrote(GROUP, 3, [(row(FIRST), None)])
    assert len(forgotten([completed], {BLOB})) == 1
