"""What the row log and the map keep: entries, rows, the bodies of rows, votes, the map, rings.

Bodies of rows grow by fields that are appended with a default, so their bytes are only read here:
what was written before a field was added must go on to decode.
"""

from pinfold.accounts import records as accounts
from pinfold.cluster.api import BlobRef, Row
from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.entries import (
    StoredResults,
    decode_body,
    decode_free,
    decode_results,
    decode_row,
    encode_body,
    encode_results,
    encode_row,
    free_writes,
)
from pinfold.cluster.groups.messages import Standing, Voted, decode_voted, encode_voted
from pinfold.cluster.map import (
    ClusterMap,
    DeviceEntry,
    NodeEntry,
    PolicyEntry,
    decode_map,
    encode_map,
)
from pinfold.model.ids import BlobId, DeviceId
from pinfold.objects import records as objects
from pinfold.volumes import row as volumes
from pinfold_ring.codec import RING_MAGIC
from pinfold_ring.codec import decode as decode_ring
from pinfold_ring.codec import encode as encode_ring
from tests.formats.case import Case

BLOB = BlobRef(id=BlobId(bytes(range(16))), length=70_000, devices=(1, 2))
ROW = Row(b"body", b"tag", 5, (BLOB,), 3, 1_700_000_000_000)
INLINE = Row(b"body", b"tag", 5, (), 3, 1_700_000_000_000, b"bytes")
CONFIGURATION = Configuration(
    number=3,
    members=(DeviceId(1), DeviceId(2)),
    joining=(DeviceId(2), DeviceId(3)),
    births={DeviceId(1): 11, DeviceId(2): 22, DeviceId(3): 33},
)
VOTED = Voted(Standing.MEMBER, 11, (1 << 32) + 3, CONFIGURATION)
RESULTS = StoredResults(99, b"\x01" * 16 + b"\x02" * 16, {b"\x03" * 16: 1})
MAP = ClusterMap(
    cluster_id=bytes(range(16)),
    version=4,
    nodes={"n1": NodeEntry(role="storage", address="unix:///n1", boot=2)},
    devices=(DeviceEntry(id=1, uuid=bytes(16), node="n1", path="d1"),),
    policies={"metadata": PolicyEntry(copies=3, write_quorum=2, part_power=5)},
)
VOLUME = volumes.VolumeRow(
    id=bytes(range(16)), size=1 << 20, created_ms=5, holder=volumes.Holder("g", 2, 1), token=7
)
INDEXED = volumes.IndexRow(id=bytes(range(16)), size=1 << 20, created_ms=5, ready=True)
BUCKET = objects.BucketRecord(
    "alice", 5, "eu", "private", b"s1", objects.SplitRecord(b"s1", b"", b"s2", b"m", 9), b"attempt"
)
SHARD = objects.ShardRecord(b"s1", b"m")
BOUND = objects.BoundRecord(b"m", b"attempt", b"s2")
OBJECT = objects.ObjectRecord(
    "etag",
    5,
    "alice",
    (("content-type", "text/plain"),),
    (("a", "b"),),
    checksum=objects.Checksum("CRC32C", b"\x01\x02"),
    parts=(objects.Part(1, 5, 1),),
    upload=b"u",
)
UPLOAD = objects.UploadRecord("alice", (("content-type", "x"),), algorithm="SHA256", composite=True)
PART = objects.PartRecord(b"m" * 16, 5, checksum=objects.Checksum("CRC64NVME", b"\x09"))
LISTED = objects.BucketListRecord(True, b"s1", 5, "eu")
USER = accounts.UserRecord("Alice", "a@example.com", 5, ("KEY1",))
KEY = accounts.KeyRecord("alice", b"sealed", 5)
WRITES = [(b"key", b"value"), (b"part/0001", None), (b"part/0002", None)]

WRITTEN = [
    Case(
        "entry body 1",
        decode_body,
        WRITES,
        "93019192c4036b6579c40576616c7565929200c409706172742f303030319208c40132",
        lambda: encode_body(WRITES),
    ),
    Case(
        "row 1",
        decode_row,
        ROW,
        "0196c404626f6479c403746167059194c410000102030405060708090a0b0c0d0e0fce0001117092"
        "0102c40003cf0000018bcfe56800",
        lambda: encode_row(ROW),
    ),
    Case(
        "row 2, with its payload",
        decode_row,
        INLINE,
        "020000001896c404626f6479c403746167059003cf0000018bcfe568006279746573",
        lambda: encode_row(INLINE),
    ),
    Case(
        "results 2",
        decode_results,
        RESULTS,
        "020000000000000063000103030303030303030303030303030303000101010101010101010101010101010101"
        "02020202020202020202020202020202",
        lambda: encode_results(RESULTS),
    ),
    Case(
        "freed blobs 2",
        decode_free,
        (BLOB,),
        "029194c410000102030405060708090a0b0c0d0e0fce00011170920102c400",
        lambda: free_writes(6, [BLOB])[0][1] or b"",
    ),
    Case("vote 1", decode_voted, Voted(Standing.COPYING), "0102", None),
    Case(
        "vote 2",
        decode_voted,
        VOTED._replace(taken=1 << 32),
        "0294010b01c4139501039201029202039392010b920216920321",
        None,
    ),
    Case(
        "vote 3",
        decode_voted,
        VOTED,
        "0394010bcf0000000100000003c4139501039201029202039392010b920216920321",
        lambda: encode_voted(VOTED),
    ),
    Case(
        "ring file 1",
        lambda file: (lambda header, body, _check: (header, bytes(body)))(
            *decode_ring(RING_MAGIC, file)
        ),
        ({"epoch": 3}, b"table"),
        "50494e4652494e470100000008000000400000000000000005000000000000005e779e877ce3fb55"
        "597da71e2be77ad481a565706f63680300000000000000007461626c65",
        lambda: encode_ring(RING_MAGIC, {"epoch": 3}, b"table"),
    ),
]

