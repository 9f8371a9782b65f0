"""What a device stores, as bytes written by each version of the program that ever wrote it."""

from array import array

from pinfold.codec.packs import (
    Location,
    decode_head,
    decode_location,
    decode_pack_header,
    encode_head,
    encode_location,
    encode_pack_header,
    pack_seed,
)
from pinfold.codec.records import (
    PAGE_BYTES,
    Header,
    SegmentHeader,
    decode_header,
    decode_segment_header,
    encode_header,
    encode_segment_header,
    record_seed,
)
from pinfold.codec.sealed import seal, unseal
from pinfold.device.api import Entry, ExtentOp
from pinfold.device.applier import Applied, decode_applied, encode_applied
from pinfold.device.blobrecords import (
    decode_counts,
    decode_ids,
    decode_put,
    encode_counts,
    encode_put,
)
from pinfold.device.extentrows import NO_SLOT, Row, decode_row, encode_row, subs_of
from pinfold.device.files import FORMAT, Superblock, decode_superblock, encode_superblock
from pinfold.device.group import (
    Group,
    decode_create,
    decode_entries,
    decode_group,
    decode_install,
    decode_view,
    encode_create,
    encode_entries,
    encode_install,
    encode_view,
)
from pinfold.device.index import open_row, seal_row
from pinfold.device.marks import Dirty, decode_mark, encode_mark
from pinfold.device.memory import Memory, decode_memory, encode_memory
from pinfold.device.packs import decode_pack, encode_pack
from pinfold.device.slots import (
    Numbers,
    decode_chunk,
    decode_numbers,
    encode_chunk,
    encode_numbers,
)
from pinfold.device.volume import (
    Volume,
    decode_stable,
    decode_token,
    decode_volume,
    decode_write,
    encode_stable,
    encode_token,
    encode_volume,
    encode_write,
)
from pinfold.model.ids import BlobId, Boot, DeviceUuid, GroupId, Token, VolumeId
from tests.formats.case import Case

G = GroupId(7)
V = VolumeId(bytes(range(16)))
B = BlobId(bytes(range(16, 32)))
U = bytes(range(32, 48))
SALT = b"saltsalt"
SUPERBLOCK = Superblock(FORMAT, DeviceUuid(U), bytes(range(48, 64)), SALT, Boot(7), 4000)


def group() -> Group:
    made = Group(G, 3)
    made.view, made.voted, made.base, made.installing = 9, b"\x01\x01", 500, True
    made.applied_op, made.applied_view = 1000, 8
    made.digest = None
    return made


def row() -> Row:
    slots = array("I", [NO_SLOT] * 64)
    slots[0], slots[63] = 7, 1 << 20
    data = 0b1011 | 1 << 1023
    return Row(3, data, subs_of(data), slots)


def facts(found: Group) -> tuple[object, ...]:
    life = (found.view, found.voted, found.generation, found.base, found.installing)
    return (*life, found.applied_op, found.applied_view)


def life(found: Volume) -> tuple[object, ...]:
    return (found.id, found.token, found.life, found.lost_at)


def entries() -> bytes:
    buffers, _ = encode_entries(G, [Entry(5, 2, b"five"), Entry(6, 3, b"")])
    return b"".join(buffers)


def written(record: bytes) -> tuple[object, ...]:
    *head, payload = decode_write(memoryview(record))
    return (*head, bytes(payload))


def small_blob(record: bytes) -> tuple[object, ...]:
    blob, checks, payload = decode_put(memoryview(record))
    return blob, checks, bytes(payload)


