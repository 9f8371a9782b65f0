"""The Range header: which bytes of an object a client wants. Pure."""

import re

from pinfold.s3.errors import Refused

_RANGE = re.compile(r"bytes=([0-9]{0,20})-([0-9]{0,20})")
"""Twenty digits hold 2^64-1, which clients write for "to the end"."""


def parse_range(text: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of the one range asked for; None when the whole object is to be sent.

    A header that is not understood, or that asks for several ranges, is ignored, as S3 does.
    Refused(InvalidRange) when no byte of the range exists.
    """
    found = _RANGE.fullmatch(text.replace(" ", ""))
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        last = int(found[2])
        start, stop = max(0, size - last), size
    else:
        start = int(found[1])
        stop = min(size, int(found[2]) + 1) if found[2] else size
        if found[2] and int(found[2]) < start:
            return None
    if start >= stop:
        raise Refused(
            "InvalidRange",
            extra=(("RangeRequested", text), ("ActualObjectSize", str(size))),
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    return start, stop


def parse_copy_range(text: str, size: int) -> tuple[int, int]:
    """(start, stop) of x-amz-copy-source-range, which must lie inside the source."""
    found = _RANGE.fullmatch(text)
    if found is None or not found[1] or not found[2]:
        raise Refused("InvalidArgument", "x-amz-copy-source-range should be bytes=FIRST-LAST")
    start, stop = int(found[1]), int(found[2]) + 1
    if start >= stop or stop > size:
        raise Refused("InvalidRange", "the range is not inside the copy source")
    return start, stop