READ = [
    Case(
        "cluster map 1",
        decode_map,
        MAP,
        "50466d7000010000000000f9cd6171d918ad7df686aa636c75737465725f6964c410000102030405"
        "060708090a0b0c0d0e0fa776657273696f6e04a56e6f64657381a26e3183a4726f6c65a773746f72"
        "616765a761646472657373aa756e69783a2f2f2f6e31a4626f6f7402a7646576696365739188a269"
        "6401a475756964c41000000000000000000000000000000000a46e6f6465a26e31a470617468a264"
        "31a6726567696f6ea27231a47a6f6e65a27a31a6776569676874cb3ff0000000000000a573746174"
        "65a6616374697665a8706f6c696369657381a86d6574616461746183a6636f7069657303ac777269"
        "74655f71756f72756d02aa706172745f706f77657205a572696e677380",
        lambda: encode_map(MAP),
    ),
    Case(
        "volume row 2",
        volumes.decode_volume,
        VOLUME,
        "029fc410000102030405060708090a0b0c0d0e0fce0010000005a57265616479030294a1670201c2"
        "07018080808092000000",
        lambda: volumes.encode(VOLUME),
    ),
    Case(
        "volume index row 2",
        volumes.decode_index,
        INDEXED,
        "0294c410000102030405060708090a0b0c0d0e0fce0010000005c3",
        lambda: volumes.encode(INDEXED),
    ),
    Case(
        "bucket 2",
        lambda b: objects.decode(objects.BucketRecord, b),
        BUCKET,
        "0297a5616c69636505a26575a770726976617465c402733195c4027331c400c4027332c4016d09c4"
        "07617474656d7074",
        lambda: objects.encode(BUCKET),
    ),
    Case(
        "shard of a bucket 2",
        lambda b: objects.decode(objects.ShardRecord, b),
        SHARD,
        "0292c4027331c4016d",
        lambda: objects.encode(SHARD),
    ),
    Case(
        "bound of a shard 2",
        lambda b: objects.decode(objects.BoundRecord, b),
        BOUND,
        "0293c4016dc407617474656d7074c4027332",
        lambda: objects.encode(BOUND),
    ),
    Case(
        "object 2",
        lambda b: objects.decode(objects.ObjectRecord, b),
        OBJECT,
        "029aa46574616705a5616c6963659192ac636f6e74656e742d74797065aa746578742f706c61696e"
        "9192a161a162a093a6435243333243c4020102009194010501c400c4017500",
        lambda: objects.encode(OBJECT),
    ),
    Case(
        "upload 2",
        lambda b: objects.decode(objects.UploadRecord, b),
        UPLOAD,
        "0297a5616c6963659192ac636f6e74656e742d74797065a17890a0a6534841323536c300",
        lambda: objects.encode(UPLOAD),
    ),
    Case(
        "part 2",
        lambda b: objects.decode(objects.PartRecord, b),
        PART,
        "0295c4106d6d6d6d6d6d6d6d6d6d6d6d6d6d6d6d05c40093a943524336344e564d45c401090000",
        lambda: objects.encode(PART),
    ),
    Case(
        "bucket of an account 2",
        lambda b: objects.decode(objects.BucketListRecord, b),
        LISTED,
        "0294c3c402733105a26575",
        lambda: objects.encode(LISTED),
    ),
    Case(
        "user 1",
        lambda b: accounts.decode(accounts.UserRecord, b),
        USER,
        "0195a5416c696365ad61406578616d706c652e636f6d0591a44b455931a6616374697665",
        lambda: accounts.encode(USER),
    ),
    Case(
        "access key 1",
        lambda b: accounts.decode(accounts.KeyRecord, b),
        KEY,
        "0194a5616c696365c4067365616c656405a6616374697665",
        lambda: accounts.encode(KEY),
    ),
]
