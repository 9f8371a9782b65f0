"""Per key: what clients were told fits one order of instants, each within its call.

Keys are judged one by one (linearizability composes). A copy is a read of its source and a write
of its target, each at an instant of its own within the call: that is what S3 promises, and it
never accuses an implementation that does both at once. What was shown by a page of a listing was
seen at an instant within the page's request. A bucket that was deleted was empty at an instant.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import History, Kind, Operation, Page
from pinfold.sim.checkers.listings import covers
from pinfold.sim.checkers.register import UNSEEN, Action, KeyModel, KeyState
from pinfold.sim.checkers.search import WORK_MAX, Exhausted, Step, Stuck, search
from pinfold.sim.checkers.timeline import describe, describe_page, timeline

CHECKER: Final = "linearizable"

Key = tuple[str, str]
Source = Operation | Page


@dataclass(slots=True)
class _Story:
    """What is known of one key."""

    steps: list[Step[Action]] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    """What each step comes from."""

    def add(self, source: Source, action: Action, *, maybe: bool = False) -> None:
        ended = None if maybe else source.ended
        assert maybe or ended is not None
        label = action if maybe else None
        self.steps.append(Step(action, source.began, ended, label=label))
        self.sources.append(source)


def check(
    history: History,
    *,
    initial: Mapping[Key, str] | None = None,
    work_max: int = WORK_MAX,
) -> list[Finding]:
    """One finding for each key whose story has no order, and each that the bound left open.

    `initial`: what was there before the history began.
    """
    initial = initial or {}
    model = KeyModel()
    findings = []
    for key, story in sorted(_stories(history, initial, merge=True).items()):
        state = KeyState(initial.get(key))
        result = search(model, state, story.steps, work_max=work_max)
        subject = "/".join(key)
        if isinstance(result, Stuck):
            plain = _stories(history, initial, merge=False)[key]
            again = search(model, state, plain.steps, work_max=work_max)
            text = _explain(story, result)
            if isinstance(again, Stuck):  # the same again, with every value by its name
                text = _explain(plain, again)
            findings.append(Finding(checker=CHECKER, subject=subject, explanation=text))
        elif isinstance(result, Exhausted):
            text = f"gave up at {result.at:.6f} after {result.work} steps of search"
            findings.append(
                Finding(checker=CHECKER, subject=subject, explanation=text, undecided=True)
            )
    return findings


def _explain(story: _Story, stuck: Stuck[KeyState, Action]) -> str:
    culprit = story.sources[story.steps.index(stuck.step)]
    held = sorted({_value(state.value) for state in stuck.states})
    what = describe_page(culprit) if isinstance(culprit, Page) else describe(culprit)
    return "\n".join(
        (
            f"no place for: {what}",
            f"before it ended the key could hold: {', '.join(held)}",
            *timeline(story.sources, culprit),
        )
    )


def _value(value: str | None) -> str:
    if value is None:
        return "nothing"
    return "a value that nobody saw" if value == UNSEEN else value


def _stories(history: History, initial: Mapping[Key, str], *, merge: bool) -> dict[Key, _Story]:
    """Each key's story. With `merge`, values that nobody saw are all the same one."""
    by_key: dict[Key, list[Operation]] = defaultdict(list)
    for operation in (*history.operations, *_of_parts(history.operations)):
        if operation.outcome == "refused" and operation.error not in ("conflict", "not-found"):
            continue
        if operation.name:
            by_key[operation.key].append(operation)
        if operation.kind == "copy" and operation.source is not None:
            by_key[operation.source].append(operation)
    pages = _pages_by_key(history.pages, by_key)
    seen = {key: _seen(key, operations, pages.get(key, ())) for key, operations in by_key.items()}
    could_hold = _could_hold(by_key, initial)
    if not merge:
        seen = could_hold
    stories: dict[Key, _Story] = {}
    for key, operations in by_key.items():
        story = stories[key] = _Story()
        for operation in operations:
            _tell(story, key, operation, seen[key], could_hold)
        for page in pages.get(key, ()):
            story.add(page, _shown(page, key[1]))
    _tell_of_buckets(history, stories)
    return stories


