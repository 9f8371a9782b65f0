"""HeadBucket."""

from pinfold.s3.acl import Permission
from pinfold.s3.call import Call
from pinfold.s3.request import Response


async def head_bucket(call: Call) -> Response:
    """Whether the bucket exists and the caller may list it."""
    bucket = await call.bucket(Permission.READ, fresh=True)
    return Response(200, [("x-amz-bucket-region", bucket.region)])
