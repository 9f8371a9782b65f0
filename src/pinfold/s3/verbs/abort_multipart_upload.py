"""AbortMultipartUpload."""

from pinfold.s3.acl import Permission
from pinfold.s3.call import Call
from pinfold.s3.request import Response
from pinfold.s3.verbs.upload_part import upload_id


async def abort_multipart_upload(call: Call) -> Response:
    """Forget an open upload and its parts."""
    bucket = await call.bucket(Permission.WRITE, fresh=True)
    await call.store.multipart.abort(bucket, call.name, upload_id(call))
    return Response(204, [])
