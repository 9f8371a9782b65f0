"""XML in: bounded while it is read, and off the loop when it is large.

A client may send a document as large as the largest that makes sense, and of that a parser makes
what the client likes: half a million elements, or a tag with two hundred thousand attributes. So
each operation says how much there may be of everything, the parser is fed little by little, and
ends at the first piece that is too much. Entities and document types are refused by defusedxml.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Final, TypeVar
from xml.etree.ElementTree import ParseError

import msgspec
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from pinfold.env.api import Env
from pinfold.model.limits import KIB, MIB
from pinfold.model.settings import S3Settings
from pinfold.objects.budget import ByteBudget
from pinfold.s3.body import Payload
from pinfold.s3.errors import Refused

T = TypeVar("T")

FEED_BYTES: Final = 8 * KIB
"""Parsed at a time. A tag, comment or instruction that fills more than all of a piece, so that the
parser comes to nothing in it, is refused: it is parsed as a whole."""

OFFLOAD_FROM_BYTES: Final = 16 * KIB
"""Documents from this on are read by another thread: a millisecond or more of the loop."""

COUNTED_FROM_BYTES: Final = 16 * KIB
"""Smaller documents do not wait for memory: all `requests_in_flight_max` may have one."""

WAITING_MAX: Final = 64
"""Documents that may wait for memory; more are Busy. Meanwhile the sockets' buffers hold of each
up to twice `read_buffer_bytes`."""

LEAF_CHARACTERS: Final = 8 * KIB
"""Longest text of an element: more than any name, which is then refused for what it is."""


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation takes for its document."""

    root: str
    bytes_max: int
    elements_max: int
    depth_max: int


