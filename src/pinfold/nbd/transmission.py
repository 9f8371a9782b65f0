"""The transmission phase without I/O: requests out of received bytes, replies into bytes.

Requests are parsed in bulk from the receive buffer; the payload of a write is a slice of it, so
the buffer is never reused once a payload was taken from it. Offsets, lengths and flags are judged
here: what reaches the volume is within it.
"""

import struct
from typing import Final

from pinfold.env.api import Buffer
from pinfold.model.errors import (
    Fenced,
    Full,
    Invalid,
    NotFound,
    PinfoldError,
    Unavailable,
)
from pinfold.model.limits import NBD_REQUEST_BYTES
from pinfold.nbd import protocol as nbd
from pinfold.volumes.io import CACHE, FLUSH, READ, STATUS, TRIM, WRITE, ZERO, Io, Owner

HEADER_BYTES: Final = nbd.REQUEST.size

_FLAGS_ALLOWED: Final = {
    nbd.CMD_READ: nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_DF,
    nbd.CMD_WRITE: nbd.CMD_FLAG_FUA,
    nbd.CMD_FLUSH: nbd.CMD_FLAG_FUA,
    nbd.CMD_TRIM: nbd.CMD_FLAG_FUA,
    nbd.CMD_CACHE: nbd.CMD_FLAG_FUA,
    nbd.CMD_BLOCK_STATUS: nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_REQ_ONE,
    nbd.CMD_WRITE_ZEROES: nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO,
}
"""FUA is valid everywhere once it is offered; the others belong to their command."""

_CHANGING: Final = (nbd.CMD_WRITE, nbd.CMD_TRIM, nbd.CMD_WRITE_ZEROES)

_GROWING: Final = (nbd.CMD_WRITE, nbd.CMD_WRITE_ZEROES)
"""Past the end these would need room that is not there: ENOSPC; the others are EINVAL."""

_CARRYING: Final = (READ, WRITE, CACHE)

REQUEST_COST: Final = 512
"""Bytes of memory a request takes besides its payload, for the limits' sake."""

STATUS_BYTES: Final = 256 << 10
"""Memory that finding and telling the runs of a block status request takes."""

_ERRNO: Final[tuple[tuple[type[PinfoldError], int], ...]] = (
    (Full, nbd.ENOSPC),
    (Fenced, nbd.ESHUTDOWN),
    (NotFound, nbd.ESHUTDOWN),
    (Unavailable, nbd.ESHUTDOWN),
    (Invalid, nbd.EINVAL),
)
"""What went wrong, in the protocol's words; anything else is EIO. A session that has ended says
ESHUTDOWN: the client may come back, so it must not take this for a broken disk."""


def extra_cost(io: Io) -> int:
    """Bytes of memory a request takes beside REQUEST_COST until it is answered."""
    if io.kind in _CARRYING:
        return io.length
    return STATUS_BYTES if io.kind == STATUS else 0


class ProtocolViolation(Exception):
    """The client has lost the thread; nothing that follows can be understood."""


