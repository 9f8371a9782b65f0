"""The row groups of one node: rpc operations, pings, ticks and messages in batches.

Everything here is per node pair or per tick, never per group: one ping tells that this node lives
and how far the groups it leads are committed, one frame carries all the messages of a tick, one
question confirms all its reads.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

import msgspec
import structlog

from pinfold.cluster.api import Change, Collapse
from pinfold.cluster.bodies import taken
from pinfold.cluster.groups import wire
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.checks import demand
from pinfold.cluster.groups.configuration import decode_configuration
from pinfold.cluster.groups.confirm import CONFIRM, FIELDS, Confirmer
from pinfold.cluster.groups.liveness import Liveness
from pinfold.cluster.groups.membership import Membership
from pinfold.cluster.groups.messages import Message
from pinfold.cluster.groups.operations import (
    CHANGE,
    CHANGE_FORM,
    CONFIRM_FORM,
    FORCE,
    FORCE_FORM,
    GET,
    GET_FORM,
    MESSAGES,
    PING,
    PING_FORM,
    SCAN,
    SCAN_FORM,
    STATUS,
)
from pinfold.cluster.groups.room import Room
from pinfold.cluster.groups.scan import scan_page
from pinfold.cluster.groups.serving import TURN_S, Serving, WaitingBytes
from pinfold.cluster.groups.state import Birth, Limits
from pinfold.cluster.groups.status import GroupStatus, describe
from pinfold.cluster.groups.tempo import Tempo
from pinfold.cluster.groups.walltime import WallTime
from pinfold.codec.unreadable import UNREADABLE
from pinfold.device.api import LogStore, RowStore
from pinfold.env.api import Env
from pinfold.model.errors import Invalid, NotFound, NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName
from pinfold.rpc.api import Answer, Dispatcher, HandlerResult, Peers, Reply, Request

_log: Final = structlog.get_logger("pinfold.groups")

TICK_S: Final = 0.1
"""How often silence is looked at."""

_TICKS_PER_PING: Final = 2
"""A ping, and a look at every replica, each 200 ms."""

_TICKS_PER_NEWS: Final = 20
"""A ping tells of every group led here, whether or not it has news, each 2 s."""

_TICKS_PER_BALANCE: Final = 10
"""Once a second one group led here may be handed to its first member."""

_STEADY_S: Final = 15.0
"""A node that has been here for so long without interruption is given groups to lead."""

_BALANCE_PAUSE_S: Final = 300.0
"""A group is not handed over again before: if its heir cannot hold it, nothing flaps."""

_MESSAGES_S: Final = 2.0
"""Deadline of messages between members; they are repeated if lost."""

_change_decoder = msgspec.msgpack.Decoder(Change)


class GroupService:
    """See the module. Add devices, then `start`; `close` ends it."""

    def __init__(
        self,
        env: Env,
        node: NodeName,
        peers: Peers,
        dispatcher: Dispatcher,
        membership: Membership,
        limits: Limits | None = None,
    ) -> None:
        self.clock = env.clock
        self._rng = env.rng
        self.confirmer = Confirmer(env.clock, peers, membership)
        self.tempo = Tempo(env.clock)
        self.time = WallTime(env.clock, node)
        self.room = Room()
        self._node = node
        self._peers = peers
        self._membership = membership
        self._limits = Limits() if limits is None else limits
        self.waiting = WaitingBytes(self._limits.waiting_bytes)
        self._stores: dict[DeviceId, tuple[LogStore, RowStore]] = {}
        self._groups: dict[tuple[DeviceId, GroupId], BoundGroup] = {}
        self._failed_devices: dict[DeviceId, PinfoldError] = {}
        self._failed_elsewhere: dict[NodeName, frozenset[DeviceId]] = {}
        self._liveness = Liveness(env.clock.monotonic())
        self._outbox: dict[NodeName, tuple[list[list[Any]], list[bytes]]] = {}
        self._ready: list[Serving] = []
        self._run_scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0
        self._handed_over_at: dict[GroupId, float] = {}
        self._closed = False
        dispatcher.bind(MESSAGES, self._on_messages)
        dispatcher.bind(PING, self._on_ping)
        dispatcher.bind(CONFIRM, self._on_confirm)
        dispatcher.bind(GET, self._on_get)
        dispatcher.bind(SCAN, self._on_scan)
        dispatcher.bind(CHANGE, self._on_change)
        dispatcher.bind(STATUS, self._on_status)
        dispatcher.bind(FORCE, self._on_force)
        peers.watch(self._on_session)

    async def add_device(
        self, device: DeviceId, log: LogStore, rows: RowStore, groups: Iterable[GroupId]
    ) -> None:
        """Serve these groups from a device, and those whose logs it has already.

        Empty logs are created for the others: to begin a group under the first ring, else to learn.
        """
        self._stores[device] = (log, rows)
        self.room.watch(device, log.full)
        await self.take(device, {*groups, *log.groups()})

    async def take(self, device: DeviceId, groups: Iterable[GroupId]) -> None:
        """Serve these groups too from a device added before: the ring has changed."""
        log, rows = self._stores[device]
        groups = sorted(group for group in groups if (device, group) not in self._groups)
        known = set(log.groups())
        created = [log.create(group) for group in groups if group not in known]
        for future in created:
            await future
        for group in groups:
            if (device, group) in self._groups:
                continue  # taken meanwhile
            wish = self._membership.members(group)
            founders = wish if self._membership.founding() and device in wish else ()
            birth = Birth(number=self._rng.getrandbits(62) + 1, founders=founders, wish=wish)
            bound = BoundGroup(group, birth, device, log, rows, self, self._limits)
            self._groups[device, group] = bound
            bound.act(bound.replica.start)

    def start(self) -> None:
        """Begin to ping and to watch."""
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    async def close(self) -> None:
        """Stop serving; callers hear Unavailable and ask elsewhere."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for bound in self._groups.values():
            bound.stop(Unavailable("this node is stopping"))

    def bound(self, device: DeviceId, group: GroupId) -> BoundGroup:
        """A group of a device here; NotFound for any other."""
        bound = self._groups.get((device, group))
        if bound is None or bound.stopped:
            raise NotFound(f"device {device} serves no group {group} here")
        return bound

    def led(self) -> list[BoundGroup]:
        """The groups that devices of this node lead and serve."""
        return [bound for bound in self._groups.values() if bound.serving is not None]

    def status(self) -> list[GroupStatus]:
        """What operators see of the groups here, by device and group."""
        return [
            describe(bound.replica, crowded=bound.serving is not None and bound.serving.crowded)
            for _, bound in sorted(self._groups.items())
        ]

    # What bound groups ask for.

    def send(self, group: GroupId, to: DeviceId, sender: DeviceId, message: Message) -> None:
        """See `Surroundings`."""
        try:
            node = self._membership.node_of(to)
        except PinfoldError:
            return
        head, buffers = wire.encode(group, to, sender, message)
        outgoing = self._outbox.get(node)
        if outgoing is None:
            outgoing = self._outbox[node] = ([], [])
        outgoing[0].append(head)
        outgoing[1].extend(buffers)
        self._schedule_run()

    def ready(self, serving: Serving) -> None:
        """See `Surroundings`."""
        self._ready.append(serving)
        self._schedule_run()

    def copy_room(self) -> bool:
        """See `Surroundings`."""
        groups = self._groups.values()
        out = sum(bound.replica.pages_out for bound in groups if not bound.stopped)
        return out < self._limits.copy_pages_here

    def device_failed(self, device: DeviceId, error: PinfoldError) -> None:
        """See `Surroundings`."""
        if device in self._failed_devices or self._closed:
            return
        _log.error("row groups leave a failed device", device=device, reason=error.message)
        self._failed_devices[device] = error
        for bound in self._groups.values():
            if bound.me == device:
                bound.stop(Unavailable(f"device {device} has failed"))

    def _schedule_run(self) -> None:
        if not self._run_scheduled:
            self._run_scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """End of a tick: entries out of waiting changes, then everything leaves in batches."""
        ready, self._ready = self._ready, []
        try:
            for serving in ready:
                serving.pump()
        finally:  # whatever fails in one group, the next tick runs
            self._run_scheduled = False
            if self._ready:
                self._schedule_run()  # a turn was over before the work was
        self.confirmer.flush()
        outbox, self._outbox = self._outbox, {}
        for node, (heads, payload) in outbox.items():
            if not payload:
                self._peers.tell(node, MESSAGES, heads)
            elif self._peers.connected(node):
                deadline = self.clock.monotonic() + _MESSAGES_S
                sent = self._peers.call(node, MESSAGES, heads, payload, deadline=deadline)
                sent.add_done_callback(_forget)

    # Time.

    def _tick(self) -> None:
        if self._closed:
            return
        self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)
        self._liveness.tick(self.clock.monotonic(), TICK_S)
        self._ticks += 1
        if self._ticks % _TICKS_PER_PING == 0:
            self._ping()
            for bound in list(self._groups.values()):
                bound.act(bound.replica.tick)
                if bound.serving is not None:
                    self._pursue(bound)
        for bound in list(self._groups.values()):
            bound.act(self._watch_primary, bound)
        if self._ticks % _TICKS_PER_BALANCE == 0:
            self.tempo.look()
            self._relieve()
            self._balance()

    def _relieve(self) -> None:
        """Hand every group over that a slow or full device leads, or whose rows are rotten."""
        for bound in list(self._groups.values()):
            leads = not bound.stopped and bound.replica.leadership is not None
            if leads and (not self._fit(bound.me) or bound.rotten()):
                heirs = filter(self._fit, bound.replica.heirs())
                if (heir := next(heirs, None)) is not None:
                    bound.act(bound.replica.hand_over, heir)

    def _fit(self, device: DeviceId) -> bool:
        return self.alive(device) and not self.tempo.slow(device) and not self.room.full(device)

    def _balance(self) -> None:
        """Hand one group back to the member that leads it when nothing has failed."""
        now = self.clock.monotonic()
        for bound in self.led():
            heir = bound.replica.heir()
            if heir is None or not self._steady(heir):
                continue
            before = self._handed_over_at.get(bound.group)
            if before is None or now - before > _BALANCE_PAUSE_S:
                self._handed_over_at[bound.group] = now
                bound.act(bound.replica.hand_over, heir)
                return

    def _pursue(self, bound: BoundGroup) -> None:
        """Have a group led here follow the ring."""
        try:
            wish = self._membership.members(bound.group)
        except PinfoldError:
            return
        state = bound.replica.state
        before = state.configuration
        bound.act(bound.replica.pursue, wish)
        after = state.configuration
        if after.number > before.number:
            _log.info(
                "group members change",
                group=bound.group,
                number=after.number,
                members=after.members,
                joining=after.joining,
            )

    def _steady(self, device: DeviceId) -> bool:
        try:
            node = self._membership.node_of(device)
        except PinfoldError:
            return False
        steady = node == self._node or self._liveness.steady(node, _STEADY_S)
        return steady and self._fit(device)

    def _watch_primary(self, bound: BoundGroup) -> None:
        replica = bound.replica
        if not replica.impatient and (replica.primary == bound.me or self.alive(replica.primary)):
            return
        view = replica.next_view(self._fit) or replica.next_view(self.alive)
        if view is not None:
            replica.change_view(view)

    def alive(self, device: DeviceId) -> bool:
        """See `Surroundings`."""
        try:
            node = self._membership.node_of(device)
        except PinfoldError:
            return False
        if node == self._node:
            return device not in self._failed_devices
        if device in self._failed_elsewhere.get(node, ()):
            return False
        return self._liveness.alive(node)

    def _ping(self) -> None:
        """Tell every node of a shared group that this one lives, and what it has committed."""
        news: dict[NodeName, list[tuple[int, int, int, int, int]]] = {}
        for bound in self._groups.values():
            state = bound.replica.state
            news_due = bound.told_commit_op != state.commit_op or not self._ticks % _TICKS_PER_NEWS
            fresh = bound.serving is not None and news_due
            for member in bound.replica.audience:
                try:
                    told = news.setdefault(self._membership.node_of(member), [])
                except PinfoldError:
                    continue
                if fresh:
                    number = state.configuration.number
                    told.append((member, bound.group, state.view, state.commit_op, number))
            if fresh:
                bound.told_commit_op = state.commit_op
        for node, told in news.items():
            self._tell(node, told)

    def _tell(self, node: NodeName, commits: list[tuple[int, int, int, int, int]]) -> None:
        failed, full, flushes = list(self._failed_devices), self.room.tell(), self.tempo.tell()
        self._peers.tell(node, PING, (failed, full, commits, flushes, self.time.own_ms()))

    def _on_session(self, node: NodeName, up: bool, boot: int) -> None:
        self._liveness.session(node, up)
        if up:
            self._tell(node, [])  # the time of day above all: before any vote by which it may lead
            for bound in self._groups.values():
                bound.told_commit_op = 0

    # Between members.

    def _on_messages(self, request: Request) -> HandlerResult:
        self._liveness.heard(request.peer)
        for group, to, sender, message in wire.decode(request.body, request.payload):
            bound = self._groups.get((to, group))
            if bound is not None:
                bound.act(bound.replica.handle, sender, message)
        return _DONE

    def _on_ping(self, request: Request) -> HandlerResult:
        self._liveness.heard(request.peer)
        failed, full, told, flushes, wall_ms = taken(PING, request.body, PING_FORM)
        self.tempo.heard(flushes)
        self.time.heard(request.peer, wall_ms)
        self.room.heard(request.peer, full)
        self._failed_elsewhere[request.peer] = frozenset(map(DeviceId, failed))
        for device, group, view, commit_op, number in told:
            bound = self._groups.get((DeviceId(device), GroupId(group)))
            if bound is not None:
                bound.act(bound.replica.on_commit_news, view, commit_op, number)
        return _DONE

    def _on_confirm(self, request: Request) -> HandlerResult:
        body = taken(CONFIRM, request.body, CONFIRM_FORM)
        refused: list[int] = []
        groups = self._groups
        for position in range(len(body) // FIELDS):
            device, group, view, birth = body[FIELDS * position : FIELDS * (position + 1)]
            bound = groups.get((DeviceId(device), GroupId(group)))
            if bound is None or bound.stopped or not bound.replica.confirms(birth):
                refused.append(~position)
            elif bound.replica.state.view != view:
                refused.append(position)
        return Reply(refused) if refused else _DONE

    # For clients.

    def _serving(self, device: DeviceId, group: GroupId) -> tuple[BoundGroup, Serving]:
        bound = self._groups.get((device, group))
        if bound is None or bound.stopped:
            raise NotPrimary(f"device {device} serves no group {group} here")
        if bound.serving is None:
            raise bound.not_primary()
        return bound, bound.serving

    def _on_get(self, request: Request) -> HandlerResult:
        device, group, key, checks = taken(GET, request.body, GET_FORM)
        bound, serving = self._serving(DeviceId(device), GroupId(group))
        get = bound.get

        def look() -> Reply:
            if checks:
                demand(checks, get)
            value = get(key)
            return _DONE if value is None else Reply(1, (value,))

        return serving.read(look, request.deadline)

    def _on_scan(self, request: Request) -> HandlerResult:
        asked = taken(SCAN, request.body, SCAN_FORM)
        bound, serving = self._serving(DeviceId(asked.device), GroupId(asked.group))
        collapse = None if asked.collapse is None else Collapse(*asked.collapse)

        def look() -> Reply:
            if asked.checks:
                demand(asked.checks, bound.get)
            late_at = self.clock.monotonic() + TURN_S
            items, next_start = scan_page(
                bound.scan,
                asked.start,
                asked.end,
                asked.limit,
                collapse=collapse,
                reverse=asked.reverse,
                payloads=asked.payloads,
                late=lambda: self.clock.monotonic() >= late_at,
            )
            return Reply(next_start, (msgspec.msgpack.encode(items),))

        return serving.read(look, request.deadline)

    def _on_change(self, request: Request) -> HandlerResult:
        device, group, again = taken(CHANGE, request.body, CHANGE_FORM)
        _, serving = self._serving(DeviceId(device), GroupId(group))
        try:
            change = _change_decoder.decode(request.payload)
        except UNREADABLE as error:
            raise Invalid(f"a change that does not decode: {error}") from error
        return serving.change(change, len(request.payload), request.deadline, again=again)

    def _on_status(self, request: Request) -> HandlerResult:
        return Reply([msgspec.to_builtins(one) for one in self.status()])

    def _on_force(self, request: Request) -> HandlerResult:
        device, group, seen_number, configuration = taken(FORCE, request.body, FORCE_FORM)
        forced = decode_configuration(configuration)
        bound = self.bound(DeviceId(device), GroupId(group))
        _log.error(
            "members are forced by an operator: what only others had committed is lost",
            group=group,
            survivor=device,
            members=forced.members,
            before=bound.replica.state.voters,
            last_op=bound.replica.state.last_op,
        )
        bound.replica.force(forced, seen_number)
        return _DONE


_DONE: Final = Reply()


def _forget(future: "asyncio.Future[Answer]") -> None:
    """Messages may get lost; what matters is repeated."""
    if not future.cancelled():
        future.exception()
