"""What a broken member asks is refused whole: others are served, and the device opens again."""

from typing import Any

import msgspec
import pytest

from pinfold.cluster.api import BlobRef, Change, Counter, Row
from pinfold.cluster.extents import SPAN
from tests.fuzz.operation_targets import run_operations

OP_ID = b"o" * 16
VOLUME, BLOB = b"v" * 16, b"b" * 16
CLAIM = ("extent.claim", [1, VOLUME, 7, 1], b"")
STREAM = [1, 1, VOLUME, 7, 1]
BIG = (1 << 64) - 1
STAMP = (1_750_000_000_000).to_bytes(6, "big")
"""The beginning of a blob's id made just now, in the world that these tests run in."""


def change(*puts: tuple[bytes, Row], counter: bytes = b"") -> tuple[str, Any, bytes]:
    op_id = (str(puts) + str(counter)).encode()[-16:].rjust(16, b"-")
    made = Change(op_id, puts=puts, counter=counter)
    return "group.change", [1, 0, False], msgspec.msgpack.encode(made)


def row(size: int, **named: Any) -> Row:
    return Row(b"x", size=size, **named)


ASKED: dict[str, list[tuple[str, Any, bytes]]] = {
    "a volume id of one byte": [("extent.claim", [1, b"v", 7, 1], b"")],
    "a token that is text": [("extent.claim", [1, VOLUME, "7", 1], b"")],
    "a token without a successor": [("extent.claim", [1, VOLUME, BIG, 1], b"")],
    "a write at no epoch": [CLAIM, ("extent.write", [*STREAM, 0, None, 1, 0, b""], b"")],
    "a write stable at text": [CLAIM, ("extent.write", [*STREAM, 0, 1, 1, "2", b""], b"")],
    "a stable sequence below 0": [CLAIM, ("extent.stable", [*STREAM, -1], b"")],
    "a read of all there is": [
        CLAIM, ("extent.read", [*STREAM, 0, SPAN.pack(1, 0, 4 << 20) * 17], b"")
    ],
    "a dropped list": [("extent.drop", [1, [VOLUME]], b"")],
    "a blob id of one byte": [("blob.put", [1, b"b", 0, []], b"")],
    "a streamed blob of no id": [("blob.stream", [1, None, 3, [1]], b"abc")],
    "deleted text": [("blob.delete", [1, ["b" * 16]], b"")],
    "a range before the start": [("blob.read", [1, BLOB, -1, 1], b"")],
    "a key that is a number": [("group.get", [1, 0, 5, []], b"")],
    "a start that is a number": [
        ("group.scan", [1, 0, 5, None, 9, None, None, False, False, []], b"")
    ],
    "news of no commit": [("group.ping", [[], [[1, 0, "4", 1], [1, 1, 4, None]]], b"")],
    "failed lists": [("group.ping", [[[1]], []], b"")],
    "no questions": [("group.confirm", None, b"")],
    "a view that is text": [("group.messages", [[4, 1, 1, 2, "5"]], b"")],
    "a view without a successor": [("group.messages", [[4, 1, 1, 2, BIG]], b"")],
    "no heads": [("group.messages", None, b"")],
    "entries of half a size": [("group.messages", [[0, 1, 1, 2, 4, 0, 0, 1, 0, [4]]], b"")],
    "a commit point that is none": [("group.messages", [[0, 1, 1, 2, 4, 0, 0, None, 0, []]], b"")],
    "a row counted in itself": [change((b"c", row(1)), counter=b"c")],
    "a counter that is none": [change((b"c", row(-1))), change((b"k", row(1)), counter=b"c")],
    "a counter at its end": [
        change((b"c", Row(msgspec.msgpack.encode(Counter(BIG, BIG))))),
        change((b"k", row(1)), counter=b"c"),
    ],
    "a row of all bytes": [change((b"k", row(1 << 62)), (b"l", row(1 << 62)), counter=b"c")],
    "a blob without id": [change((b"k", row(1, blobs=(BlobRef(STAMP, 1, (1,)),)))), change()],
}  # fmt: skip


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED.keys())
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    asked: list[tuple[str, Any, bytes]],
) -> None:
    outcome = run_operations(msgspec.msgpack.encode([list(one) for one in asked]))
    assert "invalid" in outcome
