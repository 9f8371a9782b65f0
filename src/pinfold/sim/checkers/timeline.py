"""How operations look to people who must understand what went wrong."""

from collections.abc import Iterable, Iterator
from typing import Final

from pinfold.sim.checkers.history import IF_ABSENT, IF_PRESENT, Operation, Page

BEFORE: Final = 12
"""Operations shown that ended before everything which the culprit overlaps."""

LINES: Final = 40
"""Most lines of one timeline."""


def timeline(sources: Iterable[Operation | Page], culprit: Operation | Page) -> Iterator[str]:
    """The operations around the culprit, one a line in the order of beginning; it has an arrow."""
    assert culprit.ended is not None
    ordered = sorted(dict.fromkeys(sources), key=lambda source: source.began)
    ordered = [source for source in ordered if source.began <= culprit.ended]
    around = [
        source
        for source in ordered
        if source.ended is None or source.ended >= culprit.began or source is culprit
    ]
    earlier = [source for source in ordered if source not in around]
    # What ended last before the culprit began is what it should have seen.
    earlier.sort(key=lambda source: source.ended or 0.0)
    shown = set(earlier[-BEFORE:]) | set(around[-(LINES - BEFORE) :])
    if len(shown) < len(ordered):
        yield f"  ({len(ordered) - len(shown)} earlier operations are left out)"
    for source in ordered:
        if source in shown:
            text = describe_page(source) if isinstance(source, Page) else describe(source)
            yield f"{'->' if source is culprit else '  '} {text}"


def describe(operation: Operation) -> str:
    """One operation on one line."""
    end = f"{operation.ended:.6f}" if operation.ended is not None else "never"
    parts = [f"{operation.began:.6f} .. {end}", operation.client, operation.kind]
    if operation.kind == "copy" and operation.source is not None:
        parts.append(f"{'/'.join(operation.source)} to {'/'.join(operation.key)}")
    if operation.upload:
        parts.append(f"upload {operation.upload}")
    if operation.kind in ("put", "copy", "complete") and operation.value is not None:
        parts.append(operation.value)
    if operation.condition is not None:
        parts.append(_condition(operation.condition))
    return " ".join((*parts, "=", _result(operation)))


def describe_page(page: Page) -> str:
    """One page of a listing on one line."""
    shown = ", ".join(f"{name}={value}" if value else name for name, value in page.names[:8])
    more = f" and {len(page.names) - 8} more" if len(page.names) > 8 else ""
    rolled = f"; prefixes {', '.join(page.prefixes[:8])}" if page.prefixes else ""
    wish = "".join(
        f" {what} {value!r}"
        for what, value in (("prefix", page.prefix), ("after", page.after))
        if value
    )
    end = "truncated" if page.truncated else "complete"
    return (
        f"{page.began:.6f} .. {page.ended:.6f} {page.client} list {page.bucket}{wish}"
        f" = {shown or 'nothing'}{more}{rolled} ({end})"
    )


def _condition(condition: str) -> str:
    named = {IF_ABSENT: "if nothing is there", IF_PRESENT: "if something is there"}
    return named.get(condition, f"if {condition} is there")


def _result(operation: Operation) -> str:
    if operation.outcome == "ok":
        if operation.kind in ("get", "head"):
            return "nothing" if operation.value is None else operation.value
        return "ok"
    error = f" ({operation.error})" if operation.error else ""
    return f"{operation.outcome}{error}"
