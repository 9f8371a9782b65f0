"""A group of pure replicas, a shuffled network between them, and what must hold at every step."""

import random
from collections.abc import Sequence
from itertools import count

from pinfold.cluster.groups.configuration import Configuration, decode_configuration
from pinfold.cluster.groups.entries import MEMBERS_KEY, decode_body, encode_body
from pinfold.cluster.groups.forcing import plan_force
from pinfold.cluster.groups.messages import Ack, Message, Standing, Vote, Voted, decode_voted
from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.state import Birth, Limits
from pinfold.cluster.groups.status import describe
from pinfold.codec.digests import chosen
from pinfold.device.api import Entry, LogState
from pinfold.model.ids import DeviceId, GroupId
from tests.twins.log import MemoryLog

GROUP = GroupId(7)

TIGHT = Limits(batch_bytes=300, window_entries=4, retained_bytes=800, trim_entries=2, page_bytes=64)
"""So small that windows close, logs are trimmed and members have to copy."""


class GroupLog:
    """One replica's `ReplicaLog` on a `MemoryLog`; completions of a crashed process are dropped."""

    def __init__(self, member: "Member") -> None:
        self._member = member
        self._memory = member.memory
        self._boot = member.boot

    def _event(self, name: str, *arguments):
        def done() -> None:
            if self._member.boot == self._boot and self._member.up:
                getattr(self._member.replica, name)(*arguments)

        return done

    def state(self) -> LogState:
        return self._memory.state(GROUP)

    def view_at(self, op: int) -> int | None:
        return self._memory.view_at(GROUP, op)

    def tail(self, first_op: int, max_bytes: int) -> list[Entry]:
        return self._memory.tail(GROUP, first_op, max_bytes)

    def append(self, entries: Sequence[Entry]) -> None:
        done = self._event("on_appended", entries[-1].op, entries[-1].view)
        self._memory.write(GROUP, "append", list(entries), done=done)

    def set_view(self, view: int, voted: bytes) -> None:
        done = self._event("on_view_durable", view, voted)
        self._memory.write(GROUP, "set_view", view, voted, done=done)

    def apply(self, op: int, writes) -> None:
        entry = self._memory.seen(GROUP).entries[op]
        self._member.world.check_applied(self._member, entry)
        self._memory.write(GROUP, "apply", op, writes)

    def trim(self, before_op: int) -> None:
        self._memory.write(GROUP, "trim", before_op)

    def digest(self) -> bytes:
        return self._memory.digest(GROUP)

    def rotten(self) -> bool:
        return self._memory.rotten(GROUP)

    def install(self, page, base, rows, *, first, last, digest, part) -> None:
        done = self._event("on_installed", page)
        self._member.world.copies += last
        self._member.world.copied_parts += last and bool(part.buckets)
        self._memory.write(GROUP, "install", base, list(rows), first, last, digest, part, done=done)

    def get(self, key: bytes) -> bytes | None:
        return self._memory.get(GROUP, key)

    def rows(self, start: bytes, max_bytes: int, buckets: bytes = b""):
        page, within = [], chosen(buckets, GROUP)
        for key, value in self._memory.scan(GROUP, start, None):
            if max_bytes <= 0:
                return page, key
            if within(key):
                page.append((key, value))
                max_bytes -= len(key) + len(value)
        return page, None


class Member:
    """One device with its replica; also the replica's `Ports`."""

    def __init__(self, world: "World", device: DeviceId) -> None:
        self.world = world
        self.device = device
        self.up = False
        self.boot = 0
        self.swap()
        self.start()

    def swap(self) -> None:
        """The device is an empty one from now on."""
        assert not self.up, "a device is swapped while its node is down"
        self.memory = MemoryLog()
        self.memory.write(GROUP, "create")
        self.memory.flush()

    def start(self) -> None:
        self.up = True
        self.boot += 1
        self.waiting: dict[int, tuple[int, int]] = {}
        self.reads: list[tuple[int, int, set[DeviceId]]] = []
        self.turn_due = False
        world = self.world
        birth = Birth(
            number=next(world.births),
            founders=world.wish if world.founding and self.device in world.wish else (),
            wish=world.wish,
        )
        self.replica = Replica(GROUP, birth, self.device, GroupLog(self), self, world.limits)
        self.replica.start()

    def crash(self) -> None:
        self.up = False
        self.memory.crash()

    def send(self, to: DeviceId, message: Message) -> None:
        self.world.check_said(self, message)
        self.world.post(self.device, to, message)

    def role_changed(self) -> None:
        self.waiting.clear()
        self.reads.clear()
        if self.replica.role == "starting":
            self.world.check_leader(self)

    def copy_room(self) -> bool:
        return self.replica.pages_out < self.world.limits.copy_pages_here

    def alive(self, device: DeviceId) -> bool:
        return self.world.all[device].up

    def go_on(self) -> None:
        self.turn_due = True

    def take_turn(self) -> None:
        self.turn_due = False
        self.replica.go_on()

    def committed(self, op: int) -> None:
        self.world.on_committed(self, op)


