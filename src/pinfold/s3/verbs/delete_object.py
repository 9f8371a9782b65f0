"""DeleteObject."""

from pinfold.model.limits import OBJECT_BYTES
from pinfold.objects.conditions import Conditions
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call
from pinfold.s3.describe import conditions_of
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.request import Response
from pinfold.s3.times import parse_date


async def delete_object(call: Call) -> Response:
    """Delete the key's object, or, without conditions, make sure that there is none."""
    call.demand_current_version()
    bucket = await call.bucket(Permission.WRITE)
    conditions = delete_conditions(call.request.headers)
    await call.store.objects.delete(bucket, call.name, conditions)
    return Response(204, [])


def delete_conditions(headers: dict[str, str]) -> Conditions:
    """What the request demands of the object that it deletes."""
    return stated_conditions(
        etag=headers.get("if-match"),
        modified=headers.get("x-amz-if-match-last-modified-time"),
        size=headers.get("x-amz-if-match-size"),
    )


def stated_conditions(*, etag: str | None, modified: str | None, size: str | None) -> Conditions:
    """Conditions of a delete from their texts; Refused when one makes no sense."""
    modified_s = None
    if modified is not None:
        modified_s = parse_date(modified)
        if modified_s is None:
            raise Refused("InvalidArgument", "the last modified time to match is no time")
    size_bytes = None
    if size is not None:
        size_bytes = parse_number(size, most=OBJECT_BYTES)
        if size_bytes is None:
            raise Refused("InvalidArgument", "the size to match is no object's size")
    tags = conditions_of({} if etag is None else {"if-match": etag}).if_match
    return Conditions(if_match=tags, modified_exactly_s=modified_s, size=size_bytes)
