"""A replica tied to its device's stores, its peers and its clients.

The rule of this file: pass on. Decisions are in `replica` and `ledger`.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog

from pinfold.cluster.groups.applied import AppliedTimes
from pinfold.cluster.groups.confirm import Confirmed, Confirmer
from pinfold.cluster.groups.entries import Write
from pinfold.cluster.groups.messages import Message
from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.room import Room
from pinfold.cluster.groups.scan import RowIterator
from pinfold.cluster.groups.serving import Serving, WaitingBytes
from pinfold.cluster.groups.state import Birth, Limits
from pinfold.cluster.groups.tempo import Tempo
from pinfold.cluster.groups.views import NOBODY
from pinfold.cluster.groups.walltime import WallTime
from pinfold.codec.digests import chosen
from pinfold.device.api import Entry, LogState, LogStore, Part, RowStore
from pinfold.env.api import Clock
from pinfold.model.errors import Busy, Corrupt, NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, GroupId

_PASSED_BYTES: Final = 128
"""What a row that a copy passes over counts as: 8,192 of them in a page, some 10 ms of work."""

_log: Final = structlog.get_logger("pinfold.groups")


class Surroundings(Protocol):
    """What a bound group needs of its node."""

    clock: Clock
    confirmer: Confirmer
    tempo: Tempo
    time: WallTime
    room: Room
    waiting: WaitingBytes

    def send(self, group: GroupId, to: DeviceId, sender: DeviceId, message: Message) -> None:
        """Send a message with the others of this tick."""
        ...

    def ready(self, serving: Serving) -> None:
        """Call `serving.pump` when the tick has collected its work."""
        ...

    def copy_room(self) -> bool:
        """Whether this node may have one more page of a copy on its way."""
        ...

    def alive(self, device: DeviceId) -> bool:
        """Whether a device is believed to serve."""
        ...

    def device_failed(self, device: DeviceId, error: PinfoldError) -> None:
        """A durable call has failed: the device takes no further part."""
        ...


class BoundGroup:
    """One group on one device: the replica's log and ports, and its queue while it serves."""

    def __init__(
        self,
        group: GroupId,
        birth: Birth,
        me: DeviceId,
        log: LogStore,
        rows: RowStore,
        surroundings: Surroundings,
        limits: Limits,
    ) -> None:
        self.group = group
        self.me = me
        self._log = log
        self._rows = rows
        self._surroundings = surroundings
        self._limits = limits
        self.serving: Serving | None = None
        self.stopped = False
        self.told_commit_op = 0
        """The commit point of the last news to the followers."""
        self._applied = AppliedTimes(surroundings.clock)
        self.replica = Replica(group, birth, me, self, self, limits)

    def not_primary(self) -> NotPrimary:
        """The error that tells a client whom to ask: detail (view, device, members)."""
        replica = self.replica
        named = dict.fromkeys((*replica.state.voters, replica.primary))
        named.pop(NOBODY, None)
        return NotPrimary(
            f"device {self.me} does not lead group {self.group}",
            detail=(replica.view, replica.primary, tuple(named)),
        )

    def stop(self, error: PinfoldError) -> None:
        """Take no further part."""
        self.stopped = True
        if self.serving is not None:
            self.serving.close(error)
            self.serving = None

    def act(self, event: Callable[..., None], *arguments: Any) -> None:
        """Tell the replica of an event, unless this group has stopped.

        A device that is busy or full refuses an append; the message counts as lost, and whoever
        sent it tries again.
        """
        if self.stopped:
            return
        try:
            event(*arguments)
        except Unavailable as error:
            self._surroundings.device_failed(self.me, error)
        except PinfoldError as error:
            _log.info("a group waits for its device", group=self.group, reason=error.message)

    # The replica's ports.

    def send(self, to: DeviceId, message: Message) -> None:
        """See `Ports`."""
        self._surroundings.send(self.group, to, self.me, message)

    def role_changed(self) -> None:
        """See `Ports`."""
        if self.serving is not None:
            self.serving.close(self.not_primary())
            self.serving = None
        if self.replica.leadership is not None:
            _log.info("group served", group=self.group, device=self.me, view=self.replica.view)
            self.serving = Serving(
                self.replica,
                self.get,
                self.scan,
                self._surroundings.clock,
                name_within_ms=self._limits.name_within_ms,
                results_max=self._limits.results_max,
                waiting=self._surroundings.waiting,
                now_ms=self._surroundings.time.now_ms,
                known_since=self._applied.time_of,
                grows=self._grows,
                confirm=self._confirm,
                ready=self._surroundings.ready,
            )

    def copy_room(self) -> bool:
        """See `Ports`."""
        return self._surroundings.copy_room()

    def alive(self, device: DeviceId) -> bool:
        """See `Ports`."""
        return self._surroundings.alive(device)

    def go_on(self) -> None:
        """See `Ports`."""
        asyncio.get_running_loop().call_soon(self.act, self.replica.go_on)

    def committed(self, op: int) -> None:
        """See `Ports`."""
        if self.serving is not None:
            self.serving.on_committed(op)

    def _grows(self) -> bool:
        surroundings, leadership = self._surroundings, self.replica.leadership

        def absent(member: DeviceId) -> bool:
            copies = leadership is not None and leadership.copies_to(member)
            return copies or not surroundings.alive(member)

        return surroundings.room.grows(self.me, self.replica.state.voters, absent)

    def _confirm(self, done: Confirmed) -> None:
        state = self.replica.state
        asked = (self.group, state.view, self.me)
        self._surroundings.confirmer.ask(*asked, state.configuration, done)

    # The replica's log.

    def state(self) -> LogState:
        """See `LogStore.state`."""
        return self._log.state(self.group)

    def view_at(self, op: int) -> int | None:
        """See `LogStore.view_at`."""
        return self._log.view_at(self.group, op)

    def tail(self, first_op: int, max_bytes: int) -> list[Entry]:
        """See `LogStore.tail`."""
        return self._log.tail(self.group, first_op, max_bytes)

    def append(self, entries: Sequence[Entry]) -> None:
        """See `ReplicaLog.append`."""
        last = entries[-1]
        try:
            future = self._log.append(self.group, entries)
        except Unavailable as error:
            self._surroundings.device_failed(self.me, error)
            raise
        append = self._surroundings.tempo.began(self.me)
        future.add_done_callback(partial(self._appended, last.op, last.view, append))

    def set_view(self, view: int, voted: bytes) -> None:
        """See `ReplicaLog.set_view`."""
        future = self._log.set_view(self.group, view, voted)
        future.add_done_callback(partial(self._view_durable, view, voted))

    def apply(self, op: int, writes: Sequence[Write]) -> None:
        """See `LogStore.apply`."""
        self._log.apply(self.group, op, writes)
        self._applied.applied(op)

    def digest(self) -> bytes:
        """See `LogStore.digest`."""
        return self._log.digest(self.group)

    def rotten(self) -> bool:
        """See `LogStore.rotten`."""
        return self._log.rotten(self.group)

    def trim(self, before_op: int) -> None:
        """See `LogStore.trim`."""
        self._log.trim(self.group, before_op)

    def install(
        self,
        page: tuple[int, int],
        base: tuple[int, int],
        rows: Sequence[Write],
        *,
        first: bool,
        last: bool,
        digest: bytes,
        part: Part,
    ) -> None:
        """See `ReplicaLog.install`."""
        future = self._log.install(
            self.group, *base, rows, first=first, last=last, digest=digest, part=part
        )
        self._applied.forget()
        future.add_done_callback(partial(self._installed, page))

    def rows(
        self, start: bytes, max_bytes: int, buckets: bytes = b""
    ) -> tuple[list[tuple[bytes, bytes]], bytes | None]:
        """See `ReplicaLog.rows`."""
        page: list[tuple[bytes, bytes]] = []
        within = chosen(buckets, self.group)
        for key, value in self.scan(start, None):
            if max_bytes <= 0:
                return page, key
            if within(key):
                page.append((key, value))
                max_bytes -= len(key) + len(value)
            else:
                max_bytes -= _PASSED_BYTES
        return page, None

    def get(self, key: bytes) -> bytes | None:
        """An applied row, as stored. Busy where rows are rotten: they wait for a copy."""
        try:
            return self._rows.get(self.group, key)
        except Corrupt as error:
            raise self._busy(error) from error

    def scan(self, start: bytes, end: bytes | None, reverse: bool = False) -> RowIterator:
        """Applied rows of a range, in order. Busy as for `get`."""
        try:
            yield from self._rows.scan(self.group, start, end, reverse=reverse)
        except Corrupt as error:
            raise self._busy(error) from error

    def _busy(self, error: Corrupt) -> Busy:
        return Busy(f"device {self.me} waits for a copy of group {self.group}: {error.message}")

    def _appended(self, op: int, view: int, append: object, future: "asyncio.Future[None]") -> None:
        self._surroundings.tempo.ended(self.me, append)
        if self._done(future):
            self.act(self.replica.on_appended, op, view)

    def _view_durable(self, view: int, voted: bytes, future: "asyncio.Future[None]") -> None:
        if self._done(future):
            self.act(self.replica.on_view_durable, view, voted)

    def _installed(self, page: tuple[int, int], future: "asyncio.Future[None]") -> None:
        if self._done(future):
            self.act(self.replica.on_installed, page)

    def _done(self, future: "asyncio.Future[None]") -> bool:
        """Whether the write is durable and anybody still cares."""
        if future.cancelled():
            return False
        error = future.exception()
        if error is None:
            return not self.stopped
        if not isinstance(error, PinfoldError):
            raise error
        if not self.stopped:
            self._surroundings.device_failed(self.me, error)
        return False
