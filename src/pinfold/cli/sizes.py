"""Sizes and times as people read and write them: `10GiB`, `512M`, `2026-03-01 12:00 UTC`."""

import re
from datetime import UTC, datetime
from typing import Final

import click

_UNITS: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_PATTERN: Final = re.compile(
    r"(\d{1,20})(\.\d{1,9})?\s*([KMGTP]?)(i?)(B?)", re.IGNORECASE | re.ASCII
)


def parse_size(text: str) -> int:
    """Bytes. K, Ki, KiB are powers of 1,024 and so is K; only KB, MB… are powers of 1,000.

    ValueError when it is not a size or not a whole number of bytes.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a size: write 4096, 512MiB, 10GiB, 1.5TB")
    whole, fraction, unit, binary, byte = match.groups()
    decimal = bool(unit and byte and not binary)
    scale: int = (1000 if decimal else 1024) ** _UNITS[unit.upper()]
    if fraction is None:
        return scale * int(whole)
    numerator = scale * int(whole + fraction[1:])
    denominator: int = 10 ** (len(fraction) - 1)
    size, rest = divmod(numerator, denominator)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    return size


def moment(unix_ms: int) -> str:
    """A time in UTC, to the minute."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_size(size: int) -> str:
    """A size with a binary unit; exact when it is a multiple of the unit, else one decimal."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        scale: int = 1024 ** _UNITS[unit[0]]
        if size >= scale:
            exact = size % scale == 0
            return f"{size // scale} {unit}" if exact else f"{size / scale:.1f} {unit}"
    return f"{size} B"


def size(text: str) -> int:
    """The type of a size argument: bytes, or a usage error."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
