"""Decide the next step from the members a group has to those the ring wishes. See `configuration`.

Pure: what the primary knows goes in, at most one configuration to propose comes out. At most one
change is under way: while the newest configuration is not committed it may at most be given up.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from pinfold.cluster.groups.configuration import Configuration
from pinfold.model.ids import DeviceId


class Step(NamedTuple):
    """What a primary does about its members now."""

    learners: tuple[DeviceId, ...] = ()
    """Devices to bring up to date that are no voters yet."""
    propose: Configuration | None = None


def next_step(
    now: Configuration,
    wish: Sequence[DeviceId],
    births: Mapping[DeviceId, int],
    caught_up: Collection[DeviceId],
) -> Step:
    """The step after `now`, which is committed.

    `births` are those that devices told of their logs (the primary's own among them); `caught_up`
    are devices that lack next to nothing (the primary too). Two sets never have to agree before the
    new one can.
    """
    if not now.founded:
        if all(births.get(one) for one in now.members):
            return Step(propose=_after(now, now.members, births=births))
        return Step()
    if now.joint:
        return Step(propose=_after(now, now.joining, births=now.births))
    lost = {one for one, born in now.births.items() if births.get(one, born) != born}
    remaining = [one for one in now.members if one not in lost]
    target = remaining if lost else list(wish)
    if not target:
        return Step()
    if set(target) == set(now.members):
        same = tuple(target) == now.members
        return Step() if same else Step(propose=_after(now, target, births=now.births))
    learners = tuple(one for one in target if one not in now.members)
    ready = [one for one in target if one in caught_up and births.get(one)]
    if not set(learners) <= set(ready) or 2 * len(ready) <= len(target):
        return Step(learners)
    known = {**births, **now.births}
    return Step(learners, _after(now, now.members, joining=target, births=known))


def way_back(now: Configuration, births: Mapping[DeviceId, int]) -> Configuration | None:
    """The configuration that gives up a joint one of this very view that can never be committed:
    so many of the new members have lost their memory that no majority of them is left.

    Safe before it is committed, and only then: whatever decides by the joint configuration needs a
    majority of the old members, as what decides by this one does.
    """
    kept = [one for one in now.joining if births.get(one, now.births[one]) == now.births[one]]
    if not now.joint or 2 * len(kept) > len(now.joining):
        return None
    return _after(now, now.members, births=now.births)


def _after(
    now: Configuration,
    members: Sequence[DeviceId],
    *,
    joining: Sequence[DeviceId] = (),
    births: Mapping[DeviceId, int],
) -> Configuration:
    return Configuration(
        number=now.number + 1,
        members=tuple(members),
        joining=tuple(joining),
        births={one: births[one] for one in (*members, *joining)},
    )
