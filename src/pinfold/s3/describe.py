"""What is said about an object, between headers and records. Pure."""

import base64
from typing import Final

from pinfold.model.limits import METADATA_BYTES
from pinfold.objects.conditions import ANY, NONE, Conditions
from pinfold.objects.objects import Found
from pinfold.objects.records import Checksum, Pairs
from pinfold.s3.body import CHECKSUM_PREFIX
from pinfold.s3.errors import Refused
from pinfold.s3.times import http_date, parse_date

METADATA_PREFIX: Final = "x-amz-meta-"
DEFAULT_TYPE: Final = "binary/octet-stream"

_KEPT: Final = (
    ("content-type", "Content-Type"),
    ("cache-control", "Cache-Control"),
    ("content-disposition", "Content-Disposition"),
    ("content-encoding", "Content-Encoding"),
    ("content-language", "Content-Language"),
    ("expires", "Expires"),
)

_OVERRIDES: Final = {
    "response-content-type": "Content-Type",
    "response-cache-control": "Cache-Control",
    "response-content-disposition": "Content-Disposition",
    "response-content-encoding": "Content-Encoding",
    "response-content-language": "Content-Language",
    "response-expires": "Expires",
}


def kept_headers(headers: dict[str, str]) -> Pairs:
    """The headers of a PUT that a GET returns."""
    kept: list[tuple[str, str]] = []
    for name, title in _KEPT:
        value = headers.get(name)
        if not value:
            continue
        if name == "content-encoding":
            # aws-chunked describes how the body travelled, not what the object is.
            codings = [coding.strip() for coding in value.split(",")]
            value = ", ".join(coding for coding in codings if coding != "aws-chunked")
            if not value:
                continue
        kept.append((title, value))
    return tuple(kept)


def metadata_of(headers: dict[str, str]) -> Pairs:
    """The user metadata of a PUT; Refused(MetadataTooLarge)."""
    start = len(METADATA_PREFIX)
    pairs = tuple(
        (name[start:], value) for name, value in headers.items() if name.startswith(METADATA_PREFIX)
    )
    if sum(len(name) + len(value) for name, value in pairs) > METADATA_BYTES:
        raise Refused("MetadataTooLarge")
    return pairs


def demand_standard_class(headers: dict[str, str]) -> None:
    """Refuse storage classes that we do not have."""
    name = headers.get("x-amz-storage-class", "STANDARD")
    if name != "STANDARD":
        raise Refused("NotImplemented", f"the storage class {name} is not implemented")


def object_headers(found: Found, query: dict[str, str]) -> list[tuple[str, str]]:
    """The headers that describe an object, with a request's overrides."""
    record = found.record
    headers = [
        ("ETag", f'"{record.etag}"'),
        ("Last-Modified", http_date(found.modified_ms // 1000)),
        ("Accept-Ranges", "bytes"),
    ]
    described = dict(record.headers)
    described.setdefault("Content-Type", DEFAULT_TYPE)
    if query:
        for parameter, title in _OVERRIDES.items():
            value = query.get(parameter)
            if value is not None:
                described[title] = _header_value(value)
    headers += described.items()
    headers += [(METADATA_PREFIX + name, value) for name, value in record.metadata]
    return headers


def _header_value(value: str) -> str:
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in value):
        raise Refused("InvalidArgument", "a header's value cannot have control characters")
    return value.encode().decode("latin-1")


def checksum_text(checksum: Checksum) -> str:
    """A checksum as headers and documents state it."""
    text = base64.b64encode(checksum.value).decode()
    return f"{text}-{checksum.parts}" if checksum.parts else text


def checksum_type(checksum: Checksum) -> str:
    """Of what it is a checksum."""
    return "COMPOSITE" if checksum.parts else "FULL_OBJECT"


def checksum_headers(
    checksum: Checksum | None, of: Checksum | None = None
) -> list[tuple[str, str]]:
    """The headers that state a checksum; the type is that of `of`, the object's, for a part's."""
    if checksum is None:
        return []
    return [
        (CHECKSUM_PREFIX + checksum.algorithm, checksum_text(checksum)),
        ("x-amz-checksum-type", checksum_type(of or checksum)),
    ]


def checksum_element(algorithm: str) -> str:
    """The name of a checksum's element in documents."""
    return f"Checksum{algorithm.upper()}"


def conditions_of(headers: dict[str, str], prefix: str = "") -> Conditions:
    """The If- headers of a request, or those of a copy's source."""
    match = headers.get(prefix + "if-match")
    none_match = headers.get(prefix + "if-none-match")
    since = headers.get(prefix + "if-modified-since")
    until = headers.get(prefix + "if-unmodified-since")
    if match is none_match is since is until is None:
        return NONE
    return Conditions(
        if_match=_tags(match),
        if_none_match=_tags(none_match),
        modified_since_s=_date(since),
        unmodified_since_s=_date(until),
    )


def if_range(headers: dict[str, str], etag: str, modified_ms: int) -> bool:
    """Whether a range may be sent alone: not to who has the other part of another version."""
    held = headers.get("if-range")
    if held is None or held.strip().strip('"') == etag:
        return True
    return parse_date(held) == modified_ms // 1000


def _tags(header: str | None) -> tuple[str, ...] | None:
    if header is None:
        return None
    if header.strip() == "*":
        return ANY
    tags = (tag.strip().removeprefix("W/").strip('"') for tag in header.split(","))
    return tuple(tag for tag in tags if tag)


def _date(header: str | None) -> int | None:
    return None if header is None else parse_date(header)
