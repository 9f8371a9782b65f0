"""AWS Signature Version 2, checked: what `aws s3 presign` still makes for endpoints of one's own.

HMAC-SHA1 over method, a few headers, the path and the sub-resources; the payload is not covered.
Query parameters that Version 2 does not sign must not change a request's meaning, so the router's
table is what protects: it refuses what it does not know. Described in the Amazon S3 API reference,
"Authenticating Requests (AWS Signature Version 2)".
"""

import hmac
from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from pinfold.s3.errors import Refused
from pinfold.s3.signature import EXPIRES_MAX_S, SKEW_S
from pinfold.s3.times import parse_date

_SIGNED_PARAMETERS: Final = frozenset(
    {
        "acl",
        "cors",
        "delete",
        "lifecycle",
        "location",
        "logging",
        "notification",
        "partNumber",
        "policy",
        "requestPayment",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "restore",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
    }
)
"""What belongs to the canonical resource."""

_MAY_BE_UNSIGNED: Final = frozenset(
    {
        "AWSAccessKeyId",
        "Expires",
        "Signature",
        "continuation-token",
        "delimiter",
        "encoding-type",
        "fetch-owner",
        "key-marker",
        "list-type",
        "marker",
        "max-keys",
        "max-parts",
        "max-uploads",
        "part-number-marker",
        "prefix",
        "start-after",
        "upload-id-marker",
        "x-id",
    }
)
"""Parameters Version 2 leaves out: they choose what a listing shows, never what is done."""


@dataclass(frozen=True, slots=True)
class ClaimV2:
    """Who a request says has signed it, and how."""

    access_key: str
    signature: str
    date: str
    """The Date line of the string to sign: a date, or the expiry of a presigned URL."""
    expires_s: int | None
    """Unix time at which a presigned URL ends; None for a signed header."""


def claim_of(authorization: str, query: dict[str, str], headers: dict[str, str]) -> ClaimV2 | None:
    """What the request claims under Version 2; None when it does not use it."""
    if authorization.startswith("AWS "):
        access_key, _, signature = authorization[4:].strip().rpartition(":")
        if not access_key or not signature:
            raise Refused("InvalidArgument", "AWS authorization header is invalid")
        date = "" if "x-amz-date" in headers else headers.get("date", "")
        return ClaimV2(access_key, signature, date, None)
    if not authorization and "Signature" in query and "AWSAccessKeyId" in query:
        expires = query.get("Expires", "")
        if not (expires.isascii() and expires.isdigit() and len(expires) <= 12):
            raise Refused("AccessDenied", "Invalid date (should be seconds since epoch)")
        return ClaimV2(query["AWSAccessKeyId"], query["Signature"], expires, int(expires))
    return None


def demand_in_time(claim: ClaimV2, headers: dict[str, str], now_s: float) -> None:
    """Refuse a claim whose time is over or too far from ours."""
    if claim.expires_s is not None:
        if now_s > claim.expires_s:
            raise Refused("AccessDenied", "Request has expired")
        if claim.expires_s - now_s > EXPIRES_MAX_S:
            raise Refused("AccessDenied", f"Expires is more than {EXPIRES_MAX_S} seconds away")
        return
    signed_s = parse_date(headers.get("x-amz-date") or claim.date)
    if signed_s is None:
        raise Refused("AccessDenied", "a valid Date or x-amz-date header is required")
    if abs(now_s - signed_s) > SKEW_S:
        raise Refused("RequestTimeTooSkewed")


def demand_signature(
    claim: ClaimV2,
    secret: str,
    *,
    method: str,
    path: str,
    query: dict[str, str],
    headers: dict[str, str],
) -> None:
    """Refuse a request that the secret's owner has not signed as it stands."""
    for name in query:
        if name not in _SIGNED_PARAMETERS and name not in _MAY_BE_UNSIGNED:
            raise Refused("AccessDenied", f"Version 2 does not sign the parameter {name}")
    for signed in _resources(path):
        text = string_to_sign(claim.date, method=method, path=signed, query=query, headers=headers)
        mac = hmac.digest(secret.encode(), text.encode("utf-8", "surrogateescape"), "sha1")
        if hmac.compare_digest(b64encode(mac), claim.signature.encode("utf-8", "replace")):
            return
    raise Refused("SignatureDoesNotMatch")


def _resources(path: str) -> tuple[str, ...]:
    """The forms in which clients sign a path: a bucket's, some end with the slash of its root."""
    return (path, f"{path}/") if len(path) > 1 and path.count("/") == 1 else (path,)


def string_to_sign(
    date: str, *, method: str, path: str, query: dict[str, str], headers: dict[str, str]
) -> str:
    """What is signed. `path` is as it came, percent signs and all, but begins with the bucket.

    The host is not signed: a bucket that it names would be anybody's to choose.
    """
    amazon = "".join(
        f"{name}:{headers[name].strip()}\n" for name in sorted(headers) if name.startswith("x-amz-")
    )
    signed = [
        f"{name}={query[name]}" if query[name] else name
        for name in sorted(query)
        if name in _SIGNED_PARAMETERS
    ]
    resource = path + ("?" + "&".join(signed) if signed else "")
    lines = (method, headers.get("content-md5", ""), headers.get("content-type", ""), date)
    return "\n".join(lines) + "\n" + amazon + resource
