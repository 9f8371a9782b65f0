"""Names inside row keys: any bytes, any length, order kept, and the end recognisable.

A name's 00 bytes become 00 FF and it ends with 00 01, so that comparing two encoded keys
bytewise compares the names first and what follows them second, and a name that is a prefix of
another sorts before it whatever follows.
"""

from typing import Final

TERMINATOR: Final = b"\x00\x01"


def escape(name: bytes) -> bytes:
    """The name without its terminator: a prefix of every key of a name that starts so."""
    return name.replace(b"\x00", b"\x00\xff")


def encode(name: bytes) -> bytes:
    """The name, ended."""
    return escape(name) + TERMINATOR


def decode(key: bytes, start: int = 0) -> tuple[bytes, int]:
    """(name, position behind its terminator) of the name that starts at `start`.

    Raises ValueError when no terminator follows.
    """
    end = key.find(TERMINATOR, start)
    if end < 0:
        raise ValueError("a name without its end")
    return key[start:end].replace(b"\x00\xff", b"\x00"), end + len(TERMINATOR)


def successor(prefix: bytes) -> bytes | None:
    """The smallest key above every key that starts with `prefix`; None when there is none."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return None
    return stripped[:-1] + bytes((stripped[-1] + 1,))
