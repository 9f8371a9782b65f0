"""GetObjectAcl and PutObjectAcl, canned ACLs only."""

import msgspec

from pinfold.objects.objects import Found
from pinfold.objects.records import ObjectRecord
from pinfold.s3 import acl
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.request import Response
from pinfold.s3.verbs.bucket_acl import wanted_acl


async def get_object_acl(call: Call) -> Response:
    """Who may do what with the object."""
    call.demand_current_version()
    found = await call.found(Permission.READ_ACP)
    owner = await call.owner(found.record.owner)
    bucket_owner = await call.owner(found.bucket.owner)
    return xml_response(acl.to_xml(found.record.acl, owner, bucket_owner))


async def put_object_acl(call: Call) -> Response:
    """Set who may do what with the object; its bytes and their time stay."""
    call.demand_current_version()
    found = await call.found(Permission.WRITE_ACP)
    wanted = await wanted_acl(call, found.record.owner, acl.OBJECT_CANNED)

    def edit(current: Found) -> ObjectRecord:
        call.demand_of(current, Permission.WRITE_ACP)
        call.demand(current.record.owner == found.record.owner)  # whom the document names
        return msgspec.structs.replace(current.record, acl=wanted, modified_ms=current.modified_ms)

    await call.store.objects.rewrite(found.bucket, call.name, edit)
    return Response(200, [])
