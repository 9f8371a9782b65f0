"""AWS Signature Version 4, checked: pure functions over what the request said.

A signature proves that the sender of exactly these method, path, query, signed headers and payload
hash knows the secret. What is not signed must not change the request's meaning: headers that begin
with x-amz- are refused when unsigned. Described in the Amazon S3 API reference, "Authenticating
Requests (AWS Signature Version 4)".
"""

import calendar
import hashlib
import hmac
import re
import time
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus, unquote_to_bytes

import msgspec

from pinfold.s3.errors import Refused
from pinfold.s3.times import parse_date

ALGORITHM: Final = "AWS4-HMAC-SHA256"
SKEW_S: Final = 15 * 60
"""How far a request's time may be off: S3's rule."""

EXPIRES_MAX_S: Final = 7 * 24 * 3600
"""Longest life of a presigned URL: S3's rule."""

SIGNING_KEYS_MAX: Final = 4096
"""Signing keys remembered (one per secret, day and region); more empties the cache."""

SIGNERS_MAX: Final = 1024
SIGNER_CHARS_MAX: Final = 512
"""Beginnings of Authorization headers remembered, and how long one may be for that."""

UNSIGNED: Final = "UNSIGNED-PAYLOAD"
STREAMING: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
STREAMING_TRAILER: Final = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
STREAMING_UNSIGNED_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
TRAILING: Final = frozenset({STREAMING_TRAILER, STREAMING_UNSIGNED_TRAILER})
CHUNKED: Final = TRAILING | {STREAMING}

_SIGNER: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=(?P<credential>[^,\s]+)\s*,"
    r"\s*SignedHeaders=(?P<signed>[^,\s]+)\s*,\s*"
)
_SIGNATURE: Final = re.compile(r"(?P<signature>[0-9a-fA-F]+)\s*")
_STAMP: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_PLAIN_PATH: Final = re.compile(r"[A-Za-z0-9\-._~/]*")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_SPACES: Final = re.compile(r" {2,}")


