"""GetBucketAcl and PutBucketAcl, canned ACLs only."""

from pinfold.s3 import acl, xml
from pinfold.s3.call import Call, xml_response
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
    document = await call.payload().whole(xml.DOCUMENT_BYTES_MAX)
    canned = acl.canned(call.request.headers, known)
    if canned is not None:
        if document:
            raise Refused("InvalidRequest", "an ACL by header and by document")
        return canned
    if not document:
        raise Refused("MissingSecurityHeader", "an ACL is required")
    return acl.from_xml(xml.parse(document, "AccessControlPolicy"), owner)
