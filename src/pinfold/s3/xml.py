"""XML out, by a writer that escapes, and XML in, bounded and without entities."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pinfold.s3.errors import Refused

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
INSTANCE: Final = "http://www.w3.org/2001/XMLSchema-instance"
HEADER: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'

DOCUMENT_BYTES_MAX: Final = 2 << 20
"""Largest document taken: 1,000 keys of a multi-delete or 10,000 parts of a Complete."""

_ESCAPES: Final = {
    ord("&"): "&amp;",
    ord("<"): "&lt;",
    ord(">"): "&gt;",
    ord('"'): "&quot;",
    **{code: f"&#x{code:x};" for code in range(0x20) if chr(code) not in "\t\n"},
}
"""Control characters are written as references, as S3 does, though XML 1.0 has none of them:
clients ask for encoding-type=url where it matters."""


def escape(text: str) -> str:
    """Text as it stands between tags."""
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
        return "".join(self._pieces).encode("utf-8", "surrogatepass")


class Node:
    """An element read, its namespace forgotten."""

    __slots__ = ("_element", "name")

    def __init__(self, element: Element) -> None:
        self._element = element
        self.name = element.tag.rpartition("}")[2]

    def children(self, name: str | None = None) -> list["Node"]:
        """The elements directly inside, or those of one name."""
        nodes = [Node(element) for element in self._element]
        return nodes if name is None else [node for node in nodes if node.name == name]

    def child(self, name: str) -> "Node | None":
        """The element of this name directly inside, if there is one; refused when there are two."""
        found = self.children(name)
        if len(found) > 1:
            raise Refused("MalformedXML", f"more than one {name}")
        return found[0] if found else None

    def text(self, name: str) -> str | None:
        """The text of the element of this name directly inside, if there is one."""
        node = self.child(name)
        return None if node is None else node.own_text()

    def own_text(self) -> str:
        """The text right inside."""
        return self._element.text or ""

    def attribute(self, name: str) -> str:
        """The value of an attribute of this local name."""
        for key, value in self._element.attrib.items():
            if key.rpartition("}")[2] == name:
                return str(value)
        return ""


def parse(document: bytes, root: str) -> Node:
    """The document's root, which must have this name; Refused(MalformedXML)."""
    try:
        element = fromstring(document, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise Refused("MalformedXML") from None
    node = Node(element)
    if node.name != root:
        raise Refused("MalformedXML", f"expected {root}")
    return node


def encoded_name(text: str, encoding: str) -> str:
    """A name as `encoding-type` asks for it, escaped."""
    if encoding == "url":
        return quote(text, safe="/-_.~*")
    return escape(text)
