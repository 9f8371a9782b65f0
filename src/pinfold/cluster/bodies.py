"""Bodies of operations, judged where they arrive: by type and by range.

A member has proved the cluster secret, which does not make it right: one of another version, or
with bad memory, may send anything. What a handler takes out of a body has been through here, so
that nothing it does not expect reaches a journal or a replica's state.
"""

from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from pinfold.model.errors import Invalid, Unavailable

T = TypeVar("T")

_NUMBER_MAX: Final = 1 << 62
"""Views, ops, tokens, sequences, offsets: stored in 64 bits, with room for what is added."""

Number = Annotated[int, msgspec.Meta(ge=0, le=_NUMBER_MAX)]
Short = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
"""Ids of devices and groups, boots, and what is inside an extent."""

Check = Annotated[int, msgspec.Meta(ge=0)]
"""A checksum: any 64 bits."""

Id = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
"""Of a blob or of a volume."""


class Form(Generic[T]):
    """What a body has to be. Made once, with its module: only of a struct does msgspec keep what it
    has made of a type, and making it costs ten times what a conversion does.
    """

    __slots__ = ("_struct",)

    def __init__(self, kind: type[T]) -> None:
        self._struct: Any = msgspec.defstruct("Form", [("body", kind)], array_like=True)

    def convert(self, body: Any) -> T:
        """The body, checked; ValidationError when it is something else."""
        converted: T = msgspec.convert((body,), self._struct).body
        return converted


def answered(operation: str, body: Any, form: Form[T]) -> T:
    """The body of an answer; Unavailable when it is not of this form.

    Whoever answers so is as good as away: there may be another to ask.
    """
    try:
        return form.convert(body)
    except msgspec.ValidationError as error:
        raise Unavailable(f"{operation} was answered with nonsense: {error}") from None


def taken(operation: str, body: Any, form: Form[T]) -> T:
    """The body; Invalid when it is not of this form."""
    try:
        return form.convert(body)
    except msgspec.ValidationError as error:
        raise Invalid(f"{operation}: {error}") from None
