"""A process's number of starts, and the promise that only one process runs under a node name.

Peers tell a restarted process from the one they knew by its boot; so a boot is never used twice,
not even by a process that dies right after it has been told its own.
"""

import os
from pathlib import Path

from pinfold.env.api import Disk, Lock
from pinfold.model.errors import Conflict, Corrupt
from pinfold.model.ids import Boot


def hold(disk: Disk, path: Path, taken: str) -> Lock:
    """Take the lock file `path` until the process ends, however it ends.

    Conflict with the message `taken` and the holder's process id when somebody has it.
    """
    pid_file = f"{path}.pid"
    try:
        lock = disk.lock(str(path))
    except BlockingIOError:
        holder = disk.read_file(pid_file).decode() if disk.exists(pid_file) else "unknown"
        raise Conflict(f"{taken} (process {holder.strip()})") from None
    disk.write_file(pid_file, b"%d\n" % os.getpid())
    return lock


def next_boot(disk: Disk, directory: Path) -> Boot:
    """A boot higher than any this directory has given out, durable before it is returned.

    The caller holds the node's lock. Corrupt when the number kept there cannot be read: guessing
    one could repeat it.
    """
    path = str(directory / "boot")
    previous = 0
    if disk.exists(path):
        content = disk.read_file(path)
        try:
            previous = int(content)
        except ValueError:
            raise Corrupt(f"{path} holds {content[:40]!r} instead of a boot number") from None
    disk.write_file(path, b"%d\n" % (previous + 1))
    return Boot(previous + 1)
