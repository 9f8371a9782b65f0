"""Uploads with rivals, their parts and listings; buckets that change hands."""

import pytest

from pinfold.sim.checkers import linearizable, uploads
from pinfold.sim.checkers.history import History, UploadsPage
from tests.sim.checkers.stories import Story

REFUSED = {
    "completion answered with another upload's object": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "complete", value="2", upload="w")
    .does(4, 5, "complete", value="2", upload="u"),
    "part that a listing shows after it was replaced": Story()
    .does(0, 1, "part", value="1", upload="u", part=1)
    .does(2, 3, "part", value="2", upload="u", part=1)
    .does(4, 5, "list-parts", value="1", upload="u", part=1),
    "part that a listing does not show": Story()
    .does(0, 1, "part", value="1", upload="u", part=1)
    .does(4, 5, "list-parts", upload="u", part=1),
    "completion of a part that was replaced": Story()
    .does(0, 1, "part", value="1", upload="u", part=1)
    .does(2, 3, "part", value="2", upload="u", part=1)
    .does(4, 5, "complete", value="1", upload="u", parts=((1, "1"),)),
    "put into the bucket of somebody else": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "delete-bucket", "", user="alice")
    .does(4, 5, "create-bucket", "", user="bob")
    .does(6, 7, "put", value="1", user="alice"),
    "listing of the bucket of somebody else": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .lists(4, 5, user="bob"),
    "bucket made over another's": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "create-bucket", "", user="bob"),
    "deletion by another": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "delete-bucket", "", user="bob"),
    "bucket listed after its deletion": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "delete-bucket", "", user="alice")
    .does(4, 5, "list-buckets", "", "alice", user="alice"),
    "bucket not listed": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(4, 5, "list-buckets", "", user="alice"),
}

ACCEPTED = {
    "completion repeated while its object is current": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "complete", value="1", upload="u"),
    "bucket made again by its owner": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "create-bucket", "", user="alice")
    .does(4, 5, "list-buckets", "", user="bob"),
    "bucket that changed hands under a request": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 9, "put", value="1", user="alice")
    .does(3, 4, "delete", user="alice")
    .does(5, 6, "delete-bucket", "", user="alice")
    .does(7, 8, "create-bucket", "", user="bob"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    assert linearizable.check(REFUSED[name].history())


@pytest.mark.parametrize("name", ACCEPTED)
def test_is_accepted(name: str) -> None:
    assert not linearizable.check(ACCEPTED[name].history())


def listed(story: Story, *shown: str) -> bool:
    page = UploadsPage(client="c", bucket="b", uploads=shown, began=10, ended=11)
    history = History(operations=tuple(story.operations), uploads_pages=(page,))
    return not uploads.check(history)


def test_open_uploads_are_listed_and_ended_ones_are_not() -> None:
    opened = Story().does(0, 1, "open", value="u")
    assert listed(opened, "u")
    assert not listed(opened)
    assert not listed(opened, "u", "u")
    ended = Story().does(0, 1, "open", value="u").does(2, 3, "abort", upload="u")
    assert listed(ended)
    assert not listed(ended, "u")
    racing = Story().does(0, 1, "open", value="u").does(9, 12, "abort", upload="u")
    assert listed(racing)
    assert listed(racing, "u")
