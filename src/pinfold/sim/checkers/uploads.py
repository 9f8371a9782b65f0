"""Listings of uploads: open ones are shown, ended ones are not, at some instant of the listing."""

from collections.abc import Iterator
from typing import Final

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import History, Operation, UploadsPage
from pinfold.sim.checkers.timeline import describe

CHECKER: Final = "uploads"


def check(history: History) -> list[Finding]:
    """Findings about listings of uploads, each naming the operations that it contradicts."""
    opened: dict[str, Operation] = {}
    ends: dict[str, list[Operation]] = {}
    for operation in history.operations:
        if operation.kind == "open" and operation.outcome == "ok" and operation.value:
            opened[operation.value] = operation
        elif operation.kind in ("complete", "abort") and operation.outcome != "refused":
            ends.setdefault(operation.upload, []).append(operation)
    return [
        Finding(
            checker=CHECKER,
            subject=page.bucket,
            explanation=f"{problem}\n-> {page.began:.6f} .. {page.ended:.6f} {page.client}",
        )
        for page in history.uploads_pages
        for problem in _problems(page, opened, ends)
    ]


def _problems(
    page: UploadsPage, opened: dict[str, Operation], ends: dict[str, list[Operation]]
) -> Iterator[str]:
    shown = {upload for upload, _ in page.uploads}
    if len(shown) < len(page.uploads):
        yield "an upload is shown twice"
    order = [(name.encode(), upload) for upload, name in page.uploads]
    if order != sorted(order):
        yield "uploads are not in order"
    for upload, name in page.uploads:
        if not _asked_for(page, name):
            yield f"{upload} of {name} is shown and was not asked for"
        elif upload in opened and opened[upload].name != name:
            yield f"{upload} is shown as of {name}:\n   {describe(opened[upload])}"
    for upload, opening in opened.items():
        if opening.bucket != page.bucket or upload in shown or not _before(opening, page):
            continue
        if not _asked_for(page, opening.name):
            continue
        if not any(end.began < page.ended for end in ends.get(upload, ())):
            yield f"{upload} is not shown though it is open:\n   {describe(opening)}"
    for upload in sorted(shown):
        over = [end for end in ends.get(upload, ()) if end.outcome == "ok" and _before(end, page)]
        if over:
            yield f"{upload} is shown though it has ended:\n   {describe(over[0])}"


def _asked_for(page: UploadsPage, name: str) -> bool:
    return name.startswith(page.prefix) and name.encode() > page.after.encode()


def _before(operation: Operation, page: UploadsPage) -> bool:
    return operation.ended is not None and operation.ended < page.began
