"""CompleteMultipartUpload."""

import base64
import binascii
from typing import Final

from pinfold.model.limits import PART_NUMBER_MAX
from pinfold.objects import digests
from pinfold.objects.bucket import Bucket
from pinfold.objects.multipart import NamedPart
from pinfold.objects.records import ObjectRecord
from pinfold.s3 import xml
from pinfold.s3.acl import Permission
from pinfold.s3.body import CHECKSUM_PREFIX
from pinfold.s3.call import Call, xml_response
from pinfold.s3.describe import (
    checksum_element,
    checksum_text,
    checksum_type,
    conditions_of,
)
from pinfold.s3.documents import COMPLETE, Node
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number
from pinfold.s3.request import Response
from pinfold.s3.verbs.upload_part import demand_upload, upload_id

_ELEMENTS: Final = {checksum_element(name): name for name in digests.ALGORITHMS}


async def complete_multipart_upload(call: Call) -> Response:
    """Make the object of the parts that the document names."""
    headers = call.request.headers
    bucket = await call.bucket(Permission.WRITE, fresh=True)
    payload = call.payload(of_object=True)

    def verify(record: ObjectRecord) -> None:
        _demand_declared(headers, record)

    def authorise(current: Bucket, initiator: str) -> None:
        demand_upload(call, current, initiator)

    async with call.store.documents.read(payload, COMPLETE, _named_parts) as named:
        if not named:
            raise Refused("MalformedXML", "no part is named")
        record = await call.store.multipart.complete(
            bucket,
            call.name,
            upload_id(call),
            named,
            conditions_of(headers),
            authorise=authorise,
            verify=verify,
        )
    writer = xml.Writer("CompleteMultipartUploadResult")
    host = headers.get("host", "")
    writer.leaf("Location", f"http://{host}{call.request.path}")
    writer.leaf("Bucket", bucket.name)
    writer.leaf("Key", call.request.key)
    writer.leaf("ETag", f'"{record.etag}"')
    if record.checksum is not None:
        writer.leaf(checksum_element(record.checksum.algorithm), checksum_text(record.checksum))
        writer.leaf("ChecksumType", checksum_type(record.checksum))
    return xml_response(writer.document())


def _named_parts(document: Node) -> list[NamedPart]:
    return [_named_part(node) for node in document.children("Part")]


def _named_part(node: Node) -> NamedPart:
    number = parse_number(node.text("PartNumber") or "", most=PART_NUMBER_MAX)
    etag = node.text("ETag")
    if not number or etag is None:
        raise Refused("MalformedXML", "a part has a number and an ETag")
    checksums: dict[str, bytes] = {}
    for child in node.children():
        algorithm = _ELEMENTS.get(child.name)
        if algorithm is not None:
            checksums[algorithm] = _base64(child.own_text())
        elif child.name.startswith("Checksum"):
            raise Refused("NotImplemented", f"{child.name} is not implemented")
    return NamedPart(number, etag.strip().strip('"').lower(), checksums)


def _demand_declared(headers: dict[str, str], record: ObjectRecord) -> None:
    """Refuse the object if it is not of the size, or has not the checksum, that was declared."""
    size = headers.get("x-amz-mp-object-size")
    if size is not None and size != str(record.size):
        raise Refused("InvalidRequest", "the object's size is not x-amz-mp-object-size")
    kind = headers.get("x-amz-checksum-type")
    checksum = record.checksum
    if kind is not None and checksum is not None and kind != checksum_type(checksum):
        raise Refused("InvalidRequest", f"the upload's checksum type is not {kind}")
    for algorithm in digests.ALGORITHMS:
        declared = headers.get(CHECKSUM_PREFIX + algorithm)
        if declared is None:
            continue
        if checksum is None or checksum.algorithm != algorithm:
            raise Refused("InvalidRequest", f"the upload's checksum algorithm is not {algorithm}")
        if checksum_text(checksum).partition("-")[0] != declared.partition("-")[0]:
            raise Refused("BadDigest", f"The {algorithm.upper()} you specified did not match.")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("InvalidPart", "a part's checksum is not valid") from None