class Claim(msgspec.Struct, frozen=True):
    """Who a request says has signed it, how, and when."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    stamp: str
    """When, as signed: 20261122T181500Z."""
    payload_hash: str
    expires_s: int | None
    """Set for presigned URLs: how long after `stamp` they are valid."""

    @property
    def scope(self) -> str:
        """What the signing key is good for."""
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def claim_of(authorization: str, query: dict[str, str], headers: dict[str, str]) -> Claim | None:
    """What the request claims; None when it is anonymous. Refused when it cannot be understood."""
    if authorization:
        return _claim_of_header(authorization, headers)
    if "X-Amz-Signature" in query or "X-Amz-Algorithm" in query:
        return _claim_of_query(query, headers)
    return None


def _claim_of_header(authorization: str, headers: dict[str, str]) -> Claim:
    signer, _, end = authorization.rpartition("Signature=")
    found = _SIGNATURE.fullmatch(end)
    if found is None:
        raise _unreadable(authorization)
    parse = _signer if len(signer) <= SIGNER_CHARS_MAX else _signer.__wrapped__
    access_key, date, region, service, names = parse(signer)
    signature = found["signature"]
    stamp = _stamp(headers.get("x-amz-date") or headers.get("date", ""))
    if not stamp:
        raise Refused("AccessDenied", "a valid Date or x-amz-date header is required")
    if stamp[:8] != date:
        raise Refused("AuthorizationHeaderMalformed", "the credential's date is not the request's")
    payload_hash = headers.get("x-amz-content-sha256", "")
    if not payload_hash:
        raise Refused("MissingSecurityHeader", "x-amz-content-sha256 is required")
    _demand_payload_hash(payload_hash)
    return Claim(
        access_key, date, region, service, names, signature.lower(), stamp, payload_hash, None
    )


@lru_cache(maxsize=SIGNERS_MAX)
def _signer(text: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    """(access key, date, region, service, signed headers): all of a header before its signature.

    A client's requests share it for a day.
    """
    found = _SIGNER.fullmatch(text)
    if found is None:
        raise _unreadable(text)
    credential, signed = found.groups()
    scope = _scope(credential, "AuthorizationHeaderMalformed")
    return (*scope, tuple(signed.lower().split(";")))


def _unreadable(authorization: str) -> Refused:
    if not authorization.startswith(ALGORITHM):
        return Refused("InvalidArgument", "Unsupported Authorization Type")
    return Refused("AuthorizationHeaderMalformed")


def _claim_of_query(query: dict[str, str], headers: dict[str, str]) -> Claim:
    def refuse(why: str) -> Refused:
        return Refused("AuthorizationQueryParametersError", why)

    if query.get("X-Amz-Algorithm") != ALGORITHM:
        raise refuse(f"X-Amz-Algorithm only supports {ALGORITHM}")
    try:
        credential, stamp = query["X-Amz-Credential"], query["X-Amz-Date"]
        signed, signature = query["X-Amz-SignedHeaders"], query["X-Amz-Signature"]
        expires = int(query["X-Amz-Expires"])
    except KeyError as missing:
        raise refuse(f"{missing.args[0]} is missing") from None
    except ValueError:
        raise refuse("X-Amz-Expires should be a number") from None
    if not 1 <= expires <= EXPIRES_MAX_S:
        raise Refused("AccessDenied", f"X-Amz-Expires must be 1 to {EXPIRES_MAX_S} seconds")
    access_key, date, region, service = _scope(credential, "AuthorizationQueryParametersError")
    if not _STAMP.fullmatch(stamp) or stamp[:8] != date:
        raise refuse("X-Amz-Date is not valid")
    payload_hash = query.get("X-Amz-Content-Sha256") or headers.get("x-amz-content-sha256", "")
    payload_hash = payload_hash or UNSIGNED
    _demand_payload_hash(payload_hash)
    names = tuple(signed.lower().split(";"))
    return Claim(
        access_key, date, region, service, names, signature.lower(), stamp, payload_hash, expires
    )


def _scope(credential: str, code: str) -> tuple[str, str, str, str]:
    parts = credential.rsplit("/", 4)
    if len(parts) != 5 or parts[4] != "aws4_request" or parts[3] != "s3" or not parts[0]:
        raise Refused(code, "the credential should be KEY/DATE/REGION/s3/aws4_request")
    return parts[0], parts[1], parts[2], parts[3]


def _demand_payload_hash(value: str) -> None:
    if value == UNSIGNED or value in CHUNKED or _HASH.fullmatch(value):
        return
    if value.startswith("STREAMING-AWS4-ECDSA"):
        raise Refused("NotImplemented", "Signature Version 4A is not implemented")
    raise Refused("InvalidArgument", "x-amz-content-sha256 is not valid")


def _stamp(date: str) -> str:
    """The stamp that a date header stands for: it may be an HTTP date. Empty when it is none."""
    if _STAMP.fullmatch(date):
        return date
    second = parse_date(date)
    return "" if second is None else time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(second))


def stamp_s(stamp: str) -> int:
    """The Unix time of a stamp; Refused when it is none."""
    try:
        return calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise Refused("AccessDenied", "the request's time is not valid") from None


def demand_region(claim: Claim, region: str) -> None:
    """Refuse a claim that is good for another region, in S3's words: clients correct themselves."""
    if claim.region == region:
        return
    wrong = f"the region '{claim.region}' is wrong; expecting '{region}'"
    extra = (("Region", region),)
    if claim.expires_s is None:
        text = f"The authorization header is malformed; {wrong}"
        raise Refused("AuthorizationHeaderMalformed", text, extra=extra)
    text = f"Error parsing the X-Amz-Credential parameter; {wrong}"
    raise Refused("AuthorizationQueryParametersError", text, extra=extra)


class SigningKeys:
    """Signing keys and parsed stamps, remembered: both repeat in nearly every request."""

    def __init__(self) -> None:
        self._keys: dict[tuple[str, str, str], bytes] = {}
        self._stamp = ("", 0)

    def key(self, secret: str, date: str, region: str) -> bytes:
        """The key that signs for one day, region and the service s3."""
        remembered = (secret, date, region)
        key = self._keys.get(remembered)
        if key is None:
            if len(self._keys) >= SIGNING_KEYS_MAX:
                self._keys.clear()
            key = ("AWS4" + secret).encode()
            for word in (date, region, "s3", "aws4_request"):
                key = hmac.digest(key, word.encode(), "sha256")
            self._keys[remembered] = key
        return key

    def demand_in_time(self, claim: Claim, now_s: float) -> None:
        """Refuse a claim whose time is over or too far from ours."""
        if self._stamp[0] != claim.stamp:
            self._stamp = (claim.stamp, stamp_s(claim.stamp))
        signed_s = self._stamp[1]
        if claim.expires_s is None:
            if abs(now_s - signed_s) > SKEW_S:
                raise Refused("RequestTimeTooSkewed")
        elif now_s > signed_s + claim.expires_s:
            raise Refused("AccessDenied", "Request has expired")
        elif now_s < signed_s - SKEW_S:
            raise Refused("AccessDenied", "Request is not valid yet")


def demand_headers_signed(claim: Claim, headers: dict[str, str]) -> None:
    """Refuse a request with x-amz- headers, or a host, that its signature does not cover."""
    signed = claim.signed_headers
    if "host" not in signed:
        raise Refused("AccessDenied", "the host header must be signed")
    for name in headers:
        if name.startswith("x-amz-") and name not in signed and name != "x-amz-content-sha256":
            raise Refused(
                "AccessDenied",
                "There were headers present in the request which were not signed",
                extra=(("HeadersNotSigned", name),),
            )


