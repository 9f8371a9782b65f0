"""Row keys: order of names is order of keys, whatever the names and whatever follows them."""

import random

from hypothesis import given
from hypothesis import strategies as st

from pinfold.codec import names
from pinfold.objects import keys

NAMES = st.binary(max_size=40) | st.text("ab/\x00\x01\xff", max_size=12).map(str.encode)
SHARD = keys.new_shard_id(random.Random(1))
UPLOAD = bytes(keys.UPLOAD_ID_BYTES)


def all_keys(name: bytes) -> list[bytes]:
    return [
        keys.object_key(SHARD, name),
        keys.upload_key(SHARD, name, UPLOAD),
        keys.touch_key(SHARD, name, UPLOAD),
        keys.part_key(SHARD, name, UPLOAD, 1),
        keys.part_key(SHARD, name, UPLOAD, 10_000),
    ]


@given(NAMES, NAMES)
def test_the_rows_of_a_name_sort_as_the_name_does_in_every_section(
    one: bytes, other: bytes
) -> None:
    if one < other:
        for mine in all_keys(one):
            behind = keys.at_position(SHARD, keys.section_of(mine), keys.behind_position(one))
            for theirs in all_keys(other):
                if keys.section_of(mine) == keys.section_of(theirs):
                    assert mine < behind < theirs
                assert keys.border_of(mine) < keys.border_of(behind) < keys.border_of(theirs)


@given(NAMES, NAMES)
def test_a_bound_at_a_name_leaves_the_names_below_to_the_shard(limit: bytes, name: bytes) -> None:
    bound = keys.border(SHARD, keys.prefix_position(limit))
    assert (keys.border(SHARD, keys.behind_position(name)) <= bound) == (name < limit)
    for key in all_keys(name):
        assert (keys.border_of(key + b"\x00") <= bound) == (name < limit)
        _, end = keys.section_range(SHARD, keys.section_of(key))
        assert keys.border_of(end) > bound


@given(NAMES)
def test_keys_of_a_name_ascend_and_name_it(name: bytes) -> None:
    rows = all_keys(name)
    assert rows == sorted(rows)
    assert {keys.object_name(key) for key in rows} == {name}
    start, end = keys.shard_range(SHARD)
    assert all(start <= key < end for key in rows)
    assert all(keys.in_shard(SHARD, keys.unsharded(key)) == key for key in rows)
    for key in rows:
        section = keys.section_of(key)
        start, end = keys.section_range(SHARD, section)
        assert start <= key < end
        assert keys.at_position(SHARD, section, keys.position(key)) == key


@given(NAMES, NAMES)
def test_a_prefix_finds_exactly_the_names_that_start_with_it(prefix: bytes, name: bytes) -> None:
    start = keys.prefix_key(SHARD, keys.OBJECTS, prefix)
    end = names.successor(start)
    assert end is not None
    assert (start <= keys.object_key(SHARD, name) < end) == name.startswith(prefix)


@given(st.integers())
def test_shard_ids_hold_no_zero_byte_so_the_first_terminator_ends_the_name(seed: int) -> None:
    shard = keys.new_shard_id(random.Random(seed))
    assert len(shard) == keys.SHARD_ID_BYTES
    assert 0 not in shard
    key = keys.object_key(shard, b"a\x00b")
    assert key.index(names.TERMINATOR) + len(names.TERMINATOR) == len(key)


def test_parts_are_found_by_their_range_and_the_touch_row_is_first() -> None:
    start, end = keys.part_range(SHARD, b"n", UPLOAD)
    rows = [keys.part_key(SHARD, b"n", UPLOAD, number) for number in (0, 1, 2, 10_000)]
    assert all(start <= key < end for key in rows)
    assert rows[0] == keys.touch_key(SHARD, b"n", UPLOAD)
    assert [keys.part_number(key) for key in rows] == [0, 1, 2, 10_000]


def test_upload_ids_sort_by_time() -> None:
    rng = random.Random(1)
    ids = [keys.new_upload_id(rng, now_ms) for now_ms in (1, 2, 1_790_000_000_000)]
    assert ids == sorted(ids)
    assert {len(upload) for upload in ids} == {keys.UPLOAD_ID_BYTES}


def test_account_rows_name_their_bucket() -> None:
    key = keys.account_bucket_key(b"al\x00ice", b"bucket")
    assert keys.account_bucket_name(b"al\x00ice", key) == b"bucket"
    start, end = keys.account_bucket_range(b"al\x00ice", b"buc")
    assert start <= key < end
