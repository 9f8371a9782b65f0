"""The one promise of every decoder: arbitrary bytes give a value that makes sense, or Corrupt.

`decodes` turns what Python's own unpackers raise on bytes that are too short, too long or of the
wrong shape into Corrupt, with the name of the record that could not be read.
"""

import struct
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import msgpack

from pinfold.model.errors import Corrupt

P = ParamSpec("P")
T = TypeVar("T")

_SHAPE: Final = (
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    RecursionError,
    msgpack.UnpackException,
)
"""What unpacking raises when the bytes are not what they should be."""


def decodes(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Mark a decoder of `what`: it raises nothing but PinfoldErrors, whatever it is given."""

    def mark(decode: Callable[P, T]) -> Callable[P, T]:
        @wraps(decode)
        def decoder(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return decode(*arguments, **named)
            except _SHAPE as error:
                raise Corrupt(f"{what} makes no sense: {error}") from error

        return decoder

    return mark


def require(holds: bool, what: str) -> None:
    """Corrupt, saying what does not fit, unless the condition holds."""
    if not holds:
        raise Corrupt(what)


def require_version(what: str, found: int, newest: int, *, oldest: int = 1) -> None:
    """Corrupt, naming both versions, for one this program does not know."""
    if not oldest <= found <= newest:
        hint = ": a newer program has written it" if found > newest else ""
        raise Corrupt(f"{what} has version {found}, this program knows {oldest} to {newest}{hint}")
