"""Addresses of listeners: `tcp://host:port` and `unix:///path`, parsed once."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from pinfold.model.errors import Invalid


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host, by name or number, and a port (0: any free one, for listeners)."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket file."""

    path: str

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse_address(address: str) -> TcpAddress | UnixAddress:
    """The parts of an address; raises Invalid when it is neither form."""
    if address.startswith("unix:///"):
        return UnixAddress(address.removeprefix("unix://"))
    try:
        parts = urlsplit(address)
        if parts.scheme == "tcp" and parts.hostname and parts.port is not None and not parts.path:
            return TcpAddress(parts.hostname, parts.port)
    except ValueError as error:
        raise Invalid(f"address {address!r}: {error}") from None
    raise Invalid(f"address {address!r} is neither tcp://host:port nor unix:///path")
