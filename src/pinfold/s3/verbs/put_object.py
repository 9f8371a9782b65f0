"""PutObject."""

from pinfold.model.limits import PUT_BYTES
from pinfold.objects import digests
from pinfold.objects.records import Checksum, ObjectRecord
from pinfold.objects.staging import Staged
from pinfold.s3 import acl
from pinfold.s3.acl import Permission
from pinfold.s3.body import Payload
from pinfold.s3.call import Call
from pinfold.s3.describe import (
    checksum_headers,
    conditions_of,
    demand_standard_class,
    kept_headers,
    metadata_of,
)
from pinfold.s3.errors import Refused
from pinfold.s3.request import Response


async def put_object(call: Call) -> Response:
    """Store the body as the key's object."""
    headers = call.request.headers
    bucket = await call.bucket(Permission.WRITE)
    name = call.new_name
    demand_standard_class(headers)
    canned = acl.canned(headers, acl.OBJECT_CANNED)
    metadata = metadata_of(headers)
    conditions = conditions_of(headers)
    payload = call.payload()
    staged, checksum = await stage(call, payload)
    record = ObjectRecord(
        staged.sums[digests.MD5].hex(),
        staged.size,
        call.who.user,
        kept_headers(headers),
        metadata,
        acl=canned or acl.PRIVATE,
        checksum=checksum,
    )
    await call.store.objects.put(bucket, name, record, staged, conditions)
    return Response(200, [("ETag", f'"{record.etag}"'), *checksum_headers(checksum)])


async def stage(
    call: Call, payload: Payload, algorithm: str = "", *, size_max: int = PUT_BYTES
) -> tuple[Staged, Checksum]:
    """Store a body whose checksums are what the client declared; the bytes and a checksum.

    The checksum is `algorithm`'s, or the one the client declared, or the default one.
    """
    if payload.size > size_max:
        raise Refused("EntityTooLarge", extra=(("MaxSizeAllowed", str(size_max)),))
    algorithm = algorithm or payload.declared.algorithm or digests.DEFAULT_ALGORITHM
    staging = call.store.staging
    wanted = dict.fromkeys((algorithm, *payload.declared.algorithms))
    staged = await staging.stage(payload, payload.size, tuple(wanted), interruptible=True)
    try:
        await payload.finish()
        payload.demand_declared(staged.sums)
    except BaseException:
        await staging.discard(staged)
        raise
    return staged, Checksum(algorithm, staged.sums[algorithm])
