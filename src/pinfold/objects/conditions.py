"""Conditions a client puts on a request, and what they become: an answer, or checks of the log.

Entity tags are compared without their quotes. Times are compared in whole seconds, because that is
all a client has seen.
"""

from typing import Literal

import msgspec

from pinfold.cluster.api import Check, Row
from pinfold.model.errors import Conflict, NotFound
from pinfold.objects.records import ObjectRecord

ANY = ("*",)
"""The tags of `If-Match: *`: whatever is there."""


class PreconditionFailed(Conflict):
    """The client's condition does not hold."""


class NotModified(Conflict):
    """What the client has is what there is."""


class NoSuchKey(NotFound):
    """There is no object of this name."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What the client demands of the object that is there."""

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    modified_since_s: int | None = None
    unmodified_since_s: int | None = None
    modified_exactly_s: int | None = None
    size: int | None = None

    def verdict(self, etag: str, modified_ms: int) -> Literal["go", "not-modified", "failed"]:
        """Whether a read of an object goes ahead, in the order of RFC 9110, 13.2.2."""
        modified_s = modified_ms // 1000
        if self.if_match is not None:
            if self.if_match != ANY and etag not in self.if_match:
                return "failed"
        elif self.unmodified_since_s is not None and modified_s > self.unmodified_since_s:
            return "failed"
        if self.if_none_match is not None:
            if self.if_none_match == ANY or etag in self.if_none_match:
                return "not-modified"
        elif self.modified_since_s is not None and modified_s <= self.modified_since_s:
            return "not-modified"
        return "go"

    def demand(self, etag: str, modified_ms: int) -> None:
        """Raise NotModified or PreconditionFailed unless a read goes ahead."""
        verdict = self.verdict(etag, modified_ms)
        if verdict == "failed":
            raise PreconditionFailed("the precondition does not hold")
        if verdict == "not-modified":
            raise NotModified("not modified")

    @property
    def of_row(self) -> bool:
        """Whether any condition is on more than the tag, which checks of the log cannot see."""
        return self.modified_exactly_s is not None or self.size is not None

    def holds_for(self, record: ObjectRecord, modified_ms: int) -> bool:
        """Whether a delete of this object goes ahead."""
        if self.if_match is not None and self.if_match != ANY and record.etag not in self.if_match:
            return False
        if self.size is not None and self.size != record.size:
            return False
        return self.modified_exactly_s in (None, modified_ms // 1000)

    def checks(self, key: bytes) -> tuple[Check, ...]:
        """The tag conditions as checks of a change."""
        checks: list[Check] = []
        if self.if_match is not None:
            checks.append(
                Check("present", key)
                if self.if_match == ANY
                else Check("tag-in", key, tags=_tags(self.if_match))
            )
        if self.if_none_match is not None:
            checks.append(
                Check("absent", key)
                if self.if_none_match == ANY
                else Check("tag-not-in", key, tags=_tags(self.if_none_match))
            )
        return tuple(checks)


NONE = Conditions()
"""No condition."""


def refusal(check: Check, row: Row | None) -> NotFound | Conflict:
    """What the failure of one of `Conditions.checks` means to the client.

    A change that was refused stays refused, and `row` is the one of now: what must be present was
    not, even if it has come meanwhile.
    """
    if check.kind == "present" or (row is None and check.kind == "tag-in"):
        return NoSuchKey("there is no object to match")
    return PreconditionFailed("the precondition does not hold")


def _tags(etags: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(etag.encode() for etag in etags)
