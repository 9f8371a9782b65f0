"""A request and a response, as the verbs see them: no HTTP library in here.

Header names are in lower case. Header values are latin-1: bytes go in and out as they are.
"""

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol
from urllib.parse import unquote_to_bytes

from pinfold.env.api import Buffer
from pinfold.s3.errors import Refused

QUERY_PARAMETERS_MAX = 100
"""More than any S3 request has."""


class Body(Protocol):
    """A request's body as it comes from the connection."""

    async def read(self) -> Buffer:
        """The next piece, empty at the end. The first call answers `Expect: 100-continue`.

        Refused: RequestTimeout when the client stalls, IncompleteBody when it is gone.
        """
        ...


class Chunks(Protocol):
    """A body on its way out, in pieces."""

    def __aiter__(self) -> AsyncIterator[list[Buffer]]: ...

    def __anext__(self) -> Awaitable[list[Buffer]]: ...

    def aclose(self) -> Awaitable[None]:
        """Give back what is held for it. Idempotent, also before the first piece."""
        ...


class EmptyBody:
    """No body."""

    async def read(self) -> Buffer:
        """Nothing."""
        return b""


class Request:
    """One request. `bucket` and `key` are empty where the path names none.

    `resource` is the path as it came with the bucket's name in front, wherever that stood.
    `remote` is the client's address; `user` who signed, once that is proved.
    """

    __slots__ = (
        "body",
        "bucket",
        "headers",
        "id",
        "key",
        "method",
        "path",
        "query",
        "raw_query",
        "remote",
        "resource",
        "user",
    )

    def __init__(
        self,
        *,
        method: str,
        target: str,
        headers: dict[str, str],
        body: Body,
        id: str,
        domain: str = "",
        remote: str = "",
    ) -> None:
        self.method = method
        self.headers = headers
        self.body = body
        self.id = id
        self.remote = remote
        self.user = ""
        path, _, self.raw_query = target.partition("?")
        self.path = path if path.startswith("/") else _path_of_absolute(path)
        self.query = parse_query(self.raw_query) if self.raw_query else {}
        self.resource = self.path
        self.bucket, self.key = self._named(domain)

    def _named(self, domain: str) -> tuple[str, str]:
        rest = self.path[1:]
        if domain:
            host = self.headers.get("host", "").partition(":")[0].lower()
            if host.endswith("." + domain):
                bucket = host[: -len(domain) - 1]
                self.resource = f"/{bucket}{self.path}"
                return bucket, unquoted_path(rest)
        bucket, _, key = rest.partition("/")
        return unquoted_path(bucket), unquoted_path(key)


class Response:
    """What is answered: a whole body, or chunks whose total length is known.

    `chunks` is closed by whoever sends it, also when sending fails. A response to HEAD says the
    `length` of what GET would send.
    """

    __slots__ = ("body", "chunks", "error", "headers", "length", "status")

    def __init__(
        self,
        status: int,
        headers: list[tuple[str, str]],
        body: bytes = b"",
        *,
        chunks: Chunks | None = None,
        length: int | None = None,
        error: str = "",
    ) -> None:
        """`error` is S3's code of what went wrong: the body says it too, but not to HEAD."""
        self.status = status
        self.error = error
        self.headers = headers
        self.body = body
        self.chunks = chunks
        self.length = len(body) if length is None else length


def parse_query(raw: str) -> dict[str, str]:
    """Parameters by name; of a repeated one the first counts. Refused when it is not UTF-8."""
    query: dict[str, str] = {}
    pairs = raw.split("&")
    if len(pairs) > QUERY_PARAMETERS_MAX:
        raise Refused("InvalidURI", "too many query parameters")
    for pair in pairs:
        if pair:
            name, _, value = pair.partition("=")
            query.setdefault(unquoted_query(name), unquoted_query(value))
    return query


def unquoted_query(text: str) -> str:
    """What a parameter's name or value stands for; Refused(InvalidURI)."""
    if text.isascii() and "%" not in text and "+" not in text:
        return text
    try:
        return unquote_to_bytes(text.replace("+", " ").encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise Refused("InvalidURI", "the query is not UTF-8") from None


def unquoted_path(text: str) -> str:
    """The text that percent-encoded UTF-8 stands for; Refused(InvalidURI)."""
    if "%" not in text and text.isascii():
        return text
    try:
        return unquote_to_bytes(text.encode("utf-8", "surrogateescape")).decode()
    except UnicodeDecodeError:
        raise Refused("InvalidURI", "the path is not UTF-8") from None


def _path_of_absolute(target: str) -> str:
    """The path of a request line in absolute form (`GET http://host/path`)."""
    _, found, rest = target.partition("://")
    if not found:
        raise Refused("InvalidURI")
    return "/" + rest.partition("/")[2]
