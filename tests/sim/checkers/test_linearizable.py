"""Handwritten histories: what must be refused, and what only looks wrong."""

import pytest

from pinfold.sim.checkers.history import GARBLED, IF_ABSENT, IF_PRESENT
from pinfold.sim.checkers.linearizable import check
from tests.sim.checkers.stories import Story

REFUSED = {
    "stale read": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "put", value="2")
    .does(4, 5, "get", value="1"),
    "lost write": Story().does(0, 1, "put", value="1").does(2, 3, "get"),
    "write seen, then not": Story()
    .does(0, 1, "put", value="1")
    .does(2, 9, "put", value="2")
    .does(3, 4, "get", value="2")
    .does(5, 6, "get", value="1"),
    "unknown write seen, then not": Story()
    .does(0, 1, "put", value="1")
    .maybe(2, "put", value="2")
    .does(3, 4, "get", value="2")
    .does(5, 6, "head", value="1"),
    "write that took effect before it was sent": Story()
    .does(0, 1, "get", value="1")
    .does(2, 3, "put", value="1"),
    "refused write that was done": Story()
    .does(0, 1, "put", value="1")
    .no(2, 3, "put", value="2", condition=IF_ABSENT)
    .does(4, 5, "get", value="2"),
    "bytes nobody wrote": Story().does(0, 1, "put", value="1").does(2, 3, "get", value=GARBLED),
    "two winners of one name": Story()
    .does(0, 5, "put", value="1", condition=IF_ABSENT)
    .does(1, 4, "put", value="2", condition=IF_ABSENT),
    "no winner of a free name": Story()
    .no(0, 5, "put", value="1", condition=IF_ABSENT)
    .no(1, 4, "put", value="2", condition=IF_ABSENT),
    "two winners of one ETag": Story()
    .does(0, 1, "put", value="0")
    .does(2, 5, "put", value="1", condition="0")
    .does(2, 5, "put", value="2", condition="0"),
    "match of what was replaced": Story()
    .does(0, 1, "put", value="0")
    .does(2, 3, "put", value="1")
    .does(4, 5, "put", value="2", condition="0"),
    "match of nothing": Story().does(0, 1, "put", value="0", condition=IF_PRESENT),
    "resurrected delete": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "delete")
    .does(4, 5, "get", value="1"),
    "retry applied twice": Story()
    .does(0, 5, "put", value="1")
    .does(6, 7, "delete")
    .does(8, 9, "get")
    .does(10, 11, "get", value="1"),
    "unknown write applied twice": Story()
    .maybe(0, "put", value="1")
    .does(1, 2, "get", value="1")
    .does(3, 4, "delete")
    .does(5, 6, "get", value="1"),
    "conditional delete of what was replaced": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "put", value="2")
    .does(4, 5, "delete", condition="1")
    .does(6, 7, "get"),
    "copy of a former value": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "put", value="2")
    .does(4, 5, "copy", "t", value="1", source="k"),
    "copy that was lost": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "copy", "t", value="1", source="k")
    .does(4, 5, "get", "t"),
    "unknown copy of another object": Story()
    .does(0, 1, "put", value="1")
    .does(0, 1, "put", "other", value="2")
    .maybe(2, "copy", "t", source="k")
    .does(4, 5, "get", "t", value="2"),
    "abort of what was completed": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "abort", upload="u"),
    "complete of what was aborted": Story()
    .does(0, 1, "abort", upload="u")
    .does(2, 3, "complete", value="1", upload="u"),
    "both ends of one upload": Story()
    .does(0, 3, "complete", value="1", upload="u")
    .does(1, 2, "abort", upload="u"),
    "part of what was completed": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "part", upload="u"),
    "completed twice over another write": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "put", value="2")
    .does(4, 5, "complete", value="1", upload="u"),
    "no such upload though open": Story().no(0, 1, "complete", "not-found", upload="u"),
    "listing of a former value": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "put", value="2")
    .lists(4, 5, "k=1"),
    "listing without a name": Story().does(0, 1, "put", value="1").lists(2, 3),
    "deleted bucket that was not empty": Story()
    .does(0, 1, "create-bucket", "")
    .does(2, 3, "put", value="1")
    .does(4, 5, "delete-bucket", ""),
    "put into a deleted bucket": Story()
    .does(0, 1, "create-bucket", "")
    .does(2, 3, "delete-bucket", "")
    .does(4, 5, "put", value="1"),
}

