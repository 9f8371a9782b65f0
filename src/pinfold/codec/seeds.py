"""Checksums that a client cannot forge: seeds grown from a device's secret salt.

Files that are read by scanning hold clients' payloads between the device's own headers, and a
recycled file holds those of its earlier lives. A header whose checksum starts from such a seed
verifies only where the device itself wrote it, in the present life of that file.
"""

from typing import Final

import xxhash

SALT_BYTES: Final = 8


def seed_of(salt: bytes, what: bytes, life: int) -> int:
    """The seed for one life of a file; `what` is the magic of the records that it is for.

    A life is a number that no other life of such a file on this device ever has.
    """
    assert len(salt) == SALT_BYTES, "a device's salt"
    return xxhash.xxh3_64_intdigest(what + life.to_bytes(8, "big"), int.from_bytes(salt, "big"))
