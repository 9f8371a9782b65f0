"""DeleteBucket."""

from pinfold.s3.call import Call
from pinfold.s3.request import Response


async def delete_bucket(call: Call) -> Response:
    """Delete an empty bucket; only its owner may."""
    await call.store.buckets.delete(await call.owned_bucket())
    return Response(204, [])
