"""Whether a condition on one row holds: the same for changes and for reads."""

from collections.abc import Callable, Sequence
from typing import Final, cast

from pinfold.cluster.api import Check, Row
from pinfold.cluster.groups.entries import decode_row, encode_row, without_payload
from pinfold.model.errors import Conflict, Invalid

READ_CHECKS_MAX: Final = 16
"""Checks that one read may carry: each is a look-up on the primary's event loop."""


def holds(check: Check, row: Row | None) -> bool:
    """Whether any check but `empty` holds for the row at its key."""
    kind = check.kind
    assert kind != "empty", "a check of a range"
    if kind == "absent":
        return row is None
    if kind == "tag-not-in":
        return row is None or row.tag not in check.tags
    if kind == "tag-not-below":
        return row is None or all(row.tag >= tag for tag in check.tags)
    if row is None:
        return False
    if kind == "present":
        return True
    if kind == "version":
        return row.version == check.number
    if kind == "tag-in":
        return row.tag in check.tags
    if kind == "unmodified-since":
        return row.stamp_ms <= check.number
    return row.stamp_ms > check.number


def failure(index: int, check: Check, row: Row | None) -> Conflict:
    """What the caller hears when the check does not hold, its row encoded."""
    detail = (index, None if row is None else without_payload(encode_row(row)))
    return Conflict(f"check {index} ({check.kind}) does not hold", detail=detail)


def refused_check(conflict: Conflict) -> int:
    """Which check did not hold, from a conflict of `failure`."""
    index, _ = cast(tuple[int, bytes | None], conflict.detail)
    return index


def demand(checks: Sequence[Check], get: Callable[[bytes], bytes | None]) -> None:
    """Raise Conflict at the first check of a read that does not hold."""
    if len(checks) > READ_CHECKS_MAX:
        raise Invalid(f"a read has at most {READ_CHECKS_MAX} checks")
    for index, check in enumerate(checks):
        if check.kind == "empty":
            raise Invalid("a read checks single rows")
        value = get(check.key)
        row = None if value is None else decode_row(value)
        if not holds(check, row):
            raise failure(index, check, row)
