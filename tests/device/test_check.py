"""A stopped device is checked, damaged, checked, repaired, and checked again."""

import msgpack
import pytest

from pinfold.device.blobrecords import encode_counts
from pinfold.device.check import Report, check
from pinfold.device.device import Device
from pinfold.device.index import GUARDS, Change, seal_rows
from pinfold.device.offline import look_at
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.packs import encode_pack
from pinfold.device.repair import repair
from pinfold.env.api import Env
from pinfold.model.errors import Conflict, Corrupt, Unavailable
from pinfold.model.ids import GroupId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.sim.world import SimNode, World
from tests.device.recorded import (
    ONE,
    Names,
    Recorded,
    V,
    cut,
    differences,
    found_in,
    record,
    set_files,
    twin,
)
from tests.device.test_cut_points import inode_of, pack_records, recorded
from tests.device.worlds import CLUSTER, PATH, SETTINGS, put


def look(env: Env) -> Report:
    """Check the device there is, in one go."""
    device = look_at(env.disk, PATH)
    try:
        return check(env.disk, PATH, device, lambda _done, _total: None)
    finally:
        device.close()


def on_files(names: Names, *acts: object) -> SimNode:
    """Run acts (coroutine functions of an Env), each in a process of its own, on these files."""
    with World(3) as world:
        node = world.node("n1")
        set_files(node.disk, names)

        async def scenario() -> None:
            for act in acts:
                await node.start(act)  # type: ignore[arg-type]
                node.crash()

        world.run(scenario())
        return node


def expected_blobs(files: Recorded) -> int:
    state = files.told.states[-1][1]
    return sum(1 for kind, value in state.items() if kind[0] == "blob" and value is not None)


@pytest.mark.parametrize("close", [True, False])
def test_a_check_verifies_everything_and_changes_nothing(close: bool) -> None:
    files = recorded(close)
    names = files.copy()

    async def act(env: Env) -> None:
        report = look(env)
        assert report.findings == []
        assert report.blobs == expected_blobs(files)
        assert report.records > 50
        assert report.blocks > 5 or not close  # else they wait in the journal

    on_files(names, act)
    for name, inode in files.names.items():
        if inode is not None and not name.endswith("/lock"):
            assert twin(inode).pages == inode_of(names, name).pages


