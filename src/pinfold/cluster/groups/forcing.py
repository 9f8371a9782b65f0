"""Judge whether, and how, an operator may force the members of a group that has lost its quorum.

Pure: from what the devices that answer say of the group to one plan, or to a refusal that says what
to do instead. What a forced configuration means for everybody is told in `configuration`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pinfold.cluster.groups.configuration import GENERATION_SHIFT, Configuration
from pinfold.cluster.groups.status import GroupStatus
from pinfold.model.errors import Conflict, Invalid, Unavailable
from pinfold.model.ids import DeviceId


class ForcePlan(NamedTuple):
    """What will be done, and what it costs."""

    survivor: DeviceId
    """The member whose log becomes the group's: the best of those named."""
    seen_number: int
    """Of the configuration that the survivor has now; it acts only if that is still so."""
    configuration: Configuration
    given_up: tuple[DeviceId, ...]
    """Members by the group's own log that are members no more."""
    kept_op: int
    """The last entry of the survivor: nothing behind it is kept."""
    committed_op: int
    """The highest entry that anybody who answers knows to be committed. Others may know more."""


def plan_force(statuses: Sequence[GroupStatus], wanted: Sequence[int]) -> ForcePlan:
    """Decide from the statuses of one group, one for each device that answers.

    Conflict when the group can go on without force, Invalid for members that are none, Unavailable
    when one named does not answer or none of them holds a complete copy.
    """
    by_device = {DeviceId(one.device): one for one in statuses}
    if not by_device:
        raise Unavailable("no device that holds this group answers")
    newest = configuration_of(max(statuses, key=lambda one: one.configuration))
    _refuse_needless(newest, by_device)
    members = tuple(dict.fromkeys(map(DeviceId, wanted)))
    if not members:
        raise Invalid("name the members that are to go on")
    for device in members:
        if device not in newest.voters:
            raise Invalid(f"device {device} is no member; members are {_listed(newest.voters)}")
        if device not in by_device:
            raise Unavailable(f"device {device} does not answer: only survivors can go on")
        if by_device[device].standing == "lost" or not by_device[device].birth:
            raise Conflict(f"device {device} has lost its memory of this group: leave it out")
    whole = [by_device[device] for device in members if by_device[device].standing == "member"]
    if not whole:
        raise Unavailable(f"none of {_listed(members)} holds a complete copy of the group")
    best = max(whole, key=lambda one: (one.last_view, one.last_op))
    generation = max(one.generation for one in statuses) + 1
    return ForcePlan(
        survivor=DeviceId(best.device),
        seen_number=best.configuration,
        configuration=Configuration(
            number=generation << GENERATION_SHIFT,
            members=members,
            births={device: by_device[device].birth for device in members},
        ),
        given_up=tuple(one for one in newest.voters if one not in members),
        kept_op=best.last_op,
        committed_op=max(one.commit_op for one in statuses),
    )


def configuration_of(status: GroupStatus) -> Configuration:
    """The configuration that a device goes by, without births."""
    return Configuration(
        number=status.configuration,
        members=tuple(map(DeviceId, status.members)),
        joining=tuple(map(DeviceId, status.joining)),
    )


def _refuse_needless(newest: Configuration, by_device: dict[DeviceId, GroupStatus]) -> None:
    """A group with a quorum of whole members is never forced, nor one that is about to have it."""
    whole = [one for one, told in by_device.items() if told.standing in ("member", "new")]
    if newest.quorum(whole):
        raise Conflict(
            f"a majority of the members {_listed(newest.voters)} is alive: {_listed(whole)}; "
            "the group finds a primary by itself"
        )
    served = any(one.role == "serving" for one in by_device.values())
    copying = [one for one, told in by_device.items() if told.standing == "copying"]
    if served and newest.quorum([*whole, *copying]):
        raise Conflict(f"{_listed(copying)} is being copied to: wait until that is done")


def _listed(devices: Sequence[DeviceId]) -> str:
    return ", ".join(map(str, devices))
