"""Contents that look like what devices write themselves: headers of the journal, heads of packs.

A client may send any bytes, and files that are read by scanning hold them between the device's own.
The checksums here are right for a device without a secret, or whose secret is of no consequence.
"""

import random
from typing import Final

from pinfold.codec import packs, records, seeds

_SEEDS: Final = (
    0,
    *(records.record_seed(bytes(seeds.SALT_BYTES), number) for number in range(3)),
)
"""Seeds of checksums that a client can think of."""

_FAR: Final = 1 << 40
"""A sequence that no run comes to."""


def forged(rng: random.Random, size: int) -> bytes:
    """Bytes that are one header over and over: some lies on the border of a page."""
    header = _record(rng) if rng.random() < 0.7 else _head(rng)
    return (header * (size // len(header) + 1))[:size]


def _record(rng: random.Random) -> bytes:
    """A record that claims that far more was flushed than there is."""
    seed = rng.choice(_SEEDS)
    check = records.checksum([b""], seed)
    kind, sequence = rng.randrange(1, 12), rng.choice((1, 100, _FAR))
    return records.encode_header(kind, 0, sequence, _FAR, rng.choice((1, 1000)), check, seed)


def _head(rng: random.Random) -> bytes:
    """The head of a blob without bytes."""
    return packs.encode_head(rng.randbytes(16), 0, (), rng.choice(_SEEDS))
