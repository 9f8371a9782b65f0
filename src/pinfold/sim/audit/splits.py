"""Splits of shards, as the rows of all groups show them: none ends before it is closed.

A worker who is late may take the steps of a split that others have ended (`objects/splitting.py`,
8): what makes him change nothing is that the parent's bound was closed for it before. Of a hundred
splits that end unclosed one may meet such a worker.
"""

from collections.abc import Callable

from pinfold.cluster.api import Row
from pinfold.objects.records import BucketRecord, SplitRecord, decode
from pinfold.objects.shards import bound_of


class Splits:
    """Of all buckets. Rows are told in the order in which their groups write them."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._under_way: dict[bytes, tuple[bytes, SplitRecord]] = {}
        """By key of the bucket's row, its life and split."""
        self._closed: set[bytes] = set()
        """Children for whose split the parent's bound has been closed."""

    def wrote(self, key: bytes, row: Row) -> None:
        """A row has been put."""
        if key[:1] == b"x":
            self._closed.add(bound_of(row).closed)
        elif key[:1] == b"b":
            record = decode(BucketRecord, row.body)
            life, split = self._under_way.pop(key, (b"", None))
            ended = split is not None and (record.life, record.split) == (life, None)
            if split is not None and ended and split.child not in self._closed:
                self._say(f"the split of {key!r} into {split.child.hex()} ends and is not closed")
            if record.split is not None:
                self._under_way[key] = (record.life, record.split)

    def deleted(self, key: bytes) -> None:
        """A row is gone; a bucket's, and its split with it."""
        self._under_way.pop(key, None)
