"""Bytes that were stored once are read for ever, and bytes of a newer program are refused.

A change that breaks one of these needs a new version with the old decoder kept, and a new case.
"""

import struct
from collections.abc import Callable

import msgpack
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.codec.packs import decode_head, decode_pack_header, pack_seed
from pinfold.codec.records import checksum, encode_header
from pinfold.codec.sealed import seal
from pinfold.codec.seeds import seed_of
from pinfold.device.applier import decode_applied
from pinfold.device.device import Device
from pinfold.device.extentrows import decode_row
from pinfold.device.files import SUPERBLOCK_VERSION, read_superblock, superblock_path
from pinfold.device.group import decode_group
from pinfold.device.memory import decode_memory
from pinfold.device.ordered_engine import OrderedEngine
from pinfold.device.packs import decode_pack
from pinfold.device.segments import Segment, survey
from pinfold.device.slots import decode_numbers
from pinfold.device.volume import decode_volume
from pinfold.env.api import Env
from pinfold.model.errors import Corrupt, PinfoldError
from pinfold.model.ids import GroupId, VolumeId
from pinfold.sim.world import World
from tests.device.worlds import CLUSTER, PATH, SETTINGS
from tests.formats.case import Case
from tests.formats.device_cases import DEVICE, SALT
from tests.formats.row_cases import READ, WRITTEN

SEGMENT_HEADER_BYTES = 28

CASES = [*DEVICE, *WRITTEN, *READ]


