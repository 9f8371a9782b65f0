"""GetBucketLocation."""

from pinfold.s3 import xml
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.request import Response
from pinfold.s3.verbs.create_bucket import US_EAST


async def get_bucket_location(call: Call) -> Response:
    """The region that the bucket was created in; us-east-1 is told as an empty element."""
    bucket = await call.bucket(Permission.READ)
    writer = xml.Writer("LocationConstraint")
    if bucket.region != US_EAST:
        writer.raw(xml.escape(bucket.region))
    return xml_response(writer.document())
