"""A file system without room: an answer to a write, not a failure of the device.

The rule: what writes to fresh space does so inside `room()`. Whoever called has then changed
nothing that counts and may try again. A flush that reports no room is another matter, because
nobody knows what it left behind: it is never inside, and stops the device like any other error.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""What the system calls it: on the disk, for the owner of the files, for one file."""

RETRY_S: Final = 0.2
"""Pause before something that found no room is tried again: somebody must free some first."""


class NoRoom(Exception):
    """The file system has no room for a write."""


@contextmanager
def room() -> Iterator[None]:
    """Turn the system's errors for "no room" into NoRoom."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoom(str(error)) from error
        raise