class Node:
    """An element read, its namespace forgotten."""

    __slots__ = ("_children", "_length", "_text", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._children: list[Node] = []
        self._text: list[str] = []
        self._length = 0

    def children(self, name: str | None = None) -> list["Node"]:
        """The elements directly inside, or those of one name."""
        if name is None:
            return self._children
        return [node for node in self._children if node.name == name]

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
        """The text right inside; empty where there are elements inside."""
        return "".join(self._text)

    def adopt(self, child: "Node") -> None:
        """Take an element inside; text beside elements is layout."""
        self._children.append(child)
        self._text.clear()

    def write(self, text: str) -> int:
        """Take text inside; how long it is by now."""
        if self._children:
            return 0
        self._text.append(text)
        self._length += len(text)
        return self._length


class _Builder:
    """Makes nodes of what the parser comes to, and ends it at the first that is too much."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._open: list[Node] = []
        self._elements = 0
        self.root: Node | None = None
        self.events = 0

    def start(self, tag: str, _attributes: dict[str, str]) -> None:
        self.events += 1
        self._elements += 1
        if self._elements > self._shape.elements_max:
            raise Refused("MalformedXML", "too many elements")
        if len(self._open) == self._shape.depth_max:
            raise Refused("MalformedXML", "too deep")
        node = Node(tag.rpartition("}")[2])
        if self._open:
            self._open[-1].adopt(node)
        else:
            self.root = node
        self._open.append(node)

    def end(self, _tag: str) -> None:
        self.events += 1
        self._open.pop()

    def data(self, text: str) -> None:
        self.events += 1
        if self._open and self._open[-1].write(text) > LEAF_CHARACTERS:
            raise Refused("MalformedXML", "a text is too long")

    def close(self) -> Node | None:
        return self.root


def parse(document: Iterable[bytes], shape: Shape) -> Node:
    """The root of a document that comes in pieces of `FEED_BYTES`; Refused(MalformedXML)."""
    builder = _Builder(shape)
    parser = DefusedXMLParser(target=builder, forbid_dtd=True)
    try:
        for piece in document:
            before = builder.events
            parser.feed(piece)
            if len(piece) == FEED_BYTES and builder.events == before:
                raise Refused("MalformedXML", "a tag is too long")
        root: Node | None = parser.close()
    except (ParseError, DefusedXmlException, ValueError, LookupError):
        raise Refused("MalformedXML") from None
    if root is None or root.name != shape.root:
        raise Refused("MalformedXML", f"expected {shape.root}")
    return root


def pieces(document: bytes) -> Iterator[bytes]:
    """A document as `parse` takes it."""
    for start in range(0, len(document), FEED_BYTES):
        yield document[start : start + FEED_BYTES]


class Documents:
    """Reads requests' documents; one thread for the large ones of all requests.

    Large ones count against a budget of the process, before their first byte is read, and until
    the request is done with what was made of them. A client that takes long to send one while
    others wait for its memory is given up.
    """

    def __init__(self, env: Env, settings: S3Settings) -> None:
        self._lane = env.new_offload("documents")
        self._settings = settings
        self._budget = ByteBudget(settings.document_memory_bytes, waiting_max=WAITING_MAX)
        self._arriving: dict[asyncio.Timeout, float] = {}
        """What is being read, by the time when that began, oldest first."""
        self._hurrying: asyncio.TimerHandle | None = None

    @property
    def memory_taken(self) -> int:
        """Bytes of documents held now, and of those that arrive."""
        return self._budget.taken

    @contextlib.asynccontextmanager
    async def read(
        self, payload: Payload, shape: Shape, convert: Callable[[Node], T]
    ) -> AsyncIterator[T | None]:
        """What `convert` makes of a document, perhaps on another thread; None of an empty body.

        Busy when there is no memory for it.
        """
        if payload.size > shape.bytes_max:
            raise Refused("MaxMessageLengthExceeded")
        if payload.size < COUNTED_FROM_BYTES:
            yield await self._made(payload, shape, convert)
            return
        if payload.size > self._budget.free or self._budget.wanted:
            self._hurry_later()
        await self._budget.take(payload.size, timeout_s=self._settings.objects.memory_timeout_s)
        try:
            yield await self._made(payload, shape, convert)
        finally:
            self._budget.give(payload.size)

    async def _made(self, payload: Payload, shape: Shape, convert: Callable[[Node], T]) -> T | None:
        content = await self._arrived(payload, shape)

        def made() -> T | None:
            payload.demand_content(content)
            return convert(parse(pieces(content), shape)) if content else None

        return made() if len(content) < OFFLOAD_FROM_BYTES else await self._lane(made)

    async def _arrived(self, payload: Payload, shape: Shape) -> bytes:
        arrival = asyncio.timeout(None)
        self._arriving[arrival] = asyncio.get_running_loop().time()
        try:
            async with arrival:
                return await payload.unchecked(shape.bytes_max)
        except TimeoutError:
            raise Refused("RequestTimeout") from None
        finally:
            self._arriving.pop(arrival, None)

    def _hurry_later(self) -> None:
        if self._hurrying is None:
            delay_s = self._settings.stall_patience_s / 2
            self._hurrying = asyncio.get_running_loop().call_later(delay_s, self._hurry)

    def _hurry(self) -> None:
        """While somebody waits for memory, give up what has been arriving for too long."""
        self._hurrying = None
        if not self._budget.wanted:
            return
        now = asyncio.get_running_loop().time()
        began_by = now - self._settings.stall_patience_s
        for arrival in [one for one, began in self._arriving.items() if began <= began_by]:
            del self._arriving[arrival]
            arrival.reschedule(now)
        self._hurry_later()

    def close(self) -> None:
        """End the thread."""
        if self._hurrying is not None:
            self._hurrying.cancel()
        self._lane.close()


DELETE: Final = Shape(root="Delete", bytes_max=2 * MIB, elements_max=2 + 1000 * 6, depth_max=3)
"""1,000 objects of a key and four conditions: S3's own limit. Keys may be all references."""

COMPLETE: Final = Shape(
    root="CompleteMultipartUpload", bytes_max=2 * MIB, elements_max=1 + 10_000 * 5, depth_max=3
)
"""10,000 parts of a number, a tag and two checksums."""

POLICY: Final = Shape(
    root="AccessControlPolicy", bytes_max=64 * KIB, elements_max=5 + 100 * 7, depth_max=5
)
"""An owner and 100 grants, S3's own limit."""

LOCATION: Final = Shape(
    root="CreateBucketConfiguration", bytes_max=16 * KIB, elements_max=200, depth_max=4
)
"""Room for the 50 tags of a bucket, to say that there are none here."""
