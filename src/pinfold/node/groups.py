"""The admin API's row groups: what their members say, put together, and force for lost quorums."""

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from pinfold.admin.api import View
from pinfold.cluster.groups.forcing import configuration_of, plan_force
from pinfold.cluster.groups.operations import FORCE, STATUS
from pinfold.cluster.groups.status import GroupStatus
from pinfold.cluster.map import METADATA, MapStore
from pinfold.env.api import Clock
from pinfold.model.errors import NotFound, PinfoldError
from pinfold.model.ids import DeviceId, NodeName
from pinfold.rpc.api import Peers

ANSWER_S: Final = 2.0
"""How long a node may take to tell of its groups; a dead one costs an operator this much."""

FORCE_S: Final = 10.0
"""How long the survivor may take to make the forced members durable."""

Told = list[GroupStatus]
"""What the devices that answer say of one group."""


class Groups:
    """`admin.api.GroupAdmin` over the nodes' own words."""

    def __init__(self, clock: Clock, map_store: MapStore, peers: Peers) -> None:
        self._clock = clock
        self._map = map_store
        self._peers = peers

    async def list(self) -> list[View]:
        """See `GroupAdmin`."""
        told = await self._ask()
        return [self._view(group, told.get(group, [])) for group in range(self._count())]

    async def show(self, group: int) -> View:
        """See `GroupAdmin`."""
        self._require(group)
        return self._view(group, (await self._ask()).get(group, []))

    async def force_members(self, group: int, members: Sequence[int]) -> View:
        """See `GroupAdmin`."""
        self._require(group)
        plan = plan_force((await self._ask()).get(group, []), members)
        body = (plan.survivor, group, plan.seen_number, plan.configuration.encode())
        node = self._node_of(plan.survivor)
        deadline = self._clock.monotonic() + FORCE_S
        await self._peers.call(NodeName(node), FORCE, body, deadline=deadline)
        return {
            "group": group,
            "survivor": plan.survivor,
            "members": list(plan.configuration.members),
            "given_up": list(plan.given_up),
            "kept_op": plan.kept_op,
            "committed_op": plan.committed_op,
        }

    def _count(self) -> int:
        policy = self._map.get().policies.get(METADATA)
        return 1 << policy.part_power if policy else 0

    def _require(self, group: int) -> None:
        if not 0 <= group < self._count():
            raise NotFound(f"no group {group}: groups are 0 to {self._count() - 1}")

    def _node_of(self, device: int) -> str:
        return next((one.node for one in self._map.get().devices if one.id == device), "")

    async def _ask(self) -> dict[int, Told]:
        """What every storage node that answers in time says of each group, by group."""
        deadline = self._clock.monotonic() + ANSWER_S
        nodes = [name for name, node in self._map.get().nodes.items() if node.role == "storage"]
        calls = [self._peers.call(NodeName(name), STATUS, deadline=deadline) for name in nodes]
        told: dict[int, Told] = {}
        for call in calls:
            try:
                body = (await call).body
            except (PinfoldError, asyncio.CancelledError):
                if call.cancelled():
                    raise
                continue
            for one in msgspec.convert(body, type=Told, strict=False):
                told.setdefault(one.group, []).append(one)
        return told

    def _view(self, group: int, told: Told) -> View:
        if not told:
            return {"group": group, "state": "silent", "members": [], "devices": []}
        newest = max(told, key=lambda one: one.configuration)
        leader = max(
            (one for one in told if one.role == "serving"), key=lambda one: one.view, default=None
        )
        whole = [DeviceId(one.device) for one in told if one.standing in ("member", "new")]
        served = leader is not None and configuration_of(newest).quorum(whole)
        ahead = max(one.commit_op for one in told)
        answering = {one.device for one in told}
        voters = configuration_of(newest).voters
        return {
            "group": group,
            "state": "served" if served else "no primary",
            "primary": leader.device if served and leader is not None else None,
            "view": max(one.view for one in told),
            "configuration": newest.configuration,
            "members": list(newest.members),
            "joining": list(newest.joining),
            "learners": list(leader.learners) if leader is not None else [],
            "silent": [device for device in voters if device not in answering],
            "commit_op": ahead,
            "digests": _digests(told),
            "devices": [self._device(one, ahead) for one in sorted(told, key=lambda t: t.device)],
        }

    def _device(self, told: GroupStatus, ahead: int) -> dict[str, Any]:
        return {
            "device": told.device,
            "node": self._node_of(told.device),
            "role": told.role,
            "standing": told.standing,
            "first_op": told.first_op,
            "last_op": told.last_op,
            "applied_op": told.applied_op,
            "lag": max(0, ahead - told.applied_op),
            "digest": told.digest,
            "birth": f"{told.birth:016x}",
        }


def _digests(told: Told) -> str:
    """equal, differ, or unknown when no two members are equally far or they do not know."""
    known: dict[int, list[str]] = {}
    for one in told:
        if one.digest and one.standing == "member":
            known.setdefault(one.applied_op, []).append(one.digest)
    if any(len(set(digests)) > 1 for digests in known.values()):
        return "differ"
    return "equal" if any(len(digests) > 1 for digests in known.values()) else "unknown"
