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
    "completion without a part that was stored meanwhile": Story()
    .does(0, 1, "part", value="1", upload="u", part=1)
    .does(2, 9, "complete", value="1", upload="u", parts=((1, "1"),))
    .does(3, 4, "part", value="2", upload="u", part=1),
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
    "request denied to the owner": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "get", user="alice", outcome="refused", error="denied"),
    "deletion denied to the owner": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "delete-bucket", "", user="alice", outcome="refused", error="denied"),
    "read under a condition that holds": Story()
    .does(0, 1, "put", value="1")
    .no(2, 3, "get", condition="1"),
    "bucket not listed": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(4, 5, "list-buckets", "", user="alice"),
}

ACCEPTED = {
    "completion repeated while its object is current": Story()
    .does(0, 1, "complete", value="1", upload="u")
    .does(2, 3, "complete", value="1", upload="u"),
    "completion without a part that may have come": Story()
    .does(0, 1, "part", value="1", upload="u", part=1)
    .does(2, 9, "complete", value="1", upload="u", parts=((1, "1"),))
    .does(3, 4, "part", value="2", upload="u", part=1, outcome="unknown"),
    "bucket made again by its owner": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "create-bucket", "", user="alice")
    .does(4, 5, "list-buckets", "", user="bob"),
    "request denied to another": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "get", user="bob", outcome="refused", error="denied"),
    "request denied to who was the owner": Story()
    .does(0, 1, "create-bucket", "", user="alice")
    .does(2, 3, "delete-bucket", "", user="alice")
    .does(2, 9, "put", value="1", user="alice", outcome="refused", error="denied")
    .does(4, 5, "create-bucket", "", user="bob"),
    "read under a condition that does not hold": Story()
    .does(0, 1, "put", value="1")
    .does(2, 3, "put", value="2")
    .no(4, 5, "get", condition="1"),
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


def listed(story: Story, *shown: str, prefix: str = "", after: str = "") -> bool:
    """Whether a listing may show these uploads, each `UPLOAD=NAME` or one of the story's name."""
    uploads_of_names = tuple(
        (upload, name or "k") for upload, _, name in (one.partition("=") for one in shown)
    )
    page = UploadsPage(
        client="c",
        bucket="b",
        prefix=prefix,
        after=after,
        uploads=uploads_of_names,
        began=10,
        ended=11,
    )
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


def test_listings_of_some_names_show_their_uploads_and_no_others() -> None:
    opened = (
        Story()
        .does(0, 1, "open", "a", value="u")
        .does(2, 3, "open", "b/1", value="v")
        .does(4, 5, "open", "b/2", value="w")
    )
    assert listed(opened, "u=a", "v=b/1", "w=b/2")
    assert listed(opened, "v=b/1", "w=b/2", prefix="b/")
    assert listed(opened, "w=b/2", prefix="b/", after="b/1")
    assert not listed(opened, "w=b/2", prefix="b/")
    assert not listed(opened, "u=a", "v=b/1", "w=b/2", prefix="b/")
    assert not listed(opened, "v=b/1", "w=b/2", after="b/1")
    assert not listed(opened, "w=b/2", "v=b/1", prefix="b/"), "out of order"
    assert not listed(opened, "u=b/0", "v=b/1", "w=b/2"), "under another name"
