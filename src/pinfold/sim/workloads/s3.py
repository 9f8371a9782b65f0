"""A user's S3 client: signed requests to a gateway's front end, without sockets around them.

Answers come as plain values, refusals as the errors that the front end made its codes of. What
else a client could notice is judged here: bytes that are not those of the ETag, or not the range
that was asked for, are read as garbled.
"""

import hashlib
import hmac
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote
from xml.etree.ElementTree import Element, fromstring
from xml.sax.saxutils import escape

from pinfold.model.errors import Busy, Conflict, Corrupt, Full, Invalid, PinfoldError, Unavailable
from pinfold.objects.bucket import BucketNotEmpty, NoSuchBucket
from pinfold.objects.conditions import NoSuchKey, PreconditionFailed
from pinfold.objects.multipart import NoSuchUpload, PartMissing
from pinfold.s3.request import Request
from pinfold.sim.processes import GatewayProcess

REGION: Final = "us-east-1"

_CODE: Final = re.compile(rb"<Code>(.*?)</Code>")
_HOST: Final = "s3.sim"
_UNSIGNED: Final = "UNSIGNED-PAYLOAD"


class Denied(Invalid):
    """The user may not do that."""

    code = "denied"


class Unclear(Invalid):
    """A refusal of a request that names two things, without saying which of them it is about."""

    code = "unclear"


class NotModified(PinfoldError):
    """The client has what is there."""

    code = "not-modified"


@dataclass(frozen=True, slots=True)
class User:
    """Who signs."""

    id: str
    secret: str
    key: str = ""
    """The access key; empty: the one of those who have only one."""

    @property
    def access_key(self) -> str:
        """What the user signs with."""
        return self.key or f"key-of-{self.id}"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes
    length: int
    """Of the body; to HEAD, of what GET would send."""

    @property
    def etag(self) -> str:
        """Without its quotes."""
        return self.headers["etag"].strip('"')

    @property
    def document(self) -> Element:
        """The XML, without namespaces."""
        root = fromstring(self.body)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root


class _Body:
    """Bytes that come at once."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def read(self) -> bytes:
        """See `pinfold.s3.request.Body`."""
        content, self._content = self._content, b""
        return content


_ERRORS: Final[dict[str, type[PinfoldError]]] = {
    "AccessDenied": Denied,
    "BucketAlreadyExists": Conflict,
    "BucketAlreadyOwnedByYou": Conflict,
    "BucketNotEmpty": BucketNotEmpty,
    "InsufficientStorage": Full,
    "InternalError": Corrupt,
    "InvalidPart": PartMissing,
    "NoSuchBucket": NoSuchBucket,
    "NoSuchKey": NoSuchKey,
    "NoSuchUpload": NoSuchUpload,
    "NotModified": NotModified,
    "OperationAborted": Busy,
    "PreconditionFailed": PreconditionFailed,
    "ServiceUnavailable": Unavailable,
    "SlowDown": Busy,
}
"""What a code stands for; any other is Invalid."""

_STATUSES: Final[dict[int, str]] = {
    304: "NotModified",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    500: "InternalError",
    503: "ServiceUnavailable",
    507: "InsufficientStorage",
}
"""Codes of answers without a document, as those to HEAD."""


def error_of(code: str) -> PinfoldError:
    """The error that a code stands for."""
    return _ERRORS.get(code, Invalid)(code)


async def call(
    gateway: GatewayProcess,
    user: User,
    method: str,
    path: str,
    query: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Send a signed request; the answer, or the error that it tells of."""
    target = quote(path, safe="/-_.~")
    pairs = sorted((query or {}).items())
    asked = "&".join(
        f"{quote(name, safe='-_.~')}={quote(text, safe='-_.~')}" for name, text in pairs
    )
    wall_s = gateway.context.env.clock.wall()
    signed = {"host": _HOST, **(headers or {})}
    sent = _signed(user, wall_s, method, target, asked, signed)
    if body or method in ("PUT", "POST"):
        sent["content-length"] = str(len(body))
    request = Request(
        method=method,
        target=f"{target}?{asked}" if asked else target,
        headers=sent,
        body=_Body(body),
        id="sim",
    )
    response = await gateway.s3.respond(request)
    content = bytearray(response.body)
    if response.chunks is not None:
        try:
            if method != "HEAD":
                async for chunk in response.chunks:
                    for piece in chunk:
                        content += piece
        finally:
            await response.chunks.aclose()
    told = {name.lower(): value for name, value in response.headers}
    answer = Answer(response.status, told, bytes(content), response.length)
    if answer.status >= 300:
        raise error_of(_code(answer))
    return answer