class World:
    """Members, network and history. Every operation's place in history is its op in the log."""

    def __init__(self, seed: int, size: int = 3, limits: Limits = TIGHT, spare: int = 0) -> None:
        self.limits = limits
        self.rng = random.Random(seed)
        self.members = tuple(DeviceId(n) for n in range(1, size + spare + 1))
        """All devices there are."""
        self.wish = self.members[:size]
        self.founding = True
        self.births = count(1000)
        self.network: list[tuple[DeviceId, DeviceId, object]] = []
        self.cuts: set[tuple[DeviceId, DeviceId]] = set()
        self.history: dict[int, tuple[int, bytes]] = {}
        self.rows_at: list[dict[bytes, bytes]] = [{}]
        """The rows after each op."""
        self.leaders: dict[int, tuple[DeviceId, int]] = {}
        self.floor = 0
        self.values = count(1)
        self.acknowledged = 0
        self.answered = 0
        self.copies = 0
        self.copied_parts = 0
        self.swaps = 0
        self.swaps_in_copies = 0
        """While another member was taking a copy."""
        self.changing = 0.0
        """How often the wish changes or a device is swapped, in a step."""
        self.loss = 0.0
        self.rot = 0.0
        """How often a member finds that one of its rows has rotted, in a step."""
        self.all = {device: Member(self, device) for device in self.members}

    # What must hold.

    def check_applied(self, member: Member, entry: Entry) -> None:
        known = self.history.setdefault(entry.op, (entry.view, entry.body))
        assert known == (entry.view, entry.body), f"op {entry.op} changed on {member.device}"
        assert member.memory.durable(GROUP).last_op >= entry.op, "applied before it was durable"
        if entry.op == len(self.rows_at):
            rows = dict(self.rows_at[-1])
            for key, value in decode_body(entry.body):
                assert value is not None, "these schedules only put"
                rows[key] = value
            self.rows_at.append(rows)

    def check_leader(self, member: Member) -> None:
        leader = (member.device, member.boot)
        assert self.leaders.setdefault(member.replica.view, leader) == leader, "two primaries"

    def check_said(self, member: Member, message: Message) -> None:
        durable = member.memory.durable(GROUP)
        if isinstance(message, Ack | Vote):
            assert durable.view >= message.view, "an answer before the view is durable"
        if isinstance(message, Ack) and message.counted:
            assert durable.last_op >= message.op, "an ack before the flush"
            seen = member.memory.view_at(GROUP, message.op)
            kept = durable.entries.get(message.op)
            assert kept is None or seen is None or kept.view == seen
        if isinstance(message, Ack) and message.counted:
            seen = member.memory.seen(GROUP)
            assert seen.rows == self.rows_at[seen.applied_op], "counted with rows of no instant"
        if isinstance(message, Vote) and not Standing(message.standing).copying:
            assert (durable.last_view, durable.last_op) == (message.last_view, message.last_op)

    def on_committed(self, member: Member, op: int) -> None:
        for proposed in [one for one in member.waiting if one <= op]:
            began, floor = member.waiting.pop(proposed)
            assert proposed > floor, f"write {began} is older than what was seen before it"
            self.floor = max(self.floor, proposed)
            self.acknowledged += 1

    # What can happen.

    def post(self, sender: DeviceId, to: DeviceId, message: object) -> None:
        if (sender, to) not in self.cuts and self.rng.random() >= self.loss:
            self.network.append((sender, to, message))
            if self.loss and self.rng.random() < 0.05:
                self.network.append((sender, to, message))

    def deliver(self, index: int = 0) -> None:
        sender, to, message = self.network.pop(index)
        member = self.all[to]
        if not member.up or (sender, to) in self.cuts:
            return
        if isinstance(message, tuple) and message[0] == "confirm?":
            _, view, number, birth = message
            if member.replica.view == view and member.replica.confirms(birth):
                self.post(to, sender, ("confirm!", view, number))
        elif isinstance(message, tuple) and message[0] == "confirm!":
            self._confirmed(member, sender, message[1], message[2])
        else:
            member.replica.handle(sender, message)

    def propose(self, member: Member, key: bytes = b"k") -> None:
        if member.replica.leadership is None:
            return
        value = next(self.values)
        writes = [(key, b"%d" % value), (b"row%d" % (value % 5), b"%020d" % value)]
        floor = self.floor
        op = member.replica.propose(encode_body(writes), writes)
        member.waiting[op] = (value, floor)

    def read(self, member: Member) -> None:
        if member.replica.leadership is None:
            return
        number = next(self.values)
        member.reads.append((number, self.floor, {member.device}))
        configuration = member.replica.state.configuration
        for other in configuration.voters:
            if other != member.device:
                birth = configuration.births.get(other, 0)
                self.post(member.device, other, ("confirm?", member.replica.view, number, birth))

    def _confirmed(self, member: Member, sender: DeviceId, view: int, number: int) -> None:
        if member.replica.view != view or member.replica.leadership is None:
            return
        for read in [one for one in member.reads if one[0] == number]:
            read[2].add(sender)
            if member.replica.state.configuration.quorum(read[2]):
                member.reads.remove(read)
                seen_op = member.memory.state(GROUP).applied_op
                assert seen_op >= read[1], "a stale read"
                self.floor = max(self.floor, seen_op)
                self.answered += 1

    def suspect(self, member: Member, alive) -> None:
        view = member.replica.next_view(alive)
        if view is not None:
            member.replica.change_view(view)

    def change_wish(self) -> None:
        """The ring wishes other members."""
        configuration = self.committed_configuration()
        lost = [
            device
            for device, born in configuration.births.items()
            if self.stored(self.all[device]).birth != born
        ]
        size = self.rng.choice([3, 4, 5] if lost else [1, 2, 3, 3, 3, 4, 5])
        self.wish = tuple(self.rng.sample(self.members, min(size, len(self.members))))
        self.founding = False

    def swap(self, member: Member) -> None:
        """Its device comes back empty, unless that would be one loss more than is promised.

        It is promised that a group survives the loss of one member while all others are a quorum,
        also by a configuration that is still on its way, and each is whole, or is taking a copy and
        gave nothing up for it that is needed.
        """
        configuration = self.committed_configuration()
        others = [one for one in configuration.voters if one != member.device]
        known = [one.replica.state.configuration for one in self.all.values()]
        newer = [one for one in known if one.number > configuration.number]
        wished = Configuration(members=self.wish)
        leaderships = [one.replica.leadership for one in self.up()]
        if any(member.device in one.learners for one in leaderships if one is not None):
            return  # about to be named by the birth it would lose
        if not configuration.founded or not all(
            one.quorum(self.remaining(one, member)) for one in (configuration, wished, *newer)
        ):
            return
        copying = 0
        for device in others:
            durable = self.all[device].memory.durable(GROUP)
            voted = self.stored(self.all[device])
            whole = voted.standing is Standing.MEMBER and durable.last_op >= len(self.history)
            copying += voted.standing is Standing.NEW_COPYING
            if not (whole or voted.standing is Standing.NEW_COPYING):
                return
            if configuration.births[device] != voted.birth:
                return
        if copying == len(others):
            return
        if member.up:
            member.crash()
        member.swap()
        self.swaps += 1
        self.swaps_in_copies += copying > 0

    def remaining(self, configuration: Configuration, swapped: Member) -> list[DeviceId]:
        """The devices that would still be those a configuration names."""
        return [
            device
            for device, member in self.all.items()
            if member is not swapped and configuration.admits(device, self.stored(member).birth)
        ]

    def stored(self, member: Member) -> Voted:
        return decode_voted(member.memory.durable(GROUP).voted)

    def committed_configuration(self) -> Configuration:
        """The newest one that is committed."""
        value = self.rows_at[-1].get(MEMBERS_KEY)
        return Configuration() if value is None else decode_configuration(value)

    def force(self, *devices: int) -> None:
        """As an operator who sees those that are up; what is not kept is no history any more."""
        shown = [describe(member.replica) for member in self.up()]
        plan = plan_force(shown, devices)
        self.all[plan.survivor].replica.force(plan.configuration, plan.seen_number)
        for op in [op for op in self.history if op > plan.kept_op]:
            del self.history[op]
        del self.rows_at[plan.kept_op + 1 :]
        self.floor = 0

    def up(self) -> list[Member]:
        return [member for member in self.all.values() if member.up]

    def step(self) -> None:
        """Something happens."""
        rng = self.rng
        if self.changing and rng.random() < self.changing:
            if rng.random() < 0.5:
                self.change_wish()
            else:
                self.swap(rng.choice(list(self.all.values())))
        if self.rot and rng.random() < self.rot:
            finder = rng.choice(self.up() or list(self.all.values()))
            finder.memory.seen(GROUP).rotten = finder.replica.proved
            self.tell_commits()
        roll = rng.random()
        member = rng.choice(list(self.all.values()))
        if roll < 0.60 and self.network:
            self.deliver(rng.randrange(len(self.network)) if rng.random() < 0.3 else 0)
        elif not member.up:
            if rng.random() < 0.2:
                member.start()
        elif roll < 0.78:
            member.memory.flush(rng.randint(0, member.memory.pending))
            if rng.random() < 0.3:
                member.memory.index()
        elif roll < 0.88:
            self.propose(member)
        elif roll < 0.93:
            self.read(member)
        elif roll < 0.98:
            member.replica.tick()
            member.replica.pursue(self.wish)
            if member.turn_due:
                member.take_turn()
        elif roll < 0.985:
            self.suspect(member, lambda device: self.all[device].up)
        elif roll < 0.988:
            member.crash()
        elif roll < 0.992:
            pair = (rng.choice(self.members), rng.choice(self.members))
            self.cuts ^= {pair}
        elif roll < 0.994:
            self.cuts.clear()
        if len(self.network) > 400:
            del self.network[:100]

    def heal(self, rounds: int = 60) -> None:
        """Everything works again: within these rounds all members must agree and serve."""
        self.cuts.clear()
        self.loss = 0.0
        for member in self.all.values():
            if not member.up:
                member.start()
        for _ in range(rounds):
            self.settle()
            for member in self.all.values():
                member.replica.tick()
                member.replica.pursue(self.wish)
                if member.replica.impatient:
                    self.suspect(member, lambda device: True)
                elif member.memory.rotten(GROUP) and (heirs := member.replica.heirs()):
                    member.replica.hand_over(heirs[0])
            self.tell_commits()
        self.settle()

    def settle(self) -> None:
        """Deliver and flush until nothing is on its way."""
        for _ in range(20_000):
            if self.network:
                self.deliver()
                continue
            due = [one for one in self.up() if one.turn_due]
            if due:
                due[0].take_turn()
                continue
            waiting = [one for one in self.up() if one.memory.pending]
            if not waiting:
                return
            waiting[0].memory.flush()
        raise AssertionError("the members never come to rest")

    def tell_commits(self) -> None:
        for member in self.up():
            if member.replica.leadership is not None:
                for other in self.up():
                    if other is not member and (member.device, other.device) not in self.cuts:
                        replica = member.replica
                        state = replica.state
                        number = state.configuration.number
                        other.replica.on_commit_news(state.view, state.commit_op, number)

    def check_agreement(self) -> None:
        serving = [member for member in self.up() if member.replica.leadership is not None]
        assert len(serving) == 1, [
            (one.replica.role, one.replica.view, one.replica.state.standing) for one in self.up()
        ]
        leader = serving[0]
        configuration = leader.replica.state.configuration
        assert not configuration.joint
        assert configuration.members == self.wish, "the members are not those wished"
        for device in self.wish:
            member = self.all[device]
            assert member.replica.state.applied_op == leader.replica.state.commit_op
            assert member.memory.seen(GROUP).rows == leader.memory.seen(GROUP).rows
            assert member.memory.digest(GROUP) == leader.memory.digest(GROUP)
            assert member.replica.proved
