"""GetBucketAcl and PutBucketAcl, canned ACLs only."""

from pinfold.s3 import acl
from pinfold.s3.call import Call, xml_response
from pinfold.s3.documents import POLICY
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response


async def get_bucket_acl(call: Call) -> Response:
    """Who may do what; only the owner may know."""
    bucket = await call.owned_bucket()
    return xml_response(acl.to_xml(bucket.acl, await call.owner(bucket.owner)))


async def put_bucket_acl(call: Call) -> Response:
    """Set who may do what; only the owner may."""
    bucket = await call.owned_bucket()
    wanted = await wanted_acl(call, bucket.owner, acl.BUCKET_CANNED)
    await call.store.buckets.set_acl(bucket, wanted)
    return Response(200, [])


async def wanted_acl(call: Call, owner: str, known: frozenset[str]) -> str:
    """The ACL that a request sets, by header or document, on what has this owner."""
    async with call.store.documents.read(
        call.payload(), POLICY, lambda policy: acl.from_xml(policy, owner)
    ) as stated:
        pass
    canned = acl.canned(call.request.headers, known)
    if canned is not None and stated is not None:
        raise Refused("InvalidRequest", "an ACL by header and by document")
    if canned is None and stated is None:
        raise Refused("MissingSecurityHeader", "an ACL is required")
    return canned or stated or acl.PRIVATE
