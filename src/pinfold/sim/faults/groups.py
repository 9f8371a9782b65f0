"""Faults aimed at row groups: each lasts as long as it takes to elect a primary, in bad company.

What a member promises when it votes, copies or restarts matters only if the others break at that
moment; at random they hardly ever do.
"""

import asyncio
from collections.abc import Sequence
from itertools import combinations
from typing import Any, Final

from pinfold.sim.faults.disks import lose_index
from pinfold.sim.faults.stage import Stage
from pinfold.sim.inspection import group_status, group_status_of

_ENTRY_S: Final = 1.0
"""How long a change is waited for: clients that are served make many a second."""

_LOOK_S: Final = 0.001
"""Between two looks at what members say."""

_VOTE_S: Final = 4.0
"""How long a vote is waited for: the others notice within some 1 s that a primary is gone."""


def _apart(stage: Stage, part: Sequence[str]) -> None:
    """Cut the network in two: a part and the rest, each whole in itself."""
    net, pairs = stage.world.net, list(combinations(stage.cluster.names, 2))
    for one, other in pairs:
        if (one in part) != (other in part):
            net.cut(one, other)
    for one, other in pairs:  # not before: what had been kept back would slip through
        if (one in part) == (other in part):
            net.mend(one, other)
    stage.account.tell("net", f"apart from all others: {', '.join(part)}")


def _join(stage: Stage) -> None:
    stage.world.net.heal()
    stage.account.tell("net", "nobody is apart")


def _node_of(stage: Stage, device: int) -> str:
    return next(one.node for one in stage.cluster.map.devices if one.id == device)


def _led(stage: Stage) -> list[dict[str, Any]]:
    """What the serving primaries say of their groups."""
    return [one for one in group_status(stage.cluster) if one["role"] == "serving"]


async def lose_answers(stage: Stage) -> None:
    """A primary's connections break as its answers leave: what was changed is asked for again."""
    entry = await _in_flight(stage)
    if entry is None:
        return
    net, name = stage.world.net, _node_of(stage, entry["device"])
    gateways = stage.cluster.plan.front
    for gateway in gateways:
        net.cut(name, gateway, both=False)
    await stage.wait(0.005, 0.1)
    for gateway in gateways:
        net.reset(name, gateway)
        net.mend(name, gateway)
    stage.account.tell("net", f"lost what {name} answered")


async def _in_flight(stage: Stage) -> dict[str, Any] | None:
    """The status of a group whose primary has just made an entry and not yet committed it."""
    for _ in range(int(_ENTRY_S / _LOOK_S)):
        for one in _led(stage):
            if one["last_op"] > one["commit_op"]:
                return one
        await asyncio.sleep(_LOOK_S)
    return None


async def forget_vote(stage: Stage) -> None:
    """Members lose their power as they join a view, and are back among those of the view before.

    What they flushed they keep to; what they said without, they have never said.
    """
    cluster, led = stage.cluster, _led(stage)
    if not led:
        return
    one = stage.rng.choice(led)
    members = list(one["members"])
    at = members.index(one["device"]) if one["device"] in members else 0
    following = [*members[at + 1 :], *members[:at]]  # the first of them will lead
    voters = {_node_of(stage, member) for member in following[1 : 1 + len(members) // 2]}
    part = [_node_of(stage, one["device"]), *cluster.plan.front]
    voters.difference_update(part)
    _apart(stage, part)
    await asyncio.sleep(0.7)  # there are changes that wait for a quorum; nobody is missed yet
    for name in sorted(voters):
        stage.world.node(name).disk.faults.slowness = 100.0
    await _later_view(stage, one["group"], one["view"], voters)
    await stage.wait(0.002, 0.03)
    for name in sorted(voters):
        cluster.crash(name, silent=True)
        stage.world.node(name).disk.faults.slowness = 1.0
    _apart(stage, [*part, *sorted(voters)])
    for name in sorted(voters):
        cluster.start(name)
    await stage.wait(1.5, 3.0)
    _join(stage)


async def _later_view(stage: Stage, group: int, view: int, nodes: set[str]) -> None:
    """Wait until all members of a group on these nodes have joined a later view, or for long."""
    for _ in range(int(_VOTE_S / _LOOK_S)):
        await asyncio.sleep(_LOOK_S)
        joined = {
            _node_of(stage, one["device"])
            for name in sorted(nodes & stage.cluster.storage.keys())
            for one in group_status_of(stage.cluster, name)
            if one["group"] == group and one["view"] > view
        }
        if joined >= nodes:
            return


async def lose_memory(stage: Stage) -> None:
    """The victim loses its index while it is one of few that know of the latest changes.

    Others miss them; then the victim is left alone with those.
    """
    device = stage.victim.id
    groups = [one["members"] for one in group_status(stage.cluster) if one["device"] == device]
    groups = [members for members in groups if device in members]
    if not groups:
        return
    others = [one for one in stage.rng.choice(groups) if one != device]
    stage.rng.shuffle(others)
    half = len(others) // 2
    late, informed = (
        sorted({_node_of(stage, one) for one in part} - {stage.victim.node})
        for part in (others[:half], others[half:])
    )
    _apart(stage, late)
    await stage.wait(2.0, 4.0)
    _apart(stage, [one for one in informed if one not in late])
    await lose_index(stage)
    await stage.wait(2.0, 4.0)
    _join(stage)


async def stutter(stage: Stage) -> None:
    """A primary loses its power before it has flushed what it sent, and is back at once."""
    led = _led(stage)
    if not led:
        return
    name = _node_of(stage, stage.rng.choice(led)["device"])
    disk = stage.world.node(name).disk.faults
    disk.slowness = 100.0
    await stage.wait(0.02, 0.5)
    stage.cluster.crash(name, silent=True)
    disk.slowness = 1.0
    stage.cluster.start(name)