def name_of(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_what_was_stored_is_read(case: Case) -> None:
    assert case.read(case.stored) == case.value


@pytest.mark.parametrize("case", [*DEVICE, *WRITTEN], ids=name_of)
def test_what_is_stored_today_is_what_the_version_says(case: Case) -> None:
    if case.write is not None:
        assert case.write().hex() == case.golden
    else:
        name, version = case.name.rsplit(" ", 1)
        later = f"{name} {int(version) + 1}"
        assert any(other.name.startswith(later) for other in CASES), "only old ones are not written"


@pytest.mark.parametrize(
    "case", [case for case in DEVICE if "header" not in case.name], ids=name_of
)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_damaged_bytes_give_a_value_or_a_pinfold_error(case: Case, data: st.DataObject) -> None:
    stored = bytearray(case.stored)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(stored) - 1))
        stored[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from((len(stored), len(stored) // 2, 3, 0)))
    for record in (bytes(stored[:cut]), data.draw(st.binary(max_size=80))):
        try:
            case.read(record)
        except PinfoldError:
            continue  # an answer; any other exception fails the test


def checked(packed: bytes, seed: int) -> bytes:
    return packed + struct.pack(">Q", xxhash.xxh3_64_intdigest(packed, seed))


def golden(name: str) -> bytearray:
    return bytearray(next(case.stored for case in CASES if case.name == name))


def with_version(name: str, place: int, form: str, version: int, seed: int) -> bytes:
    """The golden bytes under another version, with the checksum behind them set right."""
    record = golden(name)[:-8]
    struct.pack_into(form, record, place, version)
    return checked(bytes(record), seed)


PACK = pack_seed(SALT, 12)


NEWER: list[tuple[str, Callable[[], object], str]] = [
    (
        "pack header",
        lambda: decode_pack_header(
            with_version("pack header 2", 4, ">H", 9, seed_of(SALT, b"PFpk", 0)).ljust(4096, b"\0"),
            SALT,
        ),
        "version 9",
    ),
    (
        "pack record",
        lambda: decode_head(with_version("pack record 2", 4, ">H", 9, PACK), PACK),
        "version 9",
    ),
    (
        "group",
        lambda: decode_group(GroupId(7), msgpack.packb((9, 0, b"", 1, 0, False, 0, 0, b""))),
        "version 9",
    ),
    (
        "extent",
        lambda: decode_row(b"\x09" + bytes(golden("index: extent 1")[1:])),
        "version 9",
    ),
    ("volume", lambda: decode_volume(VolumeId(bytes(16)), b"\x09" + bytes(24)), "version 9"),
    ("slots", lambda: decode_numbers(b"\x09" + bytes(20)), "version 9"),
    ("pack", lambda: decode_pack(msgpack.packb((9, 8192, 1, 4096, True))), "version 9"),
    ("index", lambda: decode_applied(struct.pack(">HQQQ", 9, 1, 1, 1)), "version 9"),
    ("promises", lambda: decode_memory(msgpack.packb((9, 0, 1, []))), "version 9"),
]


@pytest.mark.parametrize(
    ("decode", "said"), [one[1:] for one in NEWER], ids=[one[0] for one in NEWER]
)
def test_a_newer_version_is_refused_by_its_number(decode: Callable[[], object], said: str) -> None:
    with pytest.raises(Corrupt, match=said):
        decode()


def on_a_device(act: Callable[[Env], object]) -> None:
    """Format and use a device, then let `act` spoil it and expect what it likes."""

    async def life(env: Env) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.log.create(GroupId(7))
        await device.close()
        act(env)
        with pytest.raises(Corrupt) as caught:
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert "newer program" in caught.value.message
        assert PATH in caught.value.message

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())


def test_a_superblock_of_a_newer_program_is_refused() -> None:
    def newer(env: Env) -> None:
        found = read_superblock(env.disk, PATH)
        sealed = seal(b"PFdv", SUPERBLOCK_VERSION + 1, msgpack.packb((9, found.uuid)))
        env.disk.write_file(superblock_path(PATH), sealed)

    on_a_device(newer)


@pytest.mark.parametrize("place", ["segment", "record"])
def test_a_journal_of_a_newer_program_is_refused_and_not_cut_short(place: str) -> None:
    """To a decoder that does not know it, it looks like the end of the journal."""

    def renew(env: Env) -> None:
        salt = read_superblock(env.disk, PATH).salt
        last, _ = journal_end(env)
        if place == "segment":
            packed = bytearray(last.file.pread(SEGMENT_HEADER_BYTES, 0))
            packed[4:6] = struct.pack(">H", 9)
            check = xxhash.xxh3_64(packed, seed=seed_of(salt, b"PFjs", 0)).digest()
            last.file.pwritev([packed, check], 0)
        else:
            header = bytearray(encode_header(1, 0, 1, 0, 1, 0, last.seed)[:-8])
            header[4] = 9
            check = xxhash.xxh3_64(header, seed=last.seed).digest()
            last.file.pwritev([header, check], last.position)

    on_a_device(renew)


def test_a_journal_record_of_an_unknown_kind_is_refused() -> None:
    def add(env: Env) -> None:
        last, sequence = journal_end(env)
        check = checksum([b"new"], last.seed)
        header = encode_header(200, 3, sequence, 0, 1, check, last.seed)
        last.file.pwritev([header, b"new"], last.position)

    on_a_device(add)


def journal_end(env: Env) -> tuple[Segment, int]:
    """The newest segment of the device's journal, and the sequence that comes next."""
    salt = read_superblock(env.disk, PATH).salt
    found = survey(env.disk, f"{PATH}/journal", salt, SETTINGS.segment_bytes, 1, lambda _one: None)
    return found.live[-1], found.next_sequence


INDEX_LOG = "504669320000000d064f26130c12e81b9292c4016bc4017692c40167c0"
"""One frame of the in-memory index: the key k is set to v, and g is deleted."""


def test_a_frame_of_the_index_log_that_was_stored_is_read() -> None:
    async def life(env: Env) -> None:
        env.disk.mkdir("/i")
        changes = [(b"k", b"v"), (b"g", None)]
        engine = OrderedEngine(env.disk, "/i")
        engine.commit(changes)
        engine.close()
        assert env.disk.read_file("/i/log").hex() == INDEX_LOG
        again = OrderedEngine(env.disk, "/i")
        assert list(again.scan(b"", None, False)) == [(b"k", b"v")]
        again.close()

    with World(1) as world:

        async def scenario() -> None:
            await world.node("n1").start(life)

        world.run(scenario())


def test_an_index_log_of_a_newer_program_is_refused_and_not_cut_short() -> None:
    def renew(env: Env) -> None:
        body = b"in another format"
        head = b"PFi3" + struct.pack(">I", len(body))
        check = xxhash.xxh3_64(head + body).digest()
        env.disk.open(f"{PATH}/index/log").pwritev([head, check, body], 0)

    on_a_device(renew)