DEVICE = [
    Case(
        "superblock 3",
        lambda record: decode_superblock("device.pinfold", record),
        SUPERBLOCK,
        "504664760003000000000034e0045bf4f9302d1a9602c410202122232425262728292a2b2c2d2e2f"
        "c410303132333435363738393a3b3c3d3e3fc40873616c7473616c7407cd0fa0",
        lambda: encode_superblock(SUPERBLOCK),
    ),
    Case(
        "journal segment header 2",
        lambda page: decode_segment_header(page.ljust(PAGE_BYTES, b"\0"), SALT),
        SegmentHeader(3, 4000, 7),
        "50466a730002000000000000000000030000000000000fa0000000074d7e8b1af85242f4",
        lambda: encode_segment_header(SegmentHeader(3, 4000, 7), SALT).rstrip(b"\0"),
    ),
    Case(
        "journal record header 2",
        lambda record: decode_header(memoryview(record), 0, record_seed(SALT, 3)),
        Header(17, 1234, 88, 80, 7, 0x1122334455667788),
        "50466a7202110000000004d200000000000000580000000000000050000000071122334455667788"
        "c5aeb271c0b77dde",
        lambda: encode_header(17, 1234, 88, 80, 7, 0x1122334455667788, record_seed(SALT, 3)),
    ),
    Case(
        "pack header 2",
        lambda page: decode_pack_header(page.ljust(PAGE_BYTES, b"\0"), SALT),
        12,
        "5046706b000200000000000cf7031a9b5d0542b8",
        lambda: encode_pack_header(12, SALT).rstrip(b"\0"),
    ),
    Case(
        "pack record 2",
        lambda record: decode_head(record, pack_seed(SALT, 12)),
        (B, 70_000, (1, 2)),
        "5046626c00020000101112131415161718191a1b1c1d1e1f00000000000111700000000200000000"
        "00000001000000000000000294e1db479ad2869c",
        lambda: encode_head(B, 70_000, (1, 2), pack_seed(SALT, 12)),
    ),
    Case(
        "sealed record",
        lambda r: unseal(b"test", r),
        (3, b"payload"),
        "746573740003000000000007a67d6c4651b261947061796c6f6164",
        lambda: seal(b"test", 3, b"payload"),
    ),
    Case(
        "index: a row",
        lambda r: open_row(b"key", r),
        b"value",
        "76616c7565b19fcf792e11118e",
        lambda: seal_row(b"key", b"value"),
    ),
    Case(
        "index: blob 1",
        decode_location,
        Location(12, 8192, 70_000, 88, (1, 2)),
        "0000000c00000000000020000000000000011170000000000000005800000000000000010000000000000002",
        lambda: encode_location(Location(12, 8192, 70_000, 88, (1, 2))),
    ),
    Case(
        "index: group 1",
        lambda r: facts(decode_group(G, r)),
        facts(group()),
        "980109c402010103cd01f4c3cd03e808",
        None,
    ),
    Case(
        "index: group 2, without a digest",
        lambda r: facts(decode_group(G, r)),
        facts(group()),
        "990209c402010103cd01f4c3cd03e808c400",
        lambda: group().encode(),
    ),
    Case(
        "index: extent 1",
        decode_row,
        row(),
        "010000000000000003ffffffffffffffff0b00000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "000000000000000000000000000000000000000000000000800000000700100000",
        lambda: encode_row(row()),
    ),
    Case(
        "index: mark of an extent",
        decode_mark,
        Dirty(513, 99, 3),
        "000000000000020100000000000000630000000000000003",
        lambda: encode_mark(Dirty(513, 99, 3)),
    ),
    Case(
        "index: volume 4",
        lambda r: life(decode_volume(V, r)),
        (V, 513, 88, 770),
        "04000000000000020100000000000000580000000000000302",
        lambda: encode_volume(513, 88, lost_at=770),
    ),
    Case(
        "index: slots 1",
        decode_numbers,
        Numbers(9, 4000, 12, (0, 8)),
        "01000000090000000000000fa0000000000000000c0000000000000008",
        lambda: encode_numbers(Numbers(9, 4000, 12, (0, 8))),
    ),
    Case(
        "index: free slots of a chunk",
        decode_chunk,
        0b1011 | 1 << 1023,
        "0b000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "00000000000000000000000000000000000000000000000000000000000000000000000000000000"
        "0000000000000080",
        lambda: encode_chunk(0b1011 | 1 << 1023),
    ),
    Case(
        "index: pack 2",
        decode_pack,
        (8192, 3, 12_288, True),
        "9502cd200003cd3000c3",
        lambda: encode_pack(8192, 3, 12_288, True),
    ),
    Case(
        "index: counts 1",
        decode_counts,
        (10, 20_000, 1),
        "930acd4e2001",
        lambda: encode_counts(10, 20_000, 1),
    ),
    Case(
        "index: applied 3",
        decode_applied,
        Applied(90, 95, 40),
        "0003000000000000005a000000000000005f0000000000000028",
        lambda: encode_applied(Applied(90, 95, 40)),
    ),
    Case(
        "journal: group begun",
        lambda r: decode_create(memoryview(r)),
        G,
        "0000000000000007",
        lambda: encode_create(G),
    ),
    Case(
        "journal: log entries",
        lambda r: decode_entries(memoryview(r)),
        (G, [Entry(5, 2, b"five"), Entry(6, 3, b"")]),
        "00000000000000070000000200000000000000050000000000000002000000040000000000000006"
        "00000000000000030000000066697665",
        entries,
    ),
    Case(
        "journal: view",
        lambda r: decode_view(memoryview(r)),
        (G, 9, b"\x01\x01"),
        "000000000000000700000000000000090101",
        lambda: encode_view(G, 9, b"\x01\x01"),
    ),
    Case(
        "journal: copy begun",
        lambda r: decode_install(memoryview(r)),
        (G, 4),
        "000000000000000700000004",
        lambda: encode_install(G, 4),
    ),
    Case(
        "journal: small blob",
        small_blob,
        (B, (77,), b"small"),
        "101112131415161718191a1b1c1d1e1f00000001000000000000004d736d616c6c",
        lambda: encode_put(B, (77,)) + b"small",
    ),
    Case(
        "journal: blob ids",
        lambda r: decode_ids(memoryview(r)),
        [B, BlobId(V)],
        "101112131415161718191a1b1c1d1e1f000102030405060708090a0b0c0d0e0f",
        lambda: B + V,
    ),
    Case(
        "journal: volume write",
        written,
        (V, 513, 3, 99, [ExtentOp(0, 5, 4096, 4096), ExtentOp(2, 6, 0, 8192)], bytes(4096)),
        "000102030405060708090a0b0c0d0e0f000000000000020100000000000000030000000000000063"
        "000000020000000000000005000010000000100000000002000000060000000000002000",
        lambda: encode_write(V, 513, 3, 99, [ExtentOp(0, 5, 4096, 4096), ExtentOp(2, 6, 0, 8192)]),
        behind=bytes(4096),
    ),
    Case(
        "journal: claim",
        lambda r: decode_token(memoryview(r)),
        (V, Token(513)),
        "000102030405060708090a0b0c0d0e0f0000000000000201",
        lambda: encode_token(V, 513),
    ),
    Case(
        "journal: stable writes",
        lambda r: decode_stable(memoryview(r)),
        (V, 513, 99),
        "000102030405060708090a0b0c0d0e0f00000000000002010000000000000063",
        lambda: encode_stable(V, 513, 99),
    ),
    Case(
        "journal: promises 1",
        decode_memory,
        (0, 1, Memory({G: (9, b"\x01\x01")}, {V: Token(513)})),
        "9401000192930709c402010193c410000102030405060708090a0b0c0d0e0fcd0201c400",
        lambda: encode_memory(Memory({G: (9, b"\x01\x01")}, {V: Token(513)}), 1 << 20)[0],
    ),
]
