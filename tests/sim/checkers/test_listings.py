"""Pages that must be refused, and the histories that excuse one."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.sim.checkers.history import IF_ABSENT, History, Operation, Page
from pinfold.sim.checkers.linearizable import check as check_keys
from pinfold.sim.checkers.listings import check
from tests.sim.checkers.stories import Story


def put(*names: str) -> Story:
    story = Story()
    for name in names:
        story.does(0, 1, "put", name, value=name)
    return story


REFUSED = {
    "missing name": put("a").lists(2, 3),
    "missing name that was read": Story()
    .maybe(0, "put", "a", value="1")
    .does(1, 2, "get", "a", value="1")
    .lists(3, 4),
    "missing name that was refused because it is there": Story()
    .maybe(0, "put", "a", value="1")
    .no(1, 2, "put", name="a", value="2", condition=IF_ABSENT)
    .lists(3, 4),
    "missing name put again": put("a").does(2, 3, "delete", "a").does(4, 5, "put", "a").lists(6, 7),
    "missing name before the end of a truncated page": put("a", "b", "c").lists(
        2, 3, "b", truncated=True, limit=1
    ),
    "missing name behind the start": put("a", "b").lists(2, 3, after="a"),
    "missing prefix": put("a/1").lists(2, 3, delimiter="/"),
    "rest of a prefix in which the page starts": put("a/1", "a/3").lists(
        2, 3, delimiter="/", after="a/2"
    ),
    "missing copy": put("a").does(2, 3, "copy", "b", "a", source="a").lists(4, 5, "a"),
    "missing source of a copy": Story()
    .maybe(0, "put", "a", value="1")
    .does(2, 3, "copy", "b", "1", source="a")
    .lists(4, 5, "b"),
    "phantom": put("a").lists(2, 3, "a", "b"),
    "phantom of a refused put": Story().no(0, 1, "put", "full", name="a").lists(2, 3, "a"),
    "phantom from the future": Story().lists(0, 1, "a").does(2, 3, "put", "a", value="1"),
    "deleted name": put("a").does(2, 3, "delete", "a").lists(4, 5, "a"),
    "deleted name of an unknown put that was seen": Story()
    .maybe(0, "put", "a", value="1")
    .does(1, 2, "get", "a", value="1")
    .does(3, 4, "delete", "a")
    .lists(5, 6, "a"),
    "prefix of deleted names": put("a/1")
    .does(2, 3, "delete", "a/1")
    .lists(4, 5, prefixes=("a/",), delimiter="/"),
    "name of a bucket that was deleted": put("a").does(2, 3, "delete-bucket", "").lists(4, 5, "a"),
    "out of order": put("a", "b").lists(2, 3, "b", "a"),
    "shown twice": put("a").lists(2, 3, "a", "a"),
    "order of characters instead of bytes": put("\uffff", "\U00010000").lists(
        2, 3, "\U00010000", "\uffff"
    ),
    "prefix shown twice": put("a/1").lists(2, 3, prefixes=("a/", "a/"), delimiter="/"),
    "other prefix": put("a").lists(2, 3, "a", prefix="b"),
    "start included": put("a").lists(2, 3, "a", after="a"),
    "name that should be rolled up": put("a/1").lists(2, 3, "a/1", delimiter="/"),
    "prefix that is none": put("ab").lists(2, 3, prefixes=("a",), delimiter="/"),
    "more than asked for": put("a", "b").lists(2, 3, "a", "b", limit=1),
    "empty page with more to come": put("a").lists(2, 3, truncated=True),
}

ALLOWED = {
    "plain": put("a", "b").lists(2, 3, "a", "b"),
    "name put meanwhile, shown": Story().does(0, 5, "put", "a", value="1").lists(1, 2, "a"),
    "name put meanwhile, not shown": Story().does(0, 5, "put", "a", value="1").lists(1, 2),
    "name deleted meanwhile": put("a").does(2, 9, "delete", "a").lists(3, 4),
    "name that an unknown delete may have taken": put("a").maybe(2, "delete", "a").lists(8, 9),
    "unknown put": Story().maybe(0, "put", "a", value="1").lists(8, 9, "a"),
    "put and delete at once": Story()
    .does(0, 5, "put", "a", value="1")
    .does(1, 4, "delete", "a")
    .lists(6, 7, "a"),
    "behind a truncated page": put("a", "b").lists(2, 3, "a", truncated=True, limit=1),
    "rolled up": put("a/1", "a/2", "b").lists(2, 3, "b", prefixes=("a/",), delimiter="/"),
    "start in a prefix": put("a/1", "a/3").lists(
        2, 3, prefixes=("a/",), delimiter="/", after="a/2"
    ),
    "start behind a prefix": put("a/1", "b").lists(2, 3, "b", delimiter="/", after="a/"),
    "second copy of one value": Story()
    .does(0, 1, "put", "s", value="1")
    .does(2, 3, "copy", "a", "1", source="s")
    .does(4, 20, "copy", "a", "1", source="s")
    .does(5, 6, "get", "a", value="1")
    .does(7, 8, "delete", "a")
    .lists(9, 10, "a", "s"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    assert check(REFUSED[name].history())


@pytest.mark.parametrize("name", ALLOWED)
def test_is_allowed(name: str) -> None:
    assert check(ALLOWED[name].history()) == []
    assert check_keys(ALLOWED[name].history()) == []


def test_a_missing_name_is_told_with_the_call_that_says_it_was_there() -> None:
    (finding,) = check(put("a").lists(2, 3).history())
    assert finding.explanation.splitlines() == [
        "a is not shown though it was there:",
        "   0.000000 .. 1.000000 c0 put a = ok",
        "-> 2.000000 .. 3.000000 lister list b = nothing (complete)",
    ]


NAMES = ("a", "b", "b/1", "b/2", "c/1")


def true_history(seed: int, count: int) -> History:
    """What a correct bucket would have said: each call happens at an instant within itself."""
    rng = random.Random(seed)
    there: dict[str, str] = {}
    operations: list[Operation] = []
    pages: list[Page] = []
    for number in range(count):
        at = float(number)
        began, ended = at - rng.random() * 3, at + rng.random() * 3
        name = rng.choice(NAMES)
        draft = Operation(
            id=number, client="c", kind="get", bucket="b", name=name, began=began, ended=ended
        )
        done = replace(draft, outcome="ok", value=there.get(name))
        match rng.choice(["put", "put", "delete", "get", "list", "list"]):
            case "put":
                there[name] = str(number)
                done = replace(done, kind="put", value=str(number))
            case "delete":
                there.pop(name, None)
                done = replace(done, kind="delete", value=None)
            case "list":
                pages.append(true_page(rng, there, began, ended))
                continue
        if rng.random() < 0.2:
            done = replace(done, outcome="unknown", ended=began + 0.1)
        operations.append(done)
    return History(
        operations=tuple(sorted(operations, key=lambda operation: operation.began)),
        pages=tuple(pages),
    )


def true_page(rng: random.Random, there: dict[str, str], began: float, ended: float) -> Page:
    delimiter, limit = rng.choice(["", "/"]), rng.choice([1, 2, 1000])
    after = rng.choice(["", "", *NAMES])
    items: dict[str, str | None] = {}
    for name in sorted(there):
        if name > after:
            head, found, _ = name.partition(delimiter or "\0")
            items[head + found] = None if found else there[name]
    chosen = sorted(items)[:limit]
    return Page(
        id=0,
        client="c",
        bucket="b",
        delimiter=delimiter,
        after=after,
        limit=limit,
        names=tuple((item, items[item]) for item in chosen if not item.endswith("/")),
        prefixes=tuple(item for item in chosen if item.endswith("/")),
        truncated=len(items) > limit,
        began=began,
        ended=ended,
    )


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 60))
def test_a_correct_bucket_is_never_accused(seed: int, count: int) -> None:
    history = true_history(seed, count)
    assert check(history) == []
    assert check_keys(history) == []


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.data())
def test_what_intervals_find_the_search_finds_too(seed: int, data: st.DataObject) -> None:
    """Drop or invent one shown name: whatever this accuses, the reads of its keys do not fit."""
    history = true_history(seed, 40)
    spoilt = [replace(page, delimiter="", prefixes=()) for page in history.pages if page.names]
    if not spoilt:
        return
    page = data.draw(st.sampled_from(spoilt))
    kept = tuple(item for item in page.names if data.draw(st.booleans()))
    missing = replace(history, pages=(replace(page, names=kept, truncated=False),))
    if any("not shown" in finding.explanation for finding in check(missing)):
        assert check_keys(missing)