def _of_parts(operations: Sequence[Operation]) -> Iterator[Operation]:
    """Each number of each upload as a key of its own: stored, listed, and named by a Complete.

    No part is stored behind the Complete that ended the upload: it names the last of each number.
    """
    end = max((o.ended for o in operations if o.ended is not None), default=0.0)
    for operation in operations:
        if operation.outcome == "refused":
            continue
        read = operation.outcome == "ok"
        if operation.kind == "part" and operation.value is not None:
            yield _of_part(operation, "put", operation.part, operation.value)
        elif operation.kind == "list-parts" and read:
            yield _of_part(operation, "get", operation.part, operation.value)
        elif operation.kind == "complete" and read and operation.asked in (None, operation.value):
            last = replace(operation, began=end + 1, ended=end + 2)
            for number, token in operation.parts:
                yield _of_part(last, "get", number, token)


def _of_part(operation: Operation, kind: Kind, number: int, value: str | None) -> Operation:
    place, name = f"uploads of {operation.bucket}", f"part {number} of {operation.upload}"
    return replace(
        operation, kind=kind, bucket=place, name=name, value=value, condition=None, upload=""
    )


def _pages_by_key(pages: Sequence[Page], keys: Mapping[Key, object]) -> dict[Key, list[Page]]:
    by_key: dict[Key, list[Page]] = defaultdict(list)
    names: dict[str, list[str]] = defaultdict(list)
    for bucket, name in keys:
        names[bucket].append(name)
    for page in pages:
        for name in names[page.bucket]:
            if covers(page, name):
                by_key[page.bucket, name].append(page)
    return by_key


def _shown(page: Page, name: str) -> Action:
    shown = dict(page.names)
    if name in shown and shown[name] is None:
        return Action(does="see-some")
    return Action(does="see", values=(shown.get(name),))


def _seen(key: Key, operations: Sequence[Operation], pages: Sequence[Page]) -> set[str]:
    """Tokens of a key that anybody has read, or named in a condition."""
    seen: set[str] = set()
    for operation in operations:
        if operation.condition is not None and operation.key == key:
            seen.add(operation.condition)
        read = operation.kind in ("get", "head", "complete")
        if operation.value is not None and (read or operation.source == key):
            seen.add(operation.value)
    for page in pages:
        value = dict(page.names).get(key[1])
        if value is not None:
            seen.add(value)
    return seen


def _could_hold(
    by_key: Mapping[Key, Sequence[Operation]], initial: Mapping[Key, str]
) -> dict[Key, set[str]]:
    """Every token that each key may have held at some time, through copies of unknown outcome."""
    could: dict[Key, set[str]] = {key: set() for key in by_key}
    unknown: list[tuple[Key, Key]] = []
    for key, value in initial.items():
        could.setdefault(key, set()).add(value)
    for key, operations in by_key.items():
        for operation in operations:
            if operation.key != key or operation.kind not in ("put", "copy", "complete"):
                continue
            if operation.value is not None:
                could[key].add(operation.value)
            elif operation.kind == "copy" and operation.source is not None:
                unknown.append((operation.source, key))
    grown = True
    while grown:
        grown = False
        for source, target in unknown:
            if not could[source] <= could[target]:
                could[target] |= could[source]
                grown = True
    return could


def _tell(
    story: _Story,
    key: Key,
    operation: Operation,
    seen: set[str],
    could_hold: Mapping[Key, set[str]],
) -> None:
    if operation.outcome == "ok":
        if operation.source == key:
            story.add(operation, Action(does="see", values=(operation.value,)))
        if operation.key == key:
            action = _done(operation, seen)
            if action is not None:
                story.add(operation, action)
    elif operation.outcome == "refused":
        action = _refused(key, operation)
        if action is not None:
            story.add(operation, action)
    elif operation.key == key:
        action = _maybe(operation, seen, could_hold)
        if action is not None:
            story.add(operation, action, maybe=True)


def _done(operation: Operation, seen: set[str]) -> Action | None:
    """What an operation that succeeded did to its own key; None: nothing that is known."""
    match operation.kind:
        case "get" | "head":
            return Action(does="see", values=(operation.value,))
        case "rewrite":
            return Action(does="see-some")
        case "put" | "copy":
            assert operation.value is not None
            value = operation.value if operation.value in seen else UNSEEN
            return Action(does="put", values=(value,), condition=operation.condition)
        case "delete":
            return Action(does="delete", condition=operation.condition)
        case "complete":
            return Action(
                does="complete",
                values=(operation.value,),
                condition=operation.condition,
                upload=operation.upload,
            )
        case "abort":
            return Action(does="abort", upload=operation.upload)
        case "part" | "list-parts":
            return Action(does="upload-is", upload=operation.upload, values=("open",))
        case _:
            return None


