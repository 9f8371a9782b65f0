"""AbortMultipartUpload."""

from pinfold.s3.call import Call
from pinfold.s3.request import Response
from pinfold.s3.verbs.upload_part import open_upload


async def abort_multipart_upload(call: Call) -> Response:
    """Forget an open upload and its parts."""
    await call.store.multipart.abort(await open_upload(call))
    return Response(204, [])
