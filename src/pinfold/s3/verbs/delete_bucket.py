"""DeleteBucket."""

from pinfold.s3.call import Call
from pinfold.s3.request import Response


async def delete_bucket(call: Call) -> Response:
    """Delete an empty bucket; only its owner may."""
    bucket = await call.owned_bucket()
    await call.store.buckets.delete(bucket.name)
    return Response(204, [])
