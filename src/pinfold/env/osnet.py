"""The operating system's sockets, through the running loop."""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from pinfold.env.address import TcpAddress, UnixAddress, parse_address

_BACKLOG: Final = 1024
"""Connections the kernel may hold before they are accepted: a storm of clients reconnecting."""

_PROBE_S: Final = 1.0
"""Seconds a socket file's owner has to accept before it counts as busy (hence alive)."""


class OsListener:
    """The real `Listener`; a unix socket's file goes with it."""

    def __init__(self, server: asyncio.Server, address: TcpAddress | UnixAddress) -> None:
        self._server = server
        self._file: tuple[str, int] | None = None
        if isinstance(address, UnixAddress):
            self._file = (address.path, os.stat(address.path).st_ino)
        else:
            port: int = server.sockets[0].getsockname()[1]
            address = TcpAddress(address.host, port)
        self._address = str(address)

    @property
    def address(self) -> str:
        """See `Listener.address`."""
        return self._address

    def close(self) -> None:
        """See `Listener.close`. Idempotent."""
        self._server.close()
        if self._file is None:
            return
        path, inode = self._file
        self._file = None
        try:
            if os.stat(path).st_ino == inode:  # not the file of a successor
                os.unlink(path)
        except FileNotFoundError:
            return


class OsNet:
    """The real `Net`. The loop sets TCP_NODELAY on TCP transports (asyncio and uvloop alike)."""

    async def listen(self, address: str, factory: Callable[[], asyncio.BaseProtocol]) -> OsListener:
        """See `Net.listen`."""
        loop = asyncio.get_running_loop()
        parsed = parse_address(address)
        if isinstance(parsed, TcpAddress):
            server = await loop.create_server(factory, parsed.host, parsed.port, backlog=_BACKLOG)
        else:
            await _remove_stale(parsed.path)
            server = await loop.create_unix_server(factory, parsed.path, backlog=_BACKLOG)
        return OsListener(server, parsed)

    async def connect(
        self, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `Net.connect`."""
        loop = asyncio.get_running_loop()
        parsed = parse_address(address)
        if isinstance(parsed, TcpAddress):
            return await loop.create_connection(factory, parsed.host, parsed.port)
        return await loop.create_unix_connection(factory, parsed.path)


async def _remove_stale(path: str) -> None:
    """Remove a socket file that nobody answers on; raise OSError(EADDRINUSE) if somebody does.

    The loops' own clean-up would take the file from a living process.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EADDRINUSE, f"{path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            loop = asyncio.get_running_loop()
            await asyncio.wait_for(loop.sock_connect(probe, path), _PROBE_S)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass  # its backlog is full: busy, not dead
    raise OSError(errno.EADDRINUSE, f"another process listens on {path}")
