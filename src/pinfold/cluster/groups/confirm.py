"""Prove that reads are not stale: a majority still knows no later view.

The reads of one tick, of all groups led here, become one round: each other node is asked once
about all the groups it has members of. As few nodes as needed are asked first, the most
responsive ones; the others follow when an answer is late or bad.

Why it suffices: a write acknowledged by another primary before the round began needed a quorum
that had stored a later view, and any two quorums share a member, which would refuse here. A log
that does not count (new, or not the one the group knows) has promised nothing and confirms nothing.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from pinfold.cluster.bodies import Form, answered
from pinfold.cluster.groups.configuration import Configuration
from pinfold.cluster.groups.membership import Membership
from pinfold.env.api import Clock
from pinfold.model.errors import NotPrimary, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, GroupId, NodeName
from pinfold.rpc.api import Answer, Peers

CONFIRM: Final = "group.confirm"
"""Body: [device, group, view, birth, …] flat; answer: None, or what is not confirmed: a position
when a later view has begun, ~position when that member cannot tell."""

FIELDS: Final = 4
"""Numbers in the body for each question; birth 0 is anybody's."""

HEDGE_MIN_S: Final = 0.005
HEDGE_MAX_S: Final = 0.2
"""An answer later than this is not waited for alone: thrice the usual time within these bounds,
so that a machine that is busy as a whole does not get twice the questions."""

ROUND_S: Final = 1.5
"""A round that has no majority by then fails its reads; callers try again."""

_FAILED_S: Final = 1.0
"""What a failed call counts as when nodes are ranked by response time."""

_REFUSED: Final = Form(list[int])

_NEW_WEIGHT: Final = 0.1
"""Weight of the latest response time in a node's average."""

Confirmed = Callable[[PinfoldError | None], None]


class _Question:
    """One group of a round: is `view` still the latest for a quorum?"""

    __slots__ = ("configuration", "confirmed", "done", "group", "spare", "view", "waiting")

    def __init__(
        self,
        group: GroupId,
        view: int,
        me: DeviceId,
        configuration: Configuration,
        spare: list[DeviceId],
        done: Confirmed,
    ) -> None:
        self.group = group
        self.view = view
        self.configuration = configuration
        self.confirmed = [me]
        self.spare = spare
        """Members not asked yet, the best first."""
        self.waiting = 0
        """Members asked that have not answered."""
        self.done: Confirmed | None = done

    @property
    def missing(self) -> int:
        """Confirmations still needed, at least; in a joint configuration all are asked at once."""
        voters = len(self.configuration.voters)
        enough = voters if self.configuration.joint else voters // 2 + 1
        return enough - len(self.confirmed)

    def confirm(self, device: DeviceId) -> None:
        self.confirmed.append(device)
        if self.configuration.quorum(self.confirmed):
            self.end(None)

    @property
    def hopeless(self) -> bool:
        return not self.spare and not self.waiting

    def end(self, error: PinfoldError | None) -> None:
        done, self.done = self.done, None
        if done is not None:
            done(error)


class Confirmer:
    """Collects the questions of a tick; `flush` asks them."""

    def __init__(self, clock: Clock, peers: Peers, membership: Membership) -> None:
        self._clock = clock
        self._peers = peers
        self._membership = membership
        self._questions: list[_Question] = []
        self._response_s: dict[NodeName, float] = {}

    def ask(
        self,
        group: GroupId,
        view: int,
        me: DeviceId,
        configuration: Configuration,
        done: Confirmed,
    ) -> None:
        """Call `done` once a quorum confirms `view`, or with NotPrimary or Unavailable."""
        if configuration.quorum((me,)):
            asyncio.get_running_loop().call_soon(done, None)
            return
        spare = [member for member in configuration.voters if member != me]
        spare.sort(key=self._response_time)
        self._questions.append(_Question(group, view, me, configuration, spare, done))

    def flush(self) -> None:
        """Ask what has been collected."""
        if not self._questions:
            return
        questions, self._questions = self._questions, []
        self._send(questions)
        usual_s = min(self._response_s.values(), default=0.0)
        hedge_s = min(max(3 * usual_s, HEDGE_MIN_S), HEDGE_MAX_S)
        asyncio.get_running_loop().call_later(hedge_s, self._hedge, questions)

    def _response_time(self, device: DeviceId) -> float:
        return self._response_s.get(self._node_of(device) or NodeName(""), 0.0)

    def _node_of(self, device: DeviceId) -> NodeName | None:
        try:
            return self._membership.node_of(device)
        except PinfoldError:
            return None

    def _hedge(self, questions: list[_Question]) -> None:
        late = [one for one in questions if one.done is not None and one.spare]
        if late:
            self._send(late, beyond=max(len(one.spare) for one in late))

    def _send(self, questions: list[_Question], *, beyond: int = 0) -> None:
        """Ask further members: as many as each question still needs, and some beyond that."""
        asked: dict[NodeName, tuple[list[int], list[tuple[DeviceId, _Question]]]] = {}
        for one in questions:
            while one.done is not None and one.spare and one.waiting < one.missing + beyond:
                device = one.spare.pop(0)
                node = self._node_of(device)
                if node is None:
                    continue
                body, about = asked.setdefault(node, ([], []))
                birth = one.configuration.births.get(device, 0)
                body += (device, one.group, one.view, birth)
                about.append((device, one))
                one.waiting += 1
            if one.done is not None and one.hopeless:
                one.end(Unavailable("too few members are reachable to confirm a read"))
        now = self._clock.monotonic()
        for node, (body, about) in asked.items():
            future = self._peers.call(node, CONFIRM, body, deadline=now + ROUND_S)
            future.add_done_callback(partial(self._answered, node, about, now))

    def _answered(
        self,
        node: NodeName,
        about: list[tuple[DeviceId, _Question]],
        began: float,
        future: "asyncio.Future[Answer]",
    ) -> None:
        refused: list[int] = []
        failed = future.cancelled() or future.exception() is not None
        if not failed:
            try:
                refused = answered(CONFIRM, future.result().body or [], _REFUSED)
            except Unavailable:
                failed = True
        took_s = _FAILED_S if failed else self._clock.monotonic() - began
        known_s = self._response_s.get(node, took_s)
        self._response_s[node] = known_s + (took_s - known_s) * (1 if failed else _NEW_WEIGHT)
        retry: list[_Question] = []
        for position, (device, one) in enumerate(about):
            one.waiting -= 1
            if one.done is None:
                continue
            if failed or ~position in refused:
                retry.append(one)
            elif position in refused:
                one.end(NotPrimary("a later view has begun"))
            else:
                one.confirm(device)
                if one.done is not None and one.hopeless:
                    retry.append(one)  # the last answer, and not enough
        if retry:
            self._send(retry)
