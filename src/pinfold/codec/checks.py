"""Checksums of payloads: one xxh3_64 for each started 64 KiB, whatever buffers they come in."""

from collections.abc import Sequence
from typing import Final

import xxhash

from pinfold.model.limits import BLOB_CHECK_BYTES

Buffer = bytes | bytearray | memoryview

_WHOLE: Final = BLOB_CHECK_BYTES


def payload_checks(payload: Sequence[Buffer]) -> list[int]:
    """The check table of the buffers' concatenation; copies nothing."""
    if len(payload) == 1 and len(payload[0]) <= _WHOLE:
        return [xxhash.xxh3_64_intdigest(payload[0])]
    checks: list[int] = []
    running, room = xxhash.xxh3_64(), _WHOLE
    for buffer in payload:
        view = memoryview(buffer)
        while view:
            piece = view[:room]
            running.update(piece)
            room -= len(piece)
            view = view[len(piece) :]
            if room == 0:
                checks.append(running.intdigest())
                running, room = xxhash.xxh3_64(), _WHOLE
    if room < _WHOLE:
        checks.append(running.intdigest())
    return checks
