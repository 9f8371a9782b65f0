"""DeleteObjects: up to 1,000 keys in one request, each with its own outcome."""

import asyncio
from typing import Final, NamedTuple

from pinfold.env.tasks import TaskScope
from pinfold.model.errors import PinfoldError
from pinfold.model.limits import OBJECT_NAME_BYTES
from pinfold.objects.bucket import Bucket, NoSuchBucket
from pinfold.s3 import xml
from pinfold.s3.acl import Permission
from pinfold.s3.call import Call, xml_response
from pinfold.s3.documents import DELETE, Node
from pinfold.s3.errors import Refused, refusal_of
from pinfold.s3.request import Response
from pinfold.s3.verbs.delete_object import stated_conditions

KEYS_MAX: Final = 1000
"""S3's own limit."""

IN_FLIGHT: Final = 32
"""Deletes of one request under way at once: enough to share the log's flushes."""


class _Listed(NamedTuple):
    """An object to delete, as the document states it."""

    key: str
    version: str | None
    etag: str | None
    modified: str | None
    size: str | None


async def delete_objects(call: Call) -> Response:
    """Delete each key listed; tell what was deleted and what was not, and why.

    The whole document is read first: one that is malformed deletes nothing.
    """
    bucket = await call.bucket(Permission.WRITE, fresh=True)
    async with call.store.documents.read(call.payload(), DELETE, _asked) as asked:
        if asked is None:
            raise Refused("MalformedXML")
        return await _deleted(call, bucket, *asked)


async def _deleted(call: Call, bucket: Bucket, listed: list[_Listed], quiet: bool) -> Response:
    outcomes = await _delete_all(call, bucket, listed)
    writer = xml.Writer("DeleteResult")
    for one, error in zip(listed, outcomes, strict=True):
        if error is None and quiet:
            continue
        with writer.inside("Deleted" if error is None else "Error"):
            writer.leaf("Key", one.key)
            if one.version:
                writer.leaf("VersionId", one.version)
            if error is not None:
                writer.leaf("Code", error.s3_code)
                writer.leaf("Message", error.message)
    return xml_response(writer.document())


async def _delete_all(call: Call, bucket: Bucket, listed: list[_Listed]) -> list[Refused | None]:
    """Each key's outcome, in order. NoSuchBucket when the bucket goes meanwhile."""
    outcomes: list[Refused | None] = [None] * len(listed)
    remaining = iter(enumerate(listed))

    async def work() -> None:
        for index, one in remaining:
            try:
                await _delete_one(call, bucket, one)
            except NoSuchBucket:
                raise
            except PinfoldError as error:
                outcomes[index] = refusal_of(error)

    scope = TaskScope(_seen_by_whoever_awaits)
    try:
        workers: list[asyncio.Task[None]] = [
            scope.start(work()) for _ in range(min(IN_FLIGHT, len(listed)))
        ]
        for worker in workers:
            await worker
    finally:
        await scope.close()
    return outcomes


async def _delete_one(call: Call, bucket: Bucket, one: _Listed) -> None:
    name = one.key.encode()
    if not name:
        raise Refused("MalformedXML", "an object without its key")
    if len(name) > OBJECT_NAME_BYTES:
        raise Refused("KeyTooLongError")
    if one.version not in (None, "", "null"):
        raise Refused("NoSuchVersion")
    conditions = stated_conditions(etag=one.etag, modified=one.modified, size=one.size)
    await call.store.objects.delete(bucket, name, conditions)


def _asked(document: Node) -> tuple[list[_Listed], bool]:
    """What is to be deleted, and whether only errors are to be told."""
    nodes = document.children("Object")
    if not 1 <= len(nodes) <= KEYS_MAX:
        raise Refused("MalformedXML", f"1 to {KEYS_MAX} objects can be deleted at once")
    return [_listed(node) for node in nodes], (document.text("Quiet") or "").lower() == "true"


def _listed(node: Node) -> _Listed:
    return _Listed(
        key=node.text("Key") or "",
        version=node.text("VersionId"),
        etag=node.text("ETag"),
        modified=node.text("LastModifiedTime"),
        size=node.text("Size"),
    )


def _seen_by_whoever_awaits(error: BaseException) -> None:
    """Failures of the scope's tasks are raised where the task is awaited."""