class Transmission:
    """One connection's requests and replies."""

    def __init__(
        self,
        owner: Owner,
        size: int,
        *,
        structured: bool,
        read_only: bool,
        allocation: bool = False,
    ) -> None:
        self._owner = owner
        self._size = size
        self._structured = structured
        self._read_only = read_only
        self._allocation = allocation
        self.disconnected = False
        """The client has said goodbye: nothing after it is looked at."""

    def parse(
        self, data: memoryview, start: int, end: int, room: int, ios: list[Io], out: list[Buffer]
    ) -> tuple[int, int]:
        """Append the whole requests in data[start:end] to `ios` and early replies to `out`.

        Stops when the payload and cost of what it appended to `ios` reach `room` bytes. Returns
        the position reached and the bytes that the request there needs in all. Raises
        ProtocolViolation.
        """
        unpack = nbd.REQUEST.unpack_from
        size_max, owner = self._size, self._owner
        while end - start >= HEADER_BYTES and room > 0 and not self.disconnected:
            magic, flags, command, cookie, offset, length = unpack(data, start)
            if magic != nbd.REQUEST_MAGIC:
                raise ProtocolViolation("a request without its magic")
            size = HEADER_BYTES
            if command == nbd.CMD_WRITE:
                if length > NBD_REQUEST_BYTES:
                    raise ProtocolViolation(f"a payload of {length} bytes")
                size += length
                if end - start < size:
                    return start, size
            plain = not flags and 0 < length <= NBD_REQUEST_BYTES and offset + length <= size_max
            if plain and command == nbd.CMD_READ:
                ios.append(Io(READ, offset, length, owner, cookie))
                room -= length + REQUEST_COST
            else:
                io = self._judge(flags, command, cookie, offset, length, out)
                if io is not None:
                    if command == nbd.CMD_WRITE:
                        io.payload = data[start + HEADER_BYTES : start + size]
                    ios.append(io)
                    room -= REQUEST_COST + extra_cost(io)
            start += size
        return start, HEADER_BYTES

    def _judge(
        self, flags: int, command: int, cookie: int, offset: int, length: int, out: list[Buffer]
    ) -> Io | None:
        """The request as the volume takes it; None when it is answered already or needs none."""
        if command == nbd.CMD_DISC:
            self.disconnected = True
            return None
        if error := self._error(flags, command, offset, length):
            out.append(self.error(cookie, error))
            return None
        fua = bool(flags & nbd.CMD_FLAG_FUA)
        if command == nbd.CMD_FLUSH:
            return Io(FLUSH, 0, 0, self._owner, cookie)
        if not length:
            out.append(self.success(cookie))
            return None
        if command == nbd.CMD_READ:
            return Io(READ, offset, length, self._owner, cookie)
        if command == nbd.CMD_WRITE:
            return Io(WRITE, offset, length, self._owner, cookie, fua=fua)
        if command == nbd.CMD_CACHE:  # advice: what is beyond one request's limit is not followed
            return Io(CACHE, offset, min(length, NBD_REQUEST_BYTES), self._owner, cookie)
        if command == nbd.CMD_BLOCK_STATUS:
            first_only = bool(flags & nbd.CMD_FLAG_REQ_ONE)
            return Io(STATUS, offset, length, self._owner, cookie, first_only=first_only)
        hole = command == nbd.CMD_TRIM or not flags & nbd.CMD_FLAG_NO_HOLE
        return Io(TRIM if hole else ZERO, offset, length, self._owner, cookie, fua=fua)

    def _error(self, flags: int, command: int, offset: int, length: int) -> int:
        """Why a request is refused, or 0."""
        allowed = _FLAGS_ALLOWED.get(command)
        if allowed is None or flags & ~allowed:
            return nbd.EINVAL
        if flags & nbd.CMD_FLAG_DF and command == nbd.CMD_READ and not self._structured:
            return nbd.EINVAL
        if command in _CHANGING and self._read_only:
            return nbd.EPERM
        if command == nbd.CMD_FLUSH:
            return 0
        if offset + length > self._size:
            return nbd.ENOSPC if command in _GROWING else nbd.EINVAL
        if command == nbd.CMD_BLOCK_STATUS and not (self._allocation and length):
            return nbd.EINVAL
        if command == nbd.CMD_READ and length > NBD_REQUEST_BYTES:
            return nbd.EOVERFLOW if flags & nbd.CMD_FLAG_DF else nbd.EINVAL
        return 0

    def reply(self, io: Io, out: list[Buffer]) -> None:
        """Append the reply to an answered request."""
        if io.error is not None:
            out.append(self.error(io.cookie, errno_of(io.error)))
        elif io.kind == STATUS:
            out.append(_status(io))
        elif io.kind != READ:
            out.append(self.success(io.cookie))
        elif self._structured:
            out.append(
                nbd.DATA_CHUNK.pack(
                    nbd.CHUNK_MAGIC,
                    nbd.CHUNK_DONE,
                    nbd.CHUNK_OFFSET_DATA,
                    io.cookie,
                    io.length + 8,
                    io.offset,
                )
            )
            out += io.parts
        else:
            out.append(nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, io.cookie))
            out += io.parts

    def success(self, cookie: int) -> bytes:
        """A reply without data."""
        if self._structured:
            return nbd.CHUNK.pack(nbd.CHUNK_MAGIC, nbd.CHUNK_DONE, nbd.CHUNK_NONE, cookie, 0)
        return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, 0, cookie)

    def error(self, cookie: int, error: int) -> bytes:
        """A reply that says why not."""
        if self._structured:
            return nbd.ERROR_CHUNK.pack(
                nbd.CHUNK_MAGIC, nbd.CHUNK_DONE, nbd.CHUNK_ERROR, cookie, 6, error, 0
            )
        return nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, cookie)


def _status(io: Io) -> bytes:
    """The block status chunk: lengths and states, from the request's offset on."""
    flat = [nbd.ALLOCATION_ID]
    for length, data in io.runs:
        flat += (length, 0 if data else nbd.STATE_HOLE_ZERO)
    body = struct.pack(f">{len(flat)}I", *flat)
    head = nbd.CHUNK.pack(
        nbd.CHUNK_MAGIC, nbd.CHUNK_DONE, nbd.CHUNK_BLOCK_STATUS, io.cookie, len(body)
    )
    return head + body


def errno_of(error: PinfoldError) -> int:
    """The protocol's number for an error."""
    for kind, number in _ERRNO:
        if isinstance(error, kind):
            return number
    return nbd.EIO
