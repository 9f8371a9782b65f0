"""Twice the bytes are twice the work: no input makes a reader do more, whatever it says."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pinfold.admin.merge import merge
from pinfold.cluster.groups import entries, wire
from pinfold.codec import records
from pinfold.nbd import protocol as nbd
from pinfold.nbd.handshake import Handshake
from pinfold.nbd.transmission import Transmission
from pinfold.rpc.frames import BEAT, encode_frame
from pinfold.rpc.receiver import FrameReceiver
from pinfold.s3 import acl, documents, signature
from pinfold.s3.chunks import ChunkDecoder
from pinfold.s3.errors import Refused
from pinfold.s3.request import parse_query
from tests.fuzz.meters import steps_of

FLAGS = nbd.CLIENT_FLAGS.pack(3)


def _refused(work: Callable[[], Any]) -> None:
    with pytest.raises(Refused):
        work()


def _chunks(body: bytes, piece: int) -> None:
    decoder = ChunkDecoder(None, has_trailer=True)
    for at in range(0, len(body), piece):
        decoder.feed(body[at : at + piece])


def _haggle(data: bytes, piece: int) -> None:
    handshake = Handshake()
    for at in range(0, len(data), piece):
        handshake.receive(data[at : at + piece])


def _meta(count: int) -> bytes:
    body = b"\0\0\0\1v" + count.to_bytes(4, "big") + b"\0\0\0\1q" * count
    return FLAGS + nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_LIST_META_CONTEXT, len(body)) + body


def _requests(count: int) -> None:
    data = memoryview(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_READ, 1, 0, 1) * count)
    transmission = Transmission(None, 10, structured=True, read_only=False)  # type: ignore[arg-type]
    transmission.parse(data, 0, len(data), 1 << 40, [], [])


def _frames(data: bytes, piece: int) -> None:
    receiver = FrameReceiver()
    receiver.trust()
    while data:
        buffer = receiver.buffer()
        taken = min(piece, len(buffer), len(data))
        buffer[:taken] = data[:taken]
        data = data[taken:]
        receiver.received(taken)


def _parsed(document: bytes, root: str) -> documents.Node:
    shape = documents.Shape(root=root, bytes_max=1 << 20, elements_max=9999, depth_max=999)
    return documents.parse(documents.pieces(document), shape)


def _policy(count: int) -> bytes:
    grant = b"<Grant><Grantee><ID>a</ID></Grantee><Permission>FULL_CONTROL</Permission></Grant>"
    return (
        b"<AccessControlPolicy><Owner><ID>a</ID></Owner><AccessControlList>"
        + grant * count
        + b"</AccessControlList></AccessControlPolicy>"
    )


def _segment(count: int) -> memoryview:
    data = bytes(records.PAGE_BYTES)
    check = records.checksum([b""], 7)
    for sequence in range(1, count + 1):
        data += records.encode_header(1, 0, sequence, 0, 1, check, 7)
    return memoryview(data)


def _deletes(count: int) -> None:
    entries.decode_body(entries.encode_body([(b"%d" % number, None) for number in range(count)]))


def _blobs(count: int) -> None:
    entries.decode_free(b"\2" + msgspec.msgpack.encode([[b"b", 1, []]] * count))


UNKNOWN = nbd.OPTION.pack(nbd.OPTION_MAGIC, 99, 0)
BEATS = encode_frame([BEAT] * 3, 0, 1)
FAMILIES: dict[str, Callable[[int], Any]] = {
    "chunks of a byte": lambda n: _chunks(b"1\r\nx\r\n" * n, 1 << 20),
    "a chunk in bytes": lambda n: _chunks(b"%x\r\n" % n + b"x" * n, 1),
    "a line in bytes": lambda n: _chunks(b"0\r\n" + b"a:" + b"b" * n, 1),
    "a query of signs": lambda n: parse_query("a=" + "%41+" * n),
    "a query of names": lambda n: signature.canonical_query("b&a=1&" * n),
    "a path of slashes": lambda n: signature.canonical_path("/%2F" * n),
    "a claim of spaces": lambda n: _refused(
        lambda: signature.claim_of("AWS4-HMAC-SHA256 " + " " * n + "x", {}, {})
    ),
    "a claim of commas": lambda n: _refused(
        lambda: signature.claim_of("AWS4-HMAC-SHA256 Credential=a" + " ," * n, {}, {})
    ),
    "a policy of grants": lambda n: acl.from_xml(_parsed(_policy(n), "AccessControlPolicy"), "a"),
    "a deep document": lambda n: _parsed(b"<a>" * n + b"</a>" * n, "a"),
    "a text of references": lambda n: _parsed(b"<a>" + b"&amp;" * n + b"</a>", "a"),
    "options": lambda n: _haggle(FLAGS + UNKNOWN * n, 1 << 20),
    "options in bytes": lambda n: _haggle(FLAGS + UNKNOWN * n, 1),
    "queries": lambda n: _haggle(_meta(n), 1 << 20),
    "requests": _requests,
    "frames": lambda n: _frames(BEATS * n, 1 << 20),
    "frames in bytes": lambda n: _frames(BEATS * n, 1),
    "deletes": _deletes,
    "heads": lambda n: list(wire.decode([[3, 1, 1, 2, 4, 0, b"", 0]] * n, memoryview(b""))),
    "journal records": lambda n: list(records.Scan(_segment(n), 1, 1, 7)),
    "samples": lambda n: merge({"n": "# TYPE a gauge\n" + "a 1\n" * n}),
    "a row of blobs": _blobs,
}  # fmt: skip


@pytest.mark.parametrize("work", FAMILIES.values(), ids=FAMILIES.keys())
def test_twice_the_input_is_twice_the_work(work: Callable[[int], Any]) -> None:
    small, large = steps_of(lambda: work(400)), steps_of(lambda: work(800))
    assert large <= 2.2 * small + 200
