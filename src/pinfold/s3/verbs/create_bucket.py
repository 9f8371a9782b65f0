"""CreateBucket."""

import re
from typing import Final

from pinfold.model.limits import BUCKET_NAME_MAX, BUCKET_NAME_MIN
from pinfold.objects.bucket import BucketExists
from pinfold.s3 import acl
from pinfold.s3.call import Call
from pinfold.s3.documents import LOCATION, Node
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]*[a-z0-9]")
_ADDRESS: Final = re.compile(r"\d+\.\d+\.\d+\.\d+")

US_EAST: Final = "us-east-1"
"""The region where creating one's own bucket again is no error: old clients rely on it."""


async def create_bucket(call: Call) -> Response:
    """Create a bucket that belongs to the caller."""
    request, store = call.request, call.store
    call.demand(not call.who.anonymous)
    demand_bucket_name(request.bucket)
    canned = acl.canned(request.headers, acl.BUCKET_CANNED) or acl.PRIVATE
    if request.headers.get("x-amz-bucket-object-lock-enabled", "false").lower() == "true":
        raise Refused("NotImplemented", "object lock is not implemented")
    region = await _region(call)
    try:
        await store.buckets.create(request.bucket, owner=call.who.user, acl=canned, region=region)
    except BucketExists as exists:
        if not call.owns(exists.bucket.owner):
            raise
        if store.settings.region != US_EAST:
            raise Refused("BucketAlreadyOwnedByYou") from None
        await store.buckets.set_acl(exists.bucket, canned)
    return Response(200, [("Location", "/" + request.bucket)])


def demand_bucket_name(name: str) -> None:
    """Refused(InvalidBucketName) unless S3's rules for new buckets hold."""
    if (
        not BUCKET_NAME_MIN <= len(name) <= BUCKET_NAME_MAX
        or not _NAME.fullmatch(name)
        or ".." in name
        or ".-" in name
        or "-." in name
        or _ADDRESS.fullmatch(name)
        or name.startswith(("xn--", "sthree-", "amzn-s3-demo-"))
        or name.endswith(("-s3alias", "--ol-s3", ".mrap", "--x-s3"))
    ):
        raise Refused("InvalidBucketName", extra=(("BucketName", name),))


async def _region(call: Call) -> str:
    settings = call.store.settings
    stated = None
    if "content-length" in call.request.headers:
        async with call.store.documents.read(call.payload(), LOCATION, _constraint) as found:
            stated = found
    elif await call.unasked_body():
        raise Refused("MissingContentLength")
    region = stated or settings.region
    if region != settings.region and region not in settings.other_regions:
        raise Refused("InvalidLocationConstraint", extra=(("LocationConstraint", region),))
    return region


def _constraint(configuration: Node) -> str | None:
    for child in configuration.children():
        if child.name != "LocationConstraint":
            raise Refused("NotImplemented", f"{child.name} is not implemented")
    return configuration.text("LocationConstraint")
