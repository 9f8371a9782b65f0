"""The admin API from a program: blocking, standard library only, so that commands start fast.

Errors are the same classes the server had (`model.errors`), by the code in its error document;
Unavailable also stands for a server that cannot be reached.
"""

import http.client
import json
from typing import Any, Final
from urllib.parse import urlsplit

from pinfold.model.errors import BY_CODE, Invalid, PinfoldError, Unavailable

TIMEOUT_S: Final = 30.0
"""For connecting and for each answer: longer than the server's own row timeouts, and than to see
that a volume's holder is dead and to delete it."""

ANSWER_BYTES_MAX: Final = 256 << 20
"""Largest answer taken; a status of a thousand nodes is far smaller."""


class AdminUnreachable(Unavailable):
    """Nobody answers at the address."""

    code = "unreachable"


class AdminUnauthorized(PinfoldError):
    """The token is missing or not the cluster's."""

    code = "unauthorized"


class AdminClient:
    """One admin endpoint. Every call is one request on a connection of its own."""

    def __init__(self, url: str, token: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Invalid when `url` is not an http URL."""
        parts = urlsplit(url)
        if parts.scheme != "http" or not parts.hostname:
            raise Invalid(f"{url!r} is not an admin URL: expected http://HOST:PORT")
        self._host = parts.hostname
        self._port = parts.port or 80
        self._token = token
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """The decoded answer of a GET."""
        return self.call("GET", path)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request with a JSON body; return the decoded answer (None when it is empty)."""
        status, content = self._exchange(method, path, body)
        try:
            answer = json.loads(content) if content else None
        except ValueError:
            raise Invalid(f"{self._where} is no admin endpoint: it answered {status}") from None
        if status >= 400:
            raise _error(status, answer)
        return answer

    def ready(self) -> list[str]:
        """What the cluster still waits for; empty when it is ready."""
        status, content = self._exchange("GET", "/readyz", None)
        return [] if status == 200 else [str(reason) for reason in json.loads(content)["waiting"]]

    @property
    def _where(self) -> str:
        return f"http://{self._host}:{self._port}"

    def _exchange(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body=content, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise AdminUnreachable(f"no answer from {self._where}: {error}") from error
        finally:
            connection.close()


_KINDS: Final[dict[str, type[PinfoldError]]] = {
    **BY_CODE,
    AdminUnauthorized.code: AdminUnauthorized,
}


def _error(status: int, answer: Any) -> PinfoldError:
    """The error that a refused request stands for."""
    if isinstance(answer, dict) and isinstance(found := answer.get("error"), dict):
        kind = _KINDS.get(str(found.get("code")), PinfoldError)
        return kind(str(found.get("message")), detail=found.get("detail"))
    return PinfoldError(f"the admin API answered {status}")
