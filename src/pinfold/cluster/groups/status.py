"""Row groups as operators see them."""

import msgspec

from pinfold.cluster.groups.replica import Replica


class FollowerStatus(msgspec.Struct, frozen=True):
    """A member as its primary sees it."""

    device: int
    match_op: int
    applied_op: int
    lagging: bool
    """It lacks committed entries and has not answered lately, or copies the rows."""


class GroupStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One group on one device."""

    group: int
    device: int
    role: str
    """serving, starting, electing, following, or waiting (for a primary)."""
    standing: str
    """new, member or copying (holds no complete copy)."""
    view: int
    primary: int
    members: tuple[int, ...]
    first_op: int
    last_op: int
    commit_op: int
    applied_op: int
    followers: tuple[FollowerStatus, ...] = ()
    """Only where it is led."""


def describe(replica: Replica) -> GroupStatus:
    """The status of one replica."""
    state, leadership = replica.state, replica.leadership
    followers = leadership.followers.values() if leadership is not None else ()
    return GroupStatus(
        group=state.group,
        device=state.me,
        role=replica.role,
        standing=state.standing.name.lower(),
        view=state.view,
        primary=replica.primary,
        members=state.members,
        first_op=state.first_op,
        last_op=state.last_op,
        commit_op=state.commit_op,
        applied_op=state.applied_op,
        followers=tuple(
            FollowerStatus(
                one.device,
                one.match_op,
                one.applied_op,
                one.copy is not None or (one.silent_ticks > 2 and one.match_op < state.commit_op),
            )
            for one in followers
        ),
    )