async def copied(
    gateway: GatewayProcess,
    user: User,
    path: str,
    query: Mapping[str, str] | None = None,
    *,
    headers: Mapping[str, str],
) -> Answer:
    """Send a copy; Unclear where a refusal may be of the source's bucket or the target's."""
    try:
        return await call(gateway, user, "PUT", path, query, headers)
    except (NoSuchBucket, Denied) as error:
        raise Unclear("the source or the target") from error


def _code(answer: Answer) -> str:
    code = _CODE.search(answer.body)
    if code is not None:
        return code[1].decode()
    return _STATUSES.get(answer.status, str(answer.status))


def _signed(
    user: User, wall_s: float, method: str, path: str, query: str, headers: dict[str, str]
) -> dict[str, str]:
    """Headers with a signature of version 4 among them."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall_s))
    headers = {**headers, "x-amz-date": stamp, "x-amz-content-sha256": _UNSIGNED}
    names = sorted(headers)
    lines = [method, path, query, *(f"{name}:{headers[name]}" for name in names), ""]
    canonical = "\n".join([*lines, ";".join(names), _UNSIGNED])
    scope = f"{stamp[:8]}/{REGION}/s3/aws4_request"
    digest = hashlib.sha256(canonical.encode("latin-1")).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    signature = hmac.new(_key(user.secret, stamp[:8]), text.encode(), hashlib.sha256).hexdigest()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={user.access_key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return headers


@lru_cache(maxsize=256)
def _key(secret: str, date: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (date, REGION, "s3", "aws4_request"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    return key


# Documents


@dataclass(frozen=True, slots=True)
class Names:
    """A page of a listing."""

    objects: list[tuple[str, str, int]]
    """(name, ETag, size)."""
    prefixes: list[str]
    token: str
    """Where the next page starts; empty: nowhere."""

    @property
    def last(self) -> str:
        """The last name or prefix."""
        return max([name for name, _, _ in self.objects] + self.prefixes, key=str.encode)


@dataclass(frozen=True, slots=True)
class Listing:
    """One of the ways in which S3 lists names."""

    query: dict[str, str]
    after: str
    """The parameter that takes the name behind which it begins."""
    token: str
    """The parameter that takes `Names.token`."""


LISTINGS: Final = {
    "second": Listing({"list-type": "2"}, "start-after", "continuation-token"),
    "first": Listing({}, "marker", "marker"),
    "versions": Listing({"versions": ""}, "key-marker", "key-marker"),
}
"""By version of ListObjects, and ListObjectVersions."""


def names_of(answer: Answer) -> Names:
    """A page of any of `LISTINGS`, with names encoded for URLs."""
    root = answer.document
    objects = [
        (
            unquote(one.findtext("Key", "")),
            one.findtext("ETag", "").strip('"'),
            int(one.findtext("Size", "-1")),
        )
        for one in [*root.findall("Contents"), *root.findall("Version")]
    ]
    prefixes = [unquote(text.text or "") for text in root.findall("CommonPrefixes/Prefix")]
    token = root.findtext("NextContinuationToken", "")
    if not token and root.findtext("IsTruncated") == "true":
        marker = root.findtext("NextKeyMarker", "") or root.findtext("NextMarker", "")
        token = unquote(marker) or objects[-1][0]
    return Names(objects, prefixes, token)


def texts(answer: Answer, path: str) -> list[str]:
    """The texts of all elements at a path."""
    return [element.text or "" for element in answer.document.findall(path)]


def parts_document(parts: Sequence[tuple[int, str]]) -> bytes:
    """CompleteMultipartUpload: (number, ETag) of each part."""
    named = "".join(
        f'<Part><PartNumber>{number}</PartNumber><ETag>"{etag}"</ETag></Part>'
        for number, etag in parts
    )
    return f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()


def deletion_document(names: Sequence[str]) -> bytes:
    """DeleteObjects."""
    keys = "".join(f"<Object><Key>{escape(name)}</Key></Object>" for name in names)
    return f"<Delete>{keys}</Delete>".encode()


def copy_source(bucket: str, name: str) -> str:
    """The header that names the source of a copy."""
    return quote(f"/{bucket}/{name}", safe="/-_.~")
