"""Rows at rest that nobody will ask for again are found, and no others."""

from random import Random

from pinfold.cluster.api import Row
from pinfold.objects import keys
from pinfold.objects.records import BucketRecord, ShardRecord, SplitRecord, encode
from pinfold.sim.checkers.leftovers import check

LIFE, CHILD, UPLOAD = (keys.new_shard_id(Random(n)) for n in range(3))
BUCKET = keys.bucket_key(b"bucket")


def bucket(split=None):
    return Row(encode(BucketRecord("o", 0, "r", "private", LIFE, split)))


def cluster(*, split=None):
    """A bucket with one shard that holds an object."""
    return {
        BUCKET: bucket(split),
        keys.map_key(LIFE, b""): Row(encode(ShardRecord(LIFE, b""))),
        keys.object_key(LIFE, b"name"): Row(b""),
        keys.counter_key(CHILD): Row(b""),
    }


def test_a_shard_of_the_map_has_names():
    assert not check(cluster())


def test_a_shard_that_is_being_made_has_names():
    rows = cluster(split=SplitRecord(LIFE, b"", CHILD, b"m", 5))
    assert not check({**rows, keys.object_key(CHILD, b"name"): Row(b"")})


def test_a_shard_of_no_map_has_none():
    (found,) = check({**cluster(), keys.object_key(CHILD, b"name"): Row(b"")})
    assert found.subject == f"shard {CHILD.hex()}"


def test_parts_go_with_their_upload():
    rows = {**cluster(), keys.part_key(LIFE, b"name", UPLOAD, 1): Row(b"")}
    (found,) = check(rows)
    assert "1 parts of uploads that have ended" in found.explanation
    assert not check({**rows, keys.upload_key(LIFE, b"name", UPLOAD): Row(b"")})
