"""Frames: many messages, one checksummed head, raw payload behind. Bytes to values and back.

    magic "PFrm" | version u8 | flags u8 | key id u16 (0) | head length u32 |
    payload length u32 | map epoch u64 | xxh3_64 of the head, seeded with that of the fields before

The head is a msgpack array of messages, each an array that starts with its kind. The payloads of
the messages follow the head in their order, and behind them, if the flag SUMMED says so, their
xxh3_64. Blobs have checksums from end to end besides; rows and blocks of volumes get theirs where
they are stored, so that nothing else would notice what was changed on the way.

A message is encoded when it is sent, into bytes of its own, so that an error and its size belong
to its sender; a frame only joins them. Whatever arrives is validated by type while it is decoded;
what is wrong raises Invalid and the connection must be closed.
"""

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from xxhash import xxh3_64, xxh3_64_digest, xxh3_64_intdigest

from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Buffer
from pinfold.model.errors import Invalid
from pinfold.rpc.limits import BATCH_HEAD_BYTES

MAGIC: Final = b"PFrm"
VERSION: Final = 1
HEADER: Final = struct.Struct(">4sBBHIIQQ")
_PREFIX_BYTES: Final = HEADER.size - 8
"""The fields that the checksum's seed covers: all but the checksum."""

SUMMED: Final = 1
"""The flag of a frame whose payload is followed by its checksum, of `SUM_BYTES`."""

SUM_BYTES: Final = 8

_ARRAY: Final = struct.Struct(">BI")
_ARRAY_32: Final = 0xDD
"""msgpack's array with a 32-bit count."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The first message of each side."""

    protocol_min: Count
    protocol_max: Count
    cluster: bytes
    node: str
    boot: int
    nonce: bytes
    key_id: int = 0


class Proof(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """HMAC-SHA256 of both hellos under the cluster secret."""

    mac: bytes


class Welcome(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """The accepting side is content: the session is established."""


class Refusal(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """Why the sender is about to close."""

    reason: str


class Asked(msgspec.Struct, array_like=True, tag=10, gc=False):
    """A request that wants an answer."""

    id: Count
    operation: str
    due_ms: Count
    """Its deadline on the sender's monotonic clock; in protocol 1, what was left until then."""
    body: Any
    payload_length: Count


class Told(msgspec.Struct, array_like=True, tag=11, gc=False):
    """A message that wants none."""

    operation: str
    body: Any


class Answered(msgspec.Struct, array_like=True, tag=12, gc=False):
    """The request succeeded."""

    id: Count
    body: Any
    payload_length: Count


class Failed(msgspec.Struct, array_like=True, tag=13, gc=False):
    """The request failed, with an error's code."""

    id: Count
    code: str
    message: str
    detail: Any


class Opened(msgspec.Struct, array_like=True, tag=14, gc=False):
    """A request whose payload will come in chunks."""

    id: Count
    operation: str
    due_ms: Count
    """See `Asked`."""
    body: Any


class Chunk(msgspec.Struct, array_like=True, tag=15, gc=False):
    """The next bytes of a stream."""

    id: Count
    payload_length: Count


class Finished(msgspec.Struct, array_like=True, tag=16, gc=False):
    """A stream's end."""

    id: Count


class Aborted(msgspec.Struct, array_like=True, tag=17, gc=False):
    """A stream given up by its sender."""

    id: Count


class Credit(msgspec.Struct, array_like=True, tag=18, gc=False):
    """A stream's sender may send so many bytes more."""

    id: Count
    count: Count


class Beat(msgspec.Struct, array_like=True, tag=19, gc=False):
    """Nothing but a sign of life."""


class Clock(msgspec.Struct, array_like=True, tag=20, gc=False):
    """What the sender's monotonic clock showed when the frame left. From protocol 2 on, the first
    message of every frame from the side that asks.
    """

    sent_ms: Count


Message = (
    Asked
    | Answered
    | Told
    | Failed
    | Opened
    | Chunk
    | Finished
    | Aborted
    | Credit
    | Beat
    | Clock
    | Hello
    | Proof
    | Welcome
    | Refusal
)

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[Message])
_body_decoder: Final = msgspec.msgpack.Decoder()

encode_message: Final = _encoder.encode
"""A message, or the equal tuple that starts with its tag (cheaper to make), as bytes."""

BEAT: Final = encode_message(Beat())


def as_received(body: Any) -> Any:
    """A body as it would arrive from another process; raises TypeError when it could not."""
    return _body_decoder.decode(_encoder.encode(body))


def encode_frame(
    messages: Sequence[bytes], payload_length: int, epoch: int, *, summed: bool = False
) -> bytes:
    """Header and head of a frame; the payload buffers follow it, and with `summed` their sum."""
    head = _ARRAY.pack(_ARRAY_32, len(messages)) + b"".join(messages)
    flags = SUMMED if summed else 0
    fields = HEADER.pack(MAGIC, VERSION, flags, 0, len(head), payload_length, epoch, 0)
    prefix = fields[:_PREFIX_BYTES]
    check = xxh3_64_intdigest(head, xxh3_64_intdigest(prefix))
    return prefix + check.to_bytes(8, "big") + head


def payload_sum(buffers: Sequence[Buffer]) -> bytes:
    """The checksum of a frame's payload."""
    if len(buffers) == 1:
        return xxh3_64_digest(buffers[0])
    digest = xxh3_64()
    for buffer in buffers:
        digest.update(buffer)
    return digest.digest()


def verified(payload: memoryview) -> memoryview:
    """A payload without the checksum behind it; Invalid when it is not what was sent."""
    content = payload[:-SUM_BYTES]
    if xxh3_64_digest(content) != payload[-SUM_BYTES:]:
        raise Invalid("frame: payload does not match its checksum")
    return content


class Header(NamedTuple):
    """A frame's header, taken apart."""

    head_length: int
    payload_length: int
    summed: bool
    epoch: int
    check: int
    seed: int


def decode_header(buffer: memoryview, *, head_max: int, payload_max: int) -> Header:
    """The header in the first HEADER.size bytes; Invalid when it is no frame or over a limit."""
    magic, version, flags, key_id, head_length, payload_length, epoch, check = HEADER.unpack_from(
        buffer
    )
    if magic != MAGIC:
        raise Invalid(f"frame: starts with {magic!r}")
    summed = flags == SUMMED and payload_length > 0
    if version != VERSION or (flags and not summed) or key_id:
        raise Invalid(f"frame: version {version}, flags {flags}, key {key_id}: not understood")
    if head_length > head_max:
        raise Invalid(f"frame: head of {head_length} bytes, limit {head_max}")
    if payload_length > payload_max:
        raise Invalid(f"frame: payload of {payload_length} bytes, limit {payload_max}")
    seed = xxh3_64_intdigest(buffer[:_PREFIX_BYTES])
    return Header(head_length, payload_length, summed, epoch, check, seed)


def decode_head(head: memoryview, header: Header) -> list[Message]:
    """The messages of a head; Invalid when the checksum or a message is wrong.

    No sender joins messages beyond BATCH_HEAD_BYTES; a longer head of many would be taken apart
    into millions of values before anybody could say that it is too much.
    """
    if xxh3_64_intdigest(head, header.seed) != header.check:
        raise Invalid("frame: head does not match its checksum")
    if len(head) > BATCH_HEAD_BYTES + _ARRAY.size and _ARRAY.unpack_from(head) != (_ARRAY_32, 1):
        raise Invalid(f"frame: a head of {len(head)} bytes for more than one message")
    try:
        return _decoder.decode(head)
    except UNREADABLE as error:
        raise Invalid(f"frame: {error}") from None
