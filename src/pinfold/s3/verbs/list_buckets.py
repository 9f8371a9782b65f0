"""ListBuckets."""

from pinfold.s3 import acl, xml
from pinfold.s3.call import Call, xml_response
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.paging import decode_token, encode_token
from pinfold.s3.request import Response
from pinfold.s3.times import iso_date

PAGE_MAX = 10_000
"""S3's own limit of one page."""


async def list_buckets(call: Call) -> Response:
    """The caller's buckets, by name. Nobody has none."""
    query = call.request.query
    limit = parse_number(query.get("max-buckets", str(PAGE_MAX)), most=PAGE_MAX)
    if not limit:
        raise Refused("InvalidArgument", f"max-buckets should be 1 to {PAGE_MAX}")
    token = query.get("continuation-token")
    prefix = query.get("prefix", "")
    buckets, following = await call.store.buckets.list(
        call.who.user,
        prefix=prefix,
        start=decode_token(token) if token else None,
        limit=limit,
    )
    region = query.get("bucket-region")
    writer = xml.Writer("ListAllMyBucketsResult")
    acl.write_owner(writer, "Owner", call.who)
    with writer.inside("Buckets"):
        for bucket in buckets:
            if region is not None and bucket.region != region:
                continue
            with writer.inside("Bucket"):
                writer.leaf("Name", bucket.name)
                writer.leaf("CreationDate", iso_date(bucket.created_ms))
                writer.leaf("BucketRegion", bucket.region)
    if prefix:
        writer.leaf("Prefix", prefix)
    if following is not None:
        writer.leaf("ContinuationToken", encode_token(following))
    return xml_response(writer.document())
