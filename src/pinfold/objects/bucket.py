"""A bucket as use cases hold it: what its row said, and by what authority its holder acts in it.

A name may be deleted and made again, by another owner, while a request is under way. Each *life* of
a name has shards of its own, which take no write once it is over; so a change made by what an older
row said can only land in the life that was read. Whoever looks the name up again for a holder
demands the holder's authority of what is found then: nothing allowed by one owner is done to the
bucket of the next.
"""

from collections.abc import Callable

import msgspec

from pinfold.model.errors import Conflict, Invalid, NotFound
from pinfold.objects.records import BucketRecord, SplitRecord


class NoSuchBucket(NotFound):
    """There is no bucket of this name, or what it was when it was looked up is gone."""


class NotAllowed(Invalid):
    """The bucket does not allow what its holder is about to do."""


class BucketExists(Conflict):
    """The name is taken; `bucket` says by which one."""

    def __init__(self, bucket: "Bucket") -> None:
        super().__init__("the bucket exists")
        self.bucket = bucket


class BucketNotEmpty(Conflict):
    """The bucket holds objects or open uploads."""


Authority = Callable[["Bucket"], bool]
"""Whether its holder may do what is under way to a bucket of the name it was looked up by."""


def unlimited(_bucket: "Bucket") -> bool:
    """The authority of callers that act for nobody in particular."""
    return True


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket as it was when its row was read."""

    name: str
    owner: str
    acl: str
    region: str
    created_ms: int
    life: bytes
    """Tells this bucket from others before and after it that had its name."""
    version: int
    split: SplitRecord | None = None
    deleting: bytes = b""
    """The attempt to delete it that is under way."""
    authority: Authority = unlimited
    """What its holder demands of every later reading of the bucket's row."""

    def held_by(self, authority: Authority) -> "Bucket":
        """The bucket for a holder; NotAllowed."""
        if not authority(self):
            raise NotAllowed("Access Denied")
        if authority is self.authority:
            return self
        return msgspec.structs.replace(self, authority=authority)


def bucket_of(name: str, record: BucketRecord, version: int) -> Bucket:
    """The bucket that a row of this version describes."""
    return Bucket(
        name=name,
        owner=record.owner,
        acl=record.acl,
        region=record.region,
        created_ms=record.created_ms,
        life=record.life,
        version=version,
        split=record.split,
        deleting=record.deleting,
    )