def _refused(key: Key, operation: Operation) -> Action | None:
    """What a refusal says about a key; None: nothing that is sure."""
    if operation.kind == "copy" and operation.source == key:
        says = operation.error == "not-found" and operation.condition is None
        return Action(does="see", values=(None,)) if says else None
    if operation.upload and operation.error == "not-found":
        return Action(
            does="upload-is",
            upload=operation.upload,
            values=("completed", "aborted"),
            or_nothing=operation.condition is not None,
        )
    if operation.error == "conflict" and operation.condition is not None:
        return Action(does="fail", condition=operation.condition, upload=operation.upload)
    if operation.error == "not-found" and operation.kind in ("put", "delete", "rewrite"):
        return Action(does="see", values=(None,))
    return None


def _maybe(
    operation: Operation, seen: set[str], could_hold: Mapping[Key, set[str]]
) -> Action | None:
    """What an operation of unknown outcome may do to its own key; None: nothing."""
    match operation.kind:
        case "put" | "copy":
            could: set[str] = set()
            if operation.value is not None:
                could = {operation.value}
            elif operation.source is not None:
                could = could_hold[operation.source]
            values = sorted({value if value in seen else UNSEEN for value in could})
            return Action(does="put", values=tuple(values), condition=operation.condition)
        case "delete" | "complete" | "abort":
            return _done(operation, seen)
        case _:
            return None


def _tell_of_buckets(history: History, stories: dict[Key, _Story]) -> None:
    """A bucket is a key too: objects are in buckets that are there, deleted buckets are empty."""
    of_buckets = [operation for operation in history.operations if not operation.name]
    buckets: dict[str, _Story] = {operation.bucket: _Story() for operation in of_buckets}
    born_here = {o.bucket for o in of_buckets if o.kind == "create-bucket"}
    for bucket, story in buckets.items():
        if bucket not in born_here:
            first = min(o.began for o in history.operations)
            story.steps.append(Step(_EXISTS, first - 2, first - 1))
            story.sources.append(next(o for o in of_buckets if o.bucket == bucket))
    for operation in of_buckets:
        action = _of_bucket(operation)
        if action is None:
            continue
        buckets[operation.bucket].add(operation, action, maybe=operation.outcome == "unknown")
        if operation.kind == "delete-bucket" and operation.outcome == "ok":
            for (bucket, _), story in stories.items():
                if bucket == operation.bucket:
                    story.add(operation, Action(does="see", values=(None,)))
    for operation in history.operations:
        story_of_bucket = buckets.get(operation.bucket)
        if story_of_bucket is None or not operation.name:
            continue
        needs_bucket = operation.kind not in ("get", "head") or operation.value is not None
        if operation.outcome == "ok" and needs_bucket:
            story_of_bucket.add(operation, Action(does="see", values=(_owner(operation),)))
        elif _is_denied(operation):
            story_of_bucket.add(operation, Action(does="see-not", values=(operation.user,)))
    for page in history.pages:
        if page.user and page.bucket in buckets:
            buckets[page.bucket].add(page, Action(does="see", values=(page.user,)))
    stories.update({(bucket, ""): story for bucket, story in buckets.items()})


_THERE: Final = "the bucket"
_EXISTS: Final = Action(does="put", values=(_THERE,))


def _owner(operation: Operation) -> str:
    """What a bucket is as a value: its owner, who alone may use it."""
    return operation.user or _THERE


def _is_denied(operation: Operation) -> bool:
    """Whether the bucket was said to be another's. A head's answer has no words."""
    refused = operation.outcome == "refused" and operation.error == "denied"
    return refused and bool(operation.user) and operation.kind != "head"


def _of_bucket(operation: Operation) -> Action | None:
    owner = _owner(operation)
    if _is_denied(operation):
        return Action(does="see-not", values=(owner,))
    if operation.kind == "list-buckets":
        if operation.outcome != "ok":
            return None
        if operation.value is None:
            return Action(does="see-not", values=(owner,), or_nothing=True)
        return Action(does="see", values=(owner,))
    if operation.outcome == "refused":
        if operation.error == "not-found":
            return Action(does="see", values=(None,))
        if operation.error != "conflict":
            return None
        if operation.kind == "create-bucket":
            others = (owner,) if operation.user else ()
            return Action(does="see-not", values=others)
        return Action(does="see", values=(owner,))
    if operation.kind == "create-bucket":
        return Action(does="make" if operation.user else "put", values=(owner,))
    return Action(does="delete", condition=operation.user or None)