ALLOWED = {
    "reads while a write is on its way": Story()
    .does(0, 1, "put", value="1")
    .does(2, 9, "put", value="2")
    .does(3, 4, "get", value="1")
    .does(5, 6, "get", value="2"),
    "two reads of two writes at once": Story()
    .does(0, 9, "put", value="1")
    .does(0, 9, "put", value="2")
    .does(1, 2, "get", value="1")
    .does(3, 4, "get", value="2"),
    "unknown write late": Story()
    .maybe(0, "put", value="1")
    .does(2, 3, "put", value="2")
    .does(4, 5, "get", value="2")
    .does(6, 7, "get", value="1"),
    "unknown write never": Story().maybe(0, "put", value="1").does(2, 3, "get"),
    "refused by an unknown write": Story()
    .maybe(0, "put", value="1")
    .no(2, 3, "put", value="2", condition=IF_ABSENT)
    .does(4, 5, "get", value="1"),
    "free again by an unknown delete": Story()
    .does(0, 1, "put", value="1")
    .maybe(2, "delete")
    .does(4, 5, "put", value="2", condition=IF_ABSENT),
    "unknown chain": Story()
    .maybe(0, "put", value="1")
    .maybe(1, "put", value="2", condition="1")
    .does(2, 3, "get", value="2"),
    "conditional delete of nothing": Story().does(0, 1, "delete", condition="1"),
    "unknown copy": Story()
    .does(0, 1, "put", value="1")
    .maybe(2, "copy", "t", source="k")
    .does(4, 5, "get", "t", value="1"),
    "unknown copy of an unknown copy": Story()
    .does(0, 1, "put", value="1")
    .maybe(2, "copy", "t", source="k")
    .maybe(3, "copy", "s", source="t")
    .does(5, 6, "get", "s", value="1"),
    "complete answered again": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "complete", value="1", upload="u")
    .does(4, 5, "get", value="1"),
    "complete after an unknown complete": Story()
    .maybe(0, "complete", value="1", upload="u")
    .does(2, 3, "put", value="2")
    .no(4, 5, "complete", "not-found", upload="u")
    .does(6, 7, "get", value="2"),
    "no upload after an unknown abort": Story()
    .maybe(0, "abort", upload="u")
    .no(2, 3, "part", "not-found", upload="u"),
    "busy says nothing": Story().no(0, 1, "put", "busy", value="1").does(2, 3, "get"),
    "bucket deleted and made again": Story()
    .does(0, 1, "create-bucket", "")
    .does(2, 3, "delete-bucket", "")
    .no(4, 5, "put", "not-found", value="1")
    .does(6, 7, "create-bucket", "")
    .does(8, 9, "put", value="2"),
    "page with the new value": Story().does(0, 5, "put", value="1").lists(2, 3, "k=1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    findings = check(REFUSED[name].history())
    assert findings
    assert not any(finding.undecided for finding in findings)


@pytest.mark.parametrize("name", ALLOWED)
def test_is_allowed(name: str) -> None:
    assert check(ALLOWED[name].history()) == []


def test_the_first_operation_without_a_place_is_named_in_the_timeline() -> None:
    story = Story()
    for index in range(50):
        story.does(index * 10, index * 10 + 1, "put", value=str(index))
    story.does(500, 501, "get", value="48").does(510, 511, "get", value="7")
    (finding,) = check(story.history())
    lines = finding.explanation.splitlines()
    assert lines[0] == "no place for: 500.000000 .. 501.000000 c50 get = 48"
    assert lines[1] == "before it ended the key could hold: 49"
    assert lines[2] == "  (38 earlier operations are left out)"
    assert lines[-1] == "-> 500.000000 .. 501.000000 c50 get = 48"
    assert len(lines) == 16


def test_a_search_that_ends_at_its_bound_is_no_pass() -> None:
    story = Story()
    for index in range(8):
        story.does(0, 100, "put", value=str(index))
        story.does(200 + index * 2, 201 + index * 2, "get", value="0")
    (finding,) = check(story.history(), work_max=400)
    assert finding.undecided
    assert "UNDECIDED" in str(finding)
    assert check(story.history()) == []


def test_what_was_there_before_is_no_phantom() -> None:
    story = Story().does(0, 1, "get", value="old")
    assert check(story.history())
    assert check(story.history(), initial={("b", "k"): "old"}) == []


def test_keys_do_not_mix() -> None:
    story = Story().does(0, 1, "put", "a", value="1").does(2, 3, "get", "b", value="1")
    (finding,) = check(story.history())
    assert finding.subject == "b/b"
