"""Listings against the history of acknowledgements.

A page shows every object whose presence was acknowledged before the page was asked for and that
nothing may have deleted since, nothing that surely was not there, in order and once each. This
reads intervals only and so can say plainly what is missing; `linearizable` judges the same pages
again, as reads of each key that they cover.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import IF_ABSENT, History, Operation, Page
from pinfold.sim.checkers.timeline import describe, describe_page

CHECKER: Final = "listing"


def covers(page: Page, name: str) -> bool:
    """Whether a page would show this name by itself if it is there."""
    return _in_range(page, name) and _rolled(page, name) is None


def check(history: History) -> list[Finding]:
    """Findings about pages, each naming the page and the operations that it contradicts."""
    facts: dict[str, dict[str, _Facts]] = defaultdict(dict)
    for operation in history.operations:
        if operation.name:
            of_bucket = facts[operation.bucket]
            of_bucket.setdefault(operation.name, _Facts()).learn(operation)
        if operation.kind == "copy" and operation.source is not None:
            bucket, name = operation.source
            facts[bucket].setdefault(name, _Facts()).learn_source(operation)
    emptied: dict[str, list[Operation]] = defaultdict(list)
    for operation in history.operations:
        if operation.kind == "delete-bucket" and operation.outcome != "refused":
            emptied[operation.bucket].append(operation)
            for known in facts[operation.bucket].values():
                known.learn_emptying(operation)
    findings = []
    for page in history.pages:
        problems = [*_form(page), *_contents(page, facts[page.bucket])]
        findings += [
            Finding(
                checker=CHECKER,
                subject=page.bucket,
                explanation=f"{problem}\n-> {describe_page(page)}",
            )
            for problem in problems
        ]
    return findings


@dataclass(slots=True)
class _Facts:
    """What operations say about when one name was there."""

    present: list[Operation] = field(default_factory=list)
    """It surely was there at an instant within each."""
    absent: list[Operation] = field(default_factory=list)
    """It surely was not, at an instant within each."""
    writes: list[Operation] = field(default_factory=list)
    """May have put it."""
    deletes: list[Operation] = field(default_factory=list)
    """May have deleted it."""
    seen_by: dict[str | None, float] = field(default_factory=dict)
    """Token: the earliest end of a call that read it. What wrote it had happened by then."""

    def learn(self, operation: Operation) -> None:
        writes = operation.kind in ("put", "copy", "complete")
        if operation.outcome == "refused":
            if operation.error == "conflict" and operation.condition == IF_ABSENT:
                self.present.append(operation)
            elif operation.error == "not-found" and operation.kind == "put":
                self.absent.append(operation)
            return
        if writes:
            self.writes.append(operation)
        if operation.kind == "delete":
            self.deletes.append(operation)
        if operation.outcome != "ok":
            return
        if operation.kind in ("get", "head"):
            (self.absent if operation.value is None else self.present).append(operation)
            self._saw(operation)
        elif writes:
            self.present.append(operation)
            if operation.condition == IF_ABSENT:
                self.absent.append(operation)
        elif operation.kind == "delete":
            self.absent.append(operation)

    def learn_source(self, copy: Operation) -> None:
        if copy.outcome == "ok":
            self.present.append(copy)
            self._saw(copy)

    def learn_emptying(self, deletion: Operation) -> None:
        self.deletes.append(deletion)
        if deletion.outcome == "ok":
            self.absent.append(deletion)

    def _saw(self, operation: Operation) -> None:
        if operation.value is not None and operation.ended is not None:
            earliest = self.seen_by.get(operation.value, operation.ended)
            self.seen_by[operation.value] = min(earliest, operation.ended)

    def must_be_shown(self, page: Page) -> Operation | None:
        """An operation after which, for all of the page's time, the name surely was there."""
        for witness in reversed(self.present):
            if witness.ended is None or witness.ended >= page.began:
                continue
            if not any(_may_follow(delete, witness, page) for delete in self.deletes):
                return witness
        return None

    def may_be_shown(self, page: Page) -> bool:
        """Whether some write may have been in force at some time while the page was made."""
        return any(
            write.began < page.ended and not self._over(write, page) for write in self.writes
        )

    def _over(self, write: Operation, page: Page) -> bool:
        """Whether the write happened, and then surely nothing was there, before the page began."""
        happened = write.ended if write.outcome == "ok" else None
        if write.value in self.seen_by and self._wrote_alone(write):
            seen = self.seen_by[write.value]
            happened = seen if happened is None else min(happened, seen)
        return happened is not None and any(
            gone.began > happened and gone.ended is not None and gone.ended < page.began
            for gone in self.absent
            if gone is not write
        )

    def _wrote_alone(self, write: Operation) -> bool:
        """Whether what it wrote cannot have come here by another write."""
        return all(
            other is write or other.value not in (write.value, None) for other in self.writes
        )


