"""Errors by what the caller can do about them.

Each front end has one table from these to its wire codes, and the rpc layer carries them between
processes by `code`. A programmer's error is an `assert`, never one of these.
"""

from typing import ClassVar


class PinfoldError(Exception):
    """Base of every error that may cross a layer or the wire.

    `detail` is a small msgpack-able value for the caller's program (for example the current row);
    the message is for people.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, detail: object = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class NotFound(PinfoldError):
    """The thing named does not exist."""

    code = "not-found"


class Conflict(PinfoldError):
    """A condition did not hold or the thing exists already; nothing was changed."""

    code = "conflict"


class Busy(PinfoldError):
    """A limit is reached; the same call may succeed a little later."""

    code = "busy"


class Unavailable(PinfoldError):
    """Too few replicas answered in time. A write may or may not have happened."""

    code = "unavailable"


class Corrupt(PinfoldError):
    """Stored bytes failed verification."""

    code = "corrupt"


class Fenced(PinfoldError):
    """The caller's token, view or epoch is older than one already seen."""

    code = "fenced"


class Full(PinfoldError):
    """No room for the write; reads still work."""

    code = "full"


class Invalid(PinfoldError):
    """The request itself is wrong and will never succeed."""

    code = "invalid"


class NotPrimary(PinfoldError):
    """The replica asked does not lead the group; `detail` names whom to try, or is None."""

    code = "not-primary"


class DeadlineExceeded(Unavailable):
    """The deadline passed before an answer came."""

    code = "deadline"


class Unsupported(PinfoldError):
    """Known, but not implemented; refused rather than ignored."""

    code = "unsupported"


BY_CODE: dict[str, type[PinfoldError]] = {
    cls.code: cls
    for cls in (
        PinfoldError,
        NotFound,
        Conflict,
        Busy,
        Unavailable,
        Corrupt,
        Fenced,
        Full,
        Invalid,
        NotPrimary,
        DeadlineExceeded,
        Unsupported,
    )
}
"""The class that a wire code stands for."""
