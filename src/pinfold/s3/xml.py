"""XML out, by a writer that escapes. XML in is `documents`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"
HEADER: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'

_ESCAPES: Final = {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    ord("\r"): "&#xd;",
    **dict.fromkeys((*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0xFFFE, 0xFFFF), "\ufffd"),
}
"""XML 1.0 has no way to say some characters, not even by reference, and a document with one cannot
be read at all. What is stored has none of them in its name: see `sayable`."""

_UNSAYABLE: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def sayable(text: str) -> bool:
    """Whether XML 1.0 can say all of a text."""
    return _UNSAYABLE.search(text) is None


def escape(text: str) -> str:
    """Text as it stands between tags; U+FFFD for what cannot stand there."""
    return text.translate(_ESCAPES)


class Writer:
    """Builds one document."""

    def __init__(self, root: str, *, namespace: str = NAMESPACE) -> None:
        attribute = f' xmlns="{namespace}"' if namespace else ""
        self._pieces = [HEADER, f"<{root}{attribute}>"]
        self._root = root

    def leaf(self, name: str, value: str | int) -> None:
        """An element with text."""
        text = escape(value) if isinstance(value, str) else value
        self._pieces.append(f"<{name}>{text}</{name}>")

    def flag(self, name: str, *, value: bool) -> None:
        """An element that is true or false."""
        self._pieces.append(f"<{name}>{'true' if value else 'false'}</{name}>")

    @contextmanager
    def inside(self, name: str, attributes: str = "") -> Iterator[None]:
        """An element around what is written meanwhile; `attributes` as they stand in the tag."""
        self._pieces.append(f"<{name}{' ' if attributes else ''}{attributes}>")
        yield
        self._pieces.append(f"</{name}>")

    def raw(self, markup: str) -> None:
        """Markup that is escaped already."""
        self._pieces.append(markup)

    def document(self) -> bytes:
        """The whole document."""
        self._pieces.append(f"</{self._root}>")
        return "".join(self._pieces).encode("utf-8", "replace")


def encoded_name(text: str, encoding: str) -> str:
    """A name as `encoding-type` asks for it, escaped."""
    if encoding == "url":
        return quote(text, safe="/-_.~*")
    return escape(text)