def _may_follow(delete: Operation, witness: Operation, page: Page) -> bool:
    """Whether a delete may have taken effect after the witness and before the page's end."""
    over = delete.outcome == "ok" and delete.ended is not None and delete.ended < witness.began
    return not over and delete.began < page.ended


def _contents(page: Page, facts: dict[str, _Facts]) -> Iterator[str]:
    shown = {name for name, _ in page.names}
    rolled: dict[str, bool] = dict.fromkeys(page.prefixes, False)
    for name, known in facts.items():
        prefix = _rolled(page, name)
        if prefix in rolled:
            rolled[prefix] = rolled[prefix] or known.may_be_shown(page)
        if not _in_range(page, name) or name in shown or prefix in rolled:
            continue
        witness = known.must_be_shown(page)
        if witness is not None:
            what = name if prefix is None else f"{name} (rolled up into {prefix})"
            yield f"{what} is not shown though it was there:\n   {describe(witness)}"
    for name in sorted(shown):
        if name not in facts or not facts[name].may_be_shown(page):
            why = "was never put" if name not in facts or not facts[name].writes else "was gone"
            yield f"{name} is shown though it {why}"
    for prefix, possible in rolled.items():
        if not possible:
            yield f"{prefix} is shown though nothing below it can have been there"


def _form(page: Page) -> Iterator[str]:
    """Order, uniqueness, and what the request allowed."""
    names = [name for name, _ in page.names]
    for what, items in (("names", names), ("prefixes", list(page.prefixes))):
        for former, later in pairwise(_bytes(items)):
            if former >= later:
                yield f"{what} are not in order, or twice: {former!r}, {later!r}"
    for item in (*names, *page.prefixes):
        if not item.startswith(page.prefix):
            yield f"{item} does not begin with {page.prefix!r}"
        within = item in page.prefixes and page.after != item and page.after.startswith(item)
        if item.encode() <= page.after.encode() and not within:
            yield f"{item} is not above {page.after!r}"
    for name in names:
        if _rolled(page, name) is not None:
            yield f"{name} should be rolled up"
    for prefix in page.prefixes:
        if _rolled(page, prefix) != prefix:
            yield f"{prefix} is not what names roll up into"
    count = len(names) + len(page.prefixes)
    if count > page.limit:
        yield f"{count} items where {page.limit} were asked for"
    if page.truncated and not count:
        yield "an empty page says that there is more"


def _bytes(items: Sequence[str]) -> list[bytes]:
    return [item.encode() for item in items]


def _in_range(page: Page, name: str) -> bool:
    """Whether a name, shown or rolled up, belongs to what the page answers for."""
    if not name.startswith(page.prefix):
        return False
    item = _rolled(page, name) or name
    if not _behind(page, name, item):
        return False
    if not page.truncated:
        return True
    last = max(_bytes([shown for shown, _ in page.names] + list(page.prefixes)), default=b"")
    return item.encode() <= last


def _behind(page: Page, name: str, item: str) -> bool:
    """Whether a name that is shown as `item` comes behind where the page starts.

    A start within a prefix leaves the rest of that prefix to be rolled up.
    """
    within = item != name and page.after != item and page.after.startswith(item)
    return (name if within else item).encode() > page.after.encode()


def _rolled(page: Page, name: str) -> str | None:
    """The common prefix that stands for a name on this page; None: it stands for itself."""
    if not page.delimiter or not name.startswith(page.prefix):
        return None
    found = name.find(page.delimiter, len(page.prefix))
    return None if found < 0 else name[: found + len(page.delimiter)]
