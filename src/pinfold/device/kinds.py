"""The kinds of journal records. Numbers are part of the format: never reuse one."""

from typing import Final

BOOT: Final = 1
"""Opened: proves that the journal takes writes before anything is promised."""

MEMORY: Final = 2
"""What must never be forgotten, repeated before older records are let go: see `memory`."""

GROUP_CREATE: Final = 16
LOG_APPEND: Final = 17
LOG_CARRY: Final = 18
"""Entries written again so that an old segment can be released; truncates nothing."""
GROUP_VIEW: Final = 19
GROUP_INSTALL: Final = 20

BLOB_PUT: Final = 32
BLOB_PACKED: Final = 33
BLOB_DELETE: Final = 34
BLOB_QUARANTINE: Final = 35

EXTENT_WRITE: Final = 48
EXTENT_CLAIM: Final = 49
EXTENT_STABLE: Final = 50
EXTENT_DROP: Final = 51
EXTENT_RESTORED: Final = 52
"""A volume whose extents were lost here has them all again."""

DEVICE_KINDS: Final = range(1, 16)
LOG_KINDS: Final = range(GROUP_CREATE, GROUP_INSTALL + 1)
BLOB_KINDS: Final = range(BLOB_PUT, BLOB_QUARANTINE + 1)
EXTENT_KINDS: Final = range(EXTENT_WRITE, EXTENT_RESTORED + 1)
KNOWN: Final = frozenset((BOOT, MEMORY, *LOG_KINDS, *BLOB_KINDS, *EXTENT_KINDS))