def test_a_served_device_is_not_checked() -> None:
    async def act(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        with pytest.raises(Unavailable):
            look(env)
        await device.close()
        assert look(env).findings == []

    on_files(recorded(True).copy(), act)


def damaged() -> tuple[Names, list[bytes]]:
    """A rotten payload, a rotten head, a rotten block; and the two blobs."""
    files = recorded(True)
    names = files.copy()
    live = {kind[1] for kind, value in files.told.states[-1][1].items() if value is not None}
    hurt: list[bytes] = []
    for path in files.paths("packs"):
        for blob, start, payload, _ in pack_records(files.names, path):
            if blob in live and len(hurt) < 2:
                cut(names, path, payload + 100 if not hurt else start + 30, "rot")
                hurt.append(blob)
    cut(names, f"{PATH}/arena/slots", BLOCK_BYTES + 5, "rot")
    return names, hurt


def test_damage_is_found_set_aside_and_listed() -> None:
    names, hurt = damaged()
    state = recorded(True).told.states[-1][1]

    async def declare(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        device.extents.stable(V, ONE, 10_000)
        assert not device.extents.marks(V, ONE, -1, 1, dirty=True)
        await device.close()

    async def mend(env: Env) -> None:
        report = look(env)
        assert sorted(report.bad_blobs) == sorted(hurt)
        assert report.bad_blocks == [(V, 0, 1)]
        assert {found.part for found in report.findings} == {"blob", "extent"}
        assert report.opens
        await repair(env, PATH, report)

    async def again(env: Env) -> None:
        report = look(env)
        assert sorted(report.quarantined) == sorted(hurt)
        assert report.bad_blobs == []
        assert report.bad_blocks == [(V, 0, 1)]  # until a holder writes it again

    async def serve(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        wrong = await differences(device, state)
        assert {kind[1] for kind, _ in wrong if kind[0] == "blob"} == set(hurt)
        assert all(isinstance(answer, Corrupt) for _, answer in wrong)
        assert device.status().quarantined == 2
        await device.extents.claim(V, ONE)
        assert [mark.extent for mark in device.extents.marks(V, ONE, -1, 9, dirty=True)] == [0]
        for blob in hurt:
            payload = state["blob", blob]
            assert isinstance(payload, bytes)
            await put(device, blob, payload)
            assert await found_in(device, ("blob", blob)) == payload
        await device.close()

    async def clean(env: Env) -> None:
        report = look(env)
        assert report.quarantined == []
        assert [found.part for found in report.findings] == ["extent"]
        assert report.leftovers == []

    on_files(names, declare, mend, again, serve, clean)


def test_a_repair_of_what_changed_since_the_check_is_refused() -> None:
    names, _ = damaged()

    async def act(env: Env) -> None:
        report = look(env)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.close()
        with pytest.raises(Conflict):
            await repair(env, PATH, report)

    on_files(names, act)


def test_records_that_nothing_names_are_told_and_freed() -> None:
    names = recorded(True).copy()
    used: list[int] = []

    before = 0

    async def forget(env: Env) -> None:
        nonlocal before
        before = len(look(env).leftovers)  # a crash takes back what was not flushed: holes too
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        blobs = [key for key, _ in engine.scan(b"b", b"c", False) if key not in GUARDS]
        engine.commit([(blobs[0], None)])
        engine.close()

    async def mend(env: Env) -> None:
        report = look(env)
        assert len(report.leftovers) == before + 1
        assert [found.part for found in report.findings] == ["pack"]  # its count was wrong
        used.append(used_bytes(env))
        await repair(env, PATH, report)

    async def clean(env: Env) -> None:
        report = look(env)
        assert report.findings == []
        assert report.leftovers == []
        assert used_bytes(env) < used[0]

    def used_bytes(env: Env) -> int:
        """Of the packs: the index may take more meanwhile."""
        disk = env.disk.disk  # type: ignore[attr-defined]
        files = [disk.file(f"{PATH}/packs/{name}") for name in env.disk.list(f"{PATH}/packs")]
        return sum(len(file.pages) for file in files)

    on_files(names, forget, mend, clean)


def test_a_device_that_died_amid_a_copy_is_checked_clean() -> None:
    group = GroupId(9)

    async def copy(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(group)
        await device.log.install(group, 5, 1, [(b"row", b"value")], first=True, last=False)

    async def clean(env: Env) -> None:
        assert look(env).findings == []

    on_files(recorded(True).copy(), copy, clean)


def test_a_pack_that_holds_nothing_needs_no_header() -> None:
    async def plant(env: Env) -> None:
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        row = (b"p" + (99).to_bytes(4, "big"), encode_pack(4096, 0, 0, True))
        engine.commit(seal_rows([row]))
        engine.close()
        env.disk.write_file(f"{PATH}/packs/00000099", b"")

    async def clean(env: Env) -> None:
        assert look(env).findings == []

    on_files(recorded(True).copy(), plant, clean)


def test_an_index_that_makes_no_sense_is_told_key_by_key() -> None:
    names = recorded(True).copy()

    async def spoil(env: Env) -> None:
        engine = OrderedEngine(env.disk, f"{PATH}/index")
        pack = next(engine.scan(b"p", b"q", False))[0]
        changes: list[Change] = [
            (b"b" + b"z" * 16, b"short"),
            (b"g" + bytes(8), msgpack.packb((9, 0))),
            (b"mb", encode_counts(1, 1, 0)),
            (pack, encode_pack(4096, 77, 4096, True)),
            (b"z", b"unknown table"),
        ]
        engine.commit(seal_rows(changes))
        engine.close()

    async def act(env: Env) -> None:
        report = look(env)
        told = " / ".join(found.what for found in report.findings)
        assert not report.opens
        assert "version 9" in told
        with pytest.raises(Corrupt):
            await repair(env, PATH, report)

    on_files(names, spoil, act)


def test_a_journal_that_lost_records_is_a_finding_and_the_rest_is_checked_all_the_same() -> None:
    files = record(close=True)
    names = files.copy()
    for path in files.paths("journal"):
        del names[path]

    async def act(env: Env) -> None:
        report = look(env)
        assert [found.part for found in report.findings] == ["journal"]
        assert report.blobs == expected_blobs(files)
        assert not report.opens

    on_files(names, act)
