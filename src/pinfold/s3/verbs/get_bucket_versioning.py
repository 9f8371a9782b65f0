"""GetBucketVersioning: versioning was never enabled, which is an empty document."""

from pinfold.s3 import xml
from pinfold.s3.call import Call, xml_response
from pinfold.s3.request import Response


async def get_bucket_versioning(call: Call) -> Response:
    """The document of a bucket that never had versions."""
    await call.owned_bucket()
    return xml_response(xml.Writer("VersioningConfiguration").document())
