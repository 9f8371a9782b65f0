"""Pages of listings: how many, where from, and tokens that say so. Pure."""

import base64
import binascii
from typing import Final

from pinfold.model.limits import LISTING_PAGE_MAX
from pinfold.s3.errors import Refused
from pinfold.s3.numbers import parse_number

NUMBER_MAX: Final = 2**31 - 1
"""Largest number S3 takes in a parameter of a listing."""

_VERSION: Final = b"\x01"


def page_size(query: dict[str, str], name: str) -> int:
    """How many entries the client wants, at most 1,000."""
    text = query.get(name)
    if text is None or text == "":
        return LISTING_PAGE_MAX
    number = parse_number(text, most=NUMBER_MAX)
    if number is None:
        raise Refused("InvalidArgument", f"{name} should be a number from 0 to {NUMBER_MAX}")
    return min(number, LISTING_PAGE_MAX)


def encoding_of(query: dict[str, str]) -> str:
    """How names are to be written: as they are, or `url`."""
    encoding = query.get("encoding-type", "")
    if encoding not in ("", "url"):
        raise Refused("InvalidArgument", "encoding-type can only be url")
    return encoding


def encode_token(position: bytes) -> str:
    """An opaque token for a place in a listing."""
    return base64.urlsafe_b64encode(_VERSION + position).decode()


def decode_token(token: str) -> bytes:
    """The place that a token stands for."""
    try:
        place = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        place = b""
    if not place.startswith(_VERSION):
        raise Refused("InvalidArgument", "The continuation token provided is incorrect")
    return place[len(_VERSION) :]
