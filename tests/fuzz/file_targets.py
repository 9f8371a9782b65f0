"""Files and stored records: whatever bytes are on the disk, they are read or refused by type."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgpack
import msgspec
import xxhash
from hypothesis import strategies as st

from pinfold.accounts import records as account_records
from pinfold.cluster.groups import configuration, entries, messages
from pinfold.cluster.map import (
    ClusterMap,
    DeviceEntry,
    NodeEntry,
    PolicyEntry,
    decode_map,
    encode_map,
)
from pinfold.codec import packs, records, sealed
from pinfold.device import applier, blobrecords, extentrows, group, marks, memory, slots, volume
from pinfold.device import packs as device_packs
from pinfold.device.api import Entry, ExtentOp
from pinfold.env.osdisk import OsDisk
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import BlobId, DeviceId, GroupId, NodeName, Token, VolumeId
from pinfold.node.access import Access, read_access
from pinfold.node.layout import Layout
from pinfold.node.settings import read_settings
from pinfold.objects import records as object_records
from pinfold.volumes import row as volume_rows
from pinfold_ring import BadRingFile, Builder, Ring, Topology, build
from pinfold_ring.codec import BUILDER_MAGIC, RING_MAGIC, decode, encode
from tests.fuzz.harness import MIB, Target
from tests.fuzz.mutations import mutated, raw_or, twisted
from tests.ring.clusters import regular

RING = build("objects", regular(3, 1, 1), 3, 2, salt=b"pepper").follow(regular(4, 1, 1))
BUILDER = Builder(
    name="objects", part_power=3, replicas=2, salt=b"s", topology=Topology(regular(3, 1, 1))
).rebalance()
MAP = ClusterMap(
    cluster_id=b"c" * 16,
    nodes={"n1": NodeEntry(role="storage", address="tcp://a:1", boot=3)},
    devices=(DeviceEntry(id=1, uuid=b"u" * 16, node="n1", path="d1"),),
    policies={"metadata": PolicyEntry(copies=3, write_quorum=2, part_power=4)},
)


def run_ring(data: bytes) -> str:
    """A file that loads is one that was written: it says the same when it is written again."""
    try:
        if data[:8] == BUILDER_MAGIC:
            builder = Builder.from_bytes(data)
            builder.to_bytes()
            return "builder"
        ring = Ring.from_bytes(data)
    except BadRingFile as error:
        return f"{error.reason} {error}"
    assert Ring.from_bytes(ring.to_bytes()).table.tolist() == ring.table.tolist()
    for partition in range(min(ring.parts, 8)):
        held = ring.devices_of(partition)
        others = list(ring.handoffs(partition))
        assert len({*held, *others}) == len(held) + len(others)
    ring.partition(b"key")
    return "ring"


def _ring_files(whole: bytes, magic: bytes) -> st.SearchStrategy[bytes]:
    """Files whose checksum is right and whose header says something else."""
    header, body, _ = decode(magic, whole)
    headers = twisted(header)
    bodies = mutated([bytes(body)], most=2)

    def build_file(chosen: Any, content: bytes) -> bytes:
        try:
            return encode(magic, chosen, content)
        except (ValueError, OverflowError, TypeError):
            return whole

    return st.builds(build_file, headers, bodies)


def _resealed(data: bytes) -> bytes:
    """The record with its length and checksum made right."""
    payload = data[20:]
    head = data[:8].ljust(8, b"\0") + len(payload).to_bytes(4, "big")
    digest = xxhash.xxh3_64(head)
    digest.update(payload)
    return head + digest.digest() + payload


def run_map(data: bytes) -> str:
    """A map that decodes is a valid one, and is itself when it is stored again."""
    try:
        value = decode_map(data)
    except PinfoldError as error:
        return f"{error.code} {error.message}"
    assert decode_map(encode_map(value)) == value
    return "map"


_MAPS = twisted(msgspec.to_builtins(MAP, builtin_types=(bytes,))).map(
    lambda value: sealed.seal(b"PFmp", 1, msgspec.msgpack.encode(value))
)

SETTINGS = [
    b'[process]\nlog_level = "debug"\n[device]\nsegment_bytes = 16777216\n',
    b'[s3]\nregion = "eu"\nother_regions = ["a"]\n[s3.objects]\nsegment_bytes = 65536\n',
    b"[volumes]\nbeat_s = 1.0\ntrust_s = 2.0\ntakeover_s = 12.0\n",
]
ACCESS = [
    msgspec.json.encode(Access(cluster_id="c", token="t", access_key="a", secret_key="s")),
    b'{"cluster_id":"c","token":"t","access_key":"a","secret_key":"s","endpoints":'
    b'{"s3":"http://h","nbd":"nbd://h","admin":"http://h"}}',
]


def run_configuration(data: bytes) -> str:
    """Settings (first byte even) and access files: typed, or refused by an error that says why."""
    which, content = data[:1], data[1:]
    with TemporaryDirectory() as directory:
        layout = Layout(Path(directory))
        node = NodeName("n1")
        path = layout.endpoints if which and which[0] & 1 else layout.settings(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        try:
            if which and which[0] & 1:
                return type(read_access(OsDisk(), layout)).__name__
            return type(read_settings(layout, node)).__name__
        except PinfoldError as error:
            return f"{error.code} {error.message.replace(directory, '')}"


RESULTS = entries.StoredResults(5, b"o" * 32, {b"r" * 16: 1})

ENTRIES = [Entry(1, 3, b"body"), Entry(2, 3, b"")]
DECODERS: tuple[tuple[Callable[[bytes], object], bytes], ...] = (
    (lambda data: group.decode_entries(memoryview(data)),
     b"".join(map(bytes, group.encode_entries(GroupId(1), ENTRIES)[0]))),
    (lambda data: group.decode_view(memoryview(data)), group.encode_view(GroupId(1), 2, b"v")),
    (lambda data: group.decode_install(memoryview(data)), bytes(12)),
    (lambda data: group.decode_create(memoryview(data)), bytes(8)),
    (lambda data: group.decode_group(GroupId(1), data), msgpack.packb([1] + [0] * 8)),
    (lambda data: volume.decode_write(memoryview(data)), volume.encode_write(
        VolumeId(b"v" * 16), Token(1), 2, 3, [ExtentOp(0, 1, 2, 3)])),
    (lambda data: volume.decode_token(memoryview(data)),
     volume.encode_token(VolumeId(b"v" * 16), Token(1))),
    (lambda data: volume.decode_stable(memoryview(data)),
     volume.encode_stable(VolumeId(b"v" * 16), Token(1), 2)),
    (extentrows.decode_row, extentrows.encode_row(extentrows.EMPTY._replace(data=1, subs=1))),
    (marks.decode_mark, bytes(24)),
    (slots.decode_chunk, bytes(128)),
    (slots.decode_numbers, slots.encode_numbers(slots.Numbers(9, 8, 7, (1, 2)))),
    (applier.decode_applied, bytes(24)),
    (lambda data: packs.decode_head(data, 7), packs.encode_head(BlobId(b"b" * 16), 5, (1,), 7)),
    (packs.decode_location, packs.encode_location(packs.Location(1, 4096, 5, 6, (7,)))),
    (lambda data: records.decode_header(data, 0, 7), records.encode_header(1, 2, 3, 4, 5, 6, 7)),
    (lambda data: _scanned(data), bytes(4096) + records.encode_header(
        1, 0, 1, 0, 1, records.checksum([b""], 7), 7)),
    (entries.decode_body, entries.encode_body([(b"k", b"v"), (b"a", None), (b"b", None)])),
    (entries.decode_row, entries.encode_row(entries.Row(b"body"))),
    (entries.decode_results, entries.encode_results(RESULTS)),
    (entries.decode_free, b"\x02" + msgpack.packb([[b"b" * 16, 5, [1]]])),
    (messages.decode_voted, messages.encode_voted(messages.Voted(messages.Standing.MEMBER, 7))),
    (configuration.decode_configuration, configuration.Configuration(
        number=1, members=(DeviceId(1), DeviceId(2)), births={DeviceId(1): 7}).encode()),
    (lambda data: object_records.decode(object_records.ObjectRecord, data),
     object_records.encode(object_records.ObjectRecord("e", 1, "o", (), ()))),
    (lambda data: account_records.decode(account_records.KeyRecord, data),
     b"\x01" + msgpack.packb(["s", "u", "d"])),
    (volume_rows.decode_volume, bytes(10)),
    (volume_rows.decode_index, bytes(10)),
    (lambda data: blobrecords.decode_put(memoryview(data)), bytes(28)),
    (lambda data: blobrecords.decode_ids(memoryview(data)), bytes(32)),
    (blobrecords.decode_counts, msgpack.packb([1, 2, 3])),
    (memory.decode_memory, bytes(60)),
    (device_packs.decode_pack, bytes(16)),
    (lambda data: packs.decode_pack_header(data, b"saltsalt"),
     packs.encode_pack_header(3, b"saltsalt")),
    (lambda data: records.decode_segment_header(data, b"saltsalt"),
     records.encode_segment_header(records.SegmentHeader(1, 1, 1), b"saltsalt")),
    (
        lambda data: volume.decode_volume(VolumeId(b"v" * 16), data),
        volume.encode_volume(3, 8, lost_at=9),
    ),
)  # fmt: skip


def _scanned(data: bytes) -> int:
    scan = records.Scan(memoryview(data), 1, 1, 7)
    found = sum(1 for _ in scan)
    assert scan.end <= max(len(data), records.PAGE_BYTES)
    return found


def run_record(data: bytes) -> str:
    """Decoders of stored records give a value or Corrupt."""
    which = data[0] % len(DECODERS) if data else 0
    try:
        DECODERS[which][0](data[1:])
    except PinfoldError as error:
        return f"{chr(97 + which)} {error.code} {error.message}"
    return f"{chr(97 + which)} read"


TARGETS = (
    Target(
        name="ring-files",
        inputs=raw_or(st.one_of(
            mutated([RING.to_bytes(), BUILDER.to_bytes()]),
            _ring_files(RING.to_bytes(), RING_MAGIC),
            _ring_files(BUILDER.to_bytes(), BUILDER_MAGIC),
        )),
        run=run_ring,
        examples=200,
    ),
    Target(
        name="cluster-map",
        inputs=raw_or(st.one_of(_MAPS, mutated([encode_map(MAP)]).map(_resealed))),
        run=run_map,
        examples=200,
    ),
    Target(
        name="configuration",
        inputs=st.one_of(
            mutated([b"\0" + text for text in SETTINGS] + [b"\1" + text for text in ACCESS],
                    [b"\xff", b"[", b"=", b'"', b"1e999", b"-1", b"{", b"\\u0000", b"nan"]),
            st.binary(max_size=100),
        ),
        run=run_configuration,
        examples=150,
    ),
    Target(
        name="stored-records",
        inputs=st.one_of(
            mutated([bytes((n,)) + valid for n, (_, valid) in enumerate(DECODERS)], most=3),
            st.builds(lambda n, text: bytes((n,)) + text,
                      st.integers(0, len(DECODERS) - 1), st.binary(max_size=120)),
        ),
        run=run_record,
        examples=500,
        memory_bytes=4 * MIB,
    ),
)  # fmt: skip
