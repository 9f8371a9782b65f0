"""OPTIONS: no bucket has a CORS configuration, so no preflight succeeds."""

from pinfold.s3.call import Call
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response


async def preflight_cors(call: Call) -> Response:
    """Refused, in the words of S3 for a bucket without CORS."""
    if "origin" not in call.request.headers:
        raise Refused("BadRequest", "Insufficient information. Origin request header needed.")
    raise Refused("AccessForbidden", "CORSResponse: CORS is not enabled for this bucket.")