def demand_signature(
    claim: Claim,
    key: bytes,
    *,
    method: str,
    path: str,
    raw_query: str,
    headers: dict[str, str],
) -> None:
    """Refuse a request whose signature is not the one `key` makes.

    Some clients (git-annex) sign the host without its port and send it with one: a port says
    nothing that matters here, so that is a signature, too.
    """
    canonical = canonical_request(
        method, path, raw_query, headers, claim.signed_headers, claim.payload_hash
    )
    signed = string_to_sign(claim, canonical)
    if _signs(claim, key, signed):
        return
    host, _, port = headers.get("host", "").rpartition(":")
    if port.isdigit():
        portless = canonical_request(
            method,
            path,
            raw_query,
            headers | {"host": host},
            claim.signed_headers,
            claim.payload_hash,
        )
        if _signs(claim, key, string_to_sign(claim, portless)):
            return
    raise Refused(
        "SignatureDoesNotMatch",
        extra=(
            ("AWSAccessKeyId", claim.access_key),
            ("StringToSign", signed),
            ("SignatureProvided", claim.signature),
            ("CanonicalRequest", canonical),
        ),
    )


def _signs(claim: Claim, key: bytes, text: str) -> bool:
    """Whether the claim's signature is of this text."""
    expected = hmac.digest(key, text.encode(), "sha256").hex()
    # As bytes: what a URL gives for a signature may be any text, which compare_digest takes not.
    return hmac.compare_digest(expected.encode(), claim.signature.encode())


def string_to_sign(claim: Claim, canonical: str) -> str:
    """What the signature is of."""
    digest = hashlib.sha256(canonical.encode("latin-1", "replace")).hexdigest()
    return f"{ALGORITHM}\n{claim.stamp}\n{claim.scope}\n{digest}"


def canonical_request(
    method: str,
    path: str,
    raw_query: str,
    headers: dict[str, str],
    signed_headers: tuple[str, ...],
    payload_hash: str,
) -> str:
    """The request in the one form that both sides sign."""
    lines = [method, canonical_path(path), canonical_query(raw_query) if raw_query else ""]
    for name in signed_headers:
        value = headers.get(name, "").strip()
        lines.append(f"{name}:{_SPACES.sub(' ', value) if '  ' in value else value}")
    lines.append("")
    lines.append(";".join(signed_headers))
    lines.append(payload_hash)
    return "\n".join(lines)


def canonical_path(path: str) -> str:
    """Each byte of the decoded path, encoded once; nothing is normalised."""
    if _PLAIN_PATH.fullmatch(path):
        return path
    decoded = unquote_to_bytes(path.encode("utf-8", "surrogateescape"))
    return quote(decoded, safe="/-_.~")


def canonical_query(raw: str) -> str:
    """All parameters but the signature, encoded once and sorted by encoded name, then value."""
    pairs: list[tuple[str, str]] = []
    for pair in raw.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            if name != "X-Amz-Signature":
                pairs.append((_requoted(name), _requoted(value)))
    pairs.sort()
    return "&".join(f"{name}={value}" for name, value in pairs)


def _requoted(text: str) -> str:
    if _PLAIN_PATH.fullmatch(text) and "/" not in text:
        return text
    decoded = unquote_plus(text, encoding="utf-8", errors="surrogateescape")
    return quote(decoded, safe="-_.~", errors="surrogateescape")


class ChunkSigner:
    """Signatures of the chunks of one streamed body, each over the one before."""

    __slots__ = ("_context", "_key", "_previous")

    def __init__(self, claim: Claim, key: bytes) -> None:
        self._key = key
        self._context = f"{claim.stamp}\n{claim.scope}"
        self._previous = claim.signature

    def demand_chunk(self, digest_hex: str, signature: str) -> None:
        """Refuse the next chunk unless `signature` is of its SHA-256."""
        empty = hashlib.sha256(b"").hexdigest()
        self._demand("AWS4-HMAC-SHA256-PAYLOAD", f"{empty}\n{digest_hex}", signature)

    def demand_trailer(self, digest_hex: str, signature: str) -> None:
        """Refuse the trailer unless `signature` is of its SHA-256."""
        self._demand("AWS4-HMAC-SHA256-TRAILER", digest_hex, signature)

    def _demand(self, algorithm: str, what: str, signature: str) -> None:
        text = f"{algorithm}\n{self._context}\n{self._previous}\n{what}"
        expected = hmac.digest(self._key, text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected, signature):
            raise Refused("SignatureDoesNotMatch", "a chunk's signature does not match")
        self._previous = expected
