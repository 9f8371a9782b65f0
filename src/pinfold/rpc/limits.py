"""Limits of the rpc layer, each with its unit and reason."""

from dataclasses import dataclass
from typing import Final

from pinfold.model.limits import KIB, MIB

HEAD_BYTES: Final = 16 * MIB
"""Largest head of a frame, hence body of a message: a full listing page, several times over."""

PAYLOAD_BYTES: Final = 64 * MIB
"""Largest payload of a frame, hence of a message: the largest NBD request and then some."""

HANDSHAKE_BYTES: Final = 4 * KIB
"""Largest head before the peer has proved the secret; no payload then."""

BATCH_HEAD_BYTES: Final = 64 * KIB
"""A frame takes no further message past this: the receiver's reusable buffer holds it whole."""

BATCH_PAYLOAD_BYTES: Final = 256 * KIB
"""A frame takes no further payload past this: a kept slice keeps its frame's payload alive."""

JOIN_BYTES: Final = 2 * KIB
"""Payload buffers below this are copied together: a system call's vector entry costs more."""

RECEIVE_BUFFER_BYTES: Final = 64 * KIB
"""Bytes read at once while no payload is under way; what it holds of a payload is copied."""

CREDIT_WINDOW_BYTES: Final = 1 * MIB
"""Bytes of a stream that may wait at its receiver: a disk's delay at several GB/s."""

STREAMS: Final = 256
"""Streams open to one peer: with the window, what they may hold of its memory."""

HANDSHAKES: Final = 256
"""Accepted connections that have not proved the secret yet."""

BEAT_S: Final = 0.25
"""Seconds without sending after which a beat is sent."""

SILENCE_S: Final = 1.0
"""Seconds without hearing anything after which a peer is given up: three beats may be lost."""

HEAD_S: Final = 5.0
"""Seconds after which a head that has begun is not waited for: nothing has verified its length."""

HANDSHAKE_S: Final = 2.0
"""Seconds to connect and prove the secret: a stopped peer accepts but never answers."""

RETRY_MIN_S: Final = 0.05
RETRY_MAX_S: Final = 1.0
"""Seconds before connecting again, doubling, half of it random: a restart is noticed at once and
a thousand nodes do not knock together."""


TELL_S: Final = 60.0
"""Deadline of a message that nobody awaits, in seconds: a handler may pass it on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpcLimits:
    """What an operator may tune."""

    send_bytes: int = 64 * MIB
    """Queued for one peer and not yet taken by the kernel; over it calls fail with Busy."""
    calls: int = 16_384
    """Calls to one peer that it has not answered; over it calls fail with Busy. Twice what the peer
    takes on, so that its own limit is met first."""
    held_bytes: int = 64 * MIB
    """Payload and bodies of one peer's unanswered requests; over it nothing more is read."""
    held_requests: int = 8192
    """Unanswered requests of one peer; over it nothing more is read."""
    drain_s: float = 5.0
    """Seconds that a close waits for requests under way."""
