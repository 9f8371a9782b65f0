"""What a device applied to its groups' rows: each row it shows must be that of its applied op."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

from pinfold.device.api import LogStore, RowStore
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import GroupId


class _Group:
    """By key, the ops that wrote it and what they wrote, in order."""

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[list[int], list[bytes | None]]] = {}

    def at(self, key: bytes, op: int) -> tuple[bool, bytes | None]:
        """(whether it is known what the key holds as of an op, that)."""
        ops, values = self.keys.get(key, ([], []))
        at = bisect_right(ops, op)
        return (False, None) if not at else (True, values[at - 1])

    def all_at(self, op: int) -> dict[bytes, bytes]:
        """All rows as of an op."""
        found = ((key, self.at(key, op)[1]) for key in self.keys)
        return {key: value for key, value in found if value is not None}


class RowLedger:
    """Of one device, by group. Keys nobody was seen to write are not judged."""

    def __init__(self) -> None:
        self._groups: dict[GroupId, _Group] = {}

    def group(self, group: GroupId) -> _Group:
        """What is known of a group's rows."""
        return self._groups.setdefault(group, _Group())

    def has_seen(self, key: bytes) -> bool:
        """Whether some group's row of this key was ever written."""
        return any(key in known.keys for known in self._groups.values())

    def histories(self) -> Iterator[tuple[bytes, Sequence[bytes | None]]]:
        """(key, what was written to it, in order) of every row that is known."""
        for known in self._groups.values():
            for key, (_, values) in known.keys.items():
                yield key, values

    def emptied(self, group: GroupId) -> None:
        """A copy begins: what is not in its pages may stay or go."""
        self._groups.pop(group, None)

    def forget(self) -> None:
        """A fault took all rows."""
        self._groups.clear()

    def wrote(self, group: GroupId, op: int, writes: Sequence[tuple[bytes, bytes | None]]) -> None:
        """An op was applied, or a page of a copy of that op."""
        keys = self.group(group).keys
        for key, value in writes:
            ops, values = keys.setdefault(bytes(key), ([], []))
            while ops and ops[-1] >= op:  # a life before a crash had gone further
                ops.pop()
                values.pop()
            ops.append(op)
            values.append(None if value is None else bytes(value))

    def compare(self, log: LogStore, rows: RowStore, accuse: Callable[[str], None]) -> None:
        """Accuse the device of the first row of each group that is not as it was applied."""
        present = set(log.groups())
        for group, known in self._groups.items():
            if group not in present:
                continue
            op = log.state(group).applied_op
            for key in known.keys:
                certain, expected = known.at(key, op)
                if not certain:
                    continue
                try:
                    found = rows.get(group, key)
                except PinfoldError:
                    continue
                if found != expected:
                    accuse(f"group {group}: row {key!r} is not that of op {op}")
                    break


class Rows:
    """A `RowStore` that compares."""

    def __init__(
        self, inner: RowStore, log: LogStore, ledger: RowLedger, accuse: Callable[[str], None]
    ) -> None:
        self._inner = inner
        self._log = log
        self._ledger = ledger
        self._accuse = accuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get(self, group: GroupId, key: bytes) -> bytes | None:
        """See `RowStore.get`."""
        found = self._inner.get(group, key)
        self._judge(group, key, found)
        return found

    def scan(
        self, group: GroupId, start: bytes, end: bytes | None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """See `RowStore.scan`."""
        with closing(cast(Any, self._inner.scan(group, start, end, reverse=reverse))) as scan:
            for key, value in scan:
                self._judge(group, key, value)
                yield key, value

    def _judge(self, group: GroupId, key: bytes, found: bytes | None) -> None:
        op = self._log.state(group).applied_op
        certain, expected = self._ledger.group(group).at(bytes(key), op)
        if certain and found != expected:
            self._accuse(f"group {group}: read of row {key!r} is not that of op {op}")
