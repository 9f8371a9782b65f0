"""The least that speaks S3 and NBD: blocking, one connection each, no retries of their own.

What a real client hides (which answer came, that none came) is what hostile tests and the soak
need to see.
"""

import http.client
import re
import socket
import struct
import time
from urllib.parse import quote, urlsplit

from pinfold.nbd import protocol as nbd
from tests.s3.signing import UNSIGNED, Signer

UNKNOWN = -1
"""A status: no answer came, so whether the request had an effect is not known."""

NOT_SENT = -2
"""A status: nobody listens, so the request had no effect."""


class S3Client:
    """One keep-alive connection to an S3 endpoint."""

    def __init__(
        self, endpoint: str, access_key: str, secret: str, *, timeout_s: float = 60.0
    ) -> None:
        parts = urlsplit(endpoint)
        self.host, self.port = parts.hostname or "", parts.port or 80
        self._keys = (access_key, secret)
        self._timeout_s = timeout_s
        self._connection: http.client.HTTPConnection | None = None
        self._signer = Signer(access_key, secret, "19700101T000000Z")
        self.headers: dict[str, str] = {}
        """Of the last answer, names in lower case."""
        self.error = ""
        """Why the last request got no answer."""

    def head(
        self, method: str, path: str, query: str = "", headers: dict[str, str] | None = None
    ) -> dict[str, str]:
        """Signed headers of a request."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        if stamp != self._signer.stamp:
            self._signer = Signer(*self._keys, stamp)
        sent = {"host": f"{self.host}:{self.port}", **(headers or {})}
        return self._signer.signed(method, path, query, sent, UNSIGNED)

    def do(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        query: str = "",
        headers: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """(status, body); UNKNOWN or NOT_SENT without a whole answer. `path` starts with "/"."""
        path = quote(path, safe="/-_.~")
        signed = self.head(method, path, query, headers)
        target = f"{path}?{query}" if query else path
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self.host, self.port, timeout=self._timeout_s
                )
            self._connection.request(method, target, body or None, signed)
            answer = self._connection.getresponse()
            content = answer.read()
        except ConnectionRefusedError as error:
            self.close()
            self.error = repr(error)
            return NOT_SENT, b""
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.error = repr(error)
            return UNKNOWN, b""
        self.headers = {name.lower(): value for name, value in answer.getheaders()}
        if answer.will_close:
            self.close()
        return answer.status, content

    def list_all(self, bucket: str) -> list[str]:
        """Every key of a bucket, page by page; an AssertionError names a page that failed."""
        keys: list[str] = []
        token = ""
        while True:
            query = "continuation-token=" + quote(token, safe="") + "&" if token else ""
            status, content = self.do("GET", f"/{bucket}", query=f"{query}list-type=2")
            assert status == 200, (status, content, self.error)
            keys += [key.decode() for key in re.findall(rb"<Key>(.*?)</Key>", content)]
            found = re.search(rb"<NextContinuationToken>(.*?)</Next", content)
            if found is None:
                return keys
            token = found[1].decode()

    def close(self) -> None:
        """End the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class NbdError(Exception):
    """The server answered a request with an error number."""


class NbdClient:
    """One connection to an export, simple replies, one request at a time."""

    def __init__(self, address: str, export: str, *, timeout_s: float = 60.0) -> None:
        """OSError when it cannot be; `address` is nbd://HOST:PORT."""
        parts = urlsplit(address)
        self._socket = socket.create_connection(
            (parts.hostname or "", parts.port or 10809), timeout=timeout_s
        )
        try:
            self._shake(export)
        except BaseException:
            self._socket.close()
            raise

    def _shake(self, export: str) -> None:
        if self._take(18)[:8] != b"NBDMAGIC":
            raise OSError("not an NBD server")
        self._socket.sendall(nbd.CLIENT_FLAGS.pack(3))
        name = export.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._socket.sendall(nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_GO, len(body)) + body)
        while True:
            head = self._take(nbd.OPTION_REPLY.size)
            _magic, _option, kind, length = nbd.OPTION_REPLY.unpack(head)
            self._take(length)
            if kind == nbd.REP_ACK:
                return
            if kind >> 31:
                raise OSError(f"the export {export} was refused: {kind & 0xFF}")

    def write(self, offset: int, payload: bytes) -> None:
        """Answered: every in-sync member has it."""
        self._do(nbd.CMD_WRITE, offset, len(payload), payload)

    def flush(self) -> None:
        """Answered: everything written before is durable."""
        self._do(nbd.CMD_FLUSH, 0, 0)

    def read(self, offset: int, length: int) -> bytes:
        """What is there."""
        return self._do(nbd.CMD_READ, offset, length)

    def _do(self, command: int, offset: int, length: int, payload: bytes = b"") -> bytes:
        self._socket.sendall(
            nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, command, 7, offset, length) + payload
        )
        _magic, error, _cookie = nbd.SIMPLE_REPLY.unpack(self._take(nbd.SIMPLE_REPLY.size))
        if error:
            raise NbdError(error)
        return self._take(length) if command == nbd.CMD_READ else b""

    def _take(self, count: int) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            piece = self._socket.recv(count - len(taken))
            if not piece:
                raise ConnectionResetError("the server has closed the connection")
            taken += piece
        return bytes(taken)

    def close(self) -> None:
        """Leave without a word."""
        self._socket.close()
