"""Row groups as operators see them."""

import msgspec
from xxhash import xxh3_64_hexdigest

from pinfold.cluster.groups.replica import Replica
from pinfold.cluster.groups.state import MemberState


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
    """new, member, copying (holds no complete copy), lost (the group knows another log of this
    device), learner or outside (no member, or not yet)."""
    view: int
    primary: int
    members: tuple[int, ...]
    joining: tuple[int, ...] = ()
    """The members to be, while a change is under way."""
    configuration: int = 0
    birth: int = 0
    generation: int = 0
    learners: tuple[int, ...] = ()
    """Only where it is led."""
    first_op: int
    last_op: int
    last_view: int
    commit_op: int
    applied_op: int
    digest: str
    """Of all that was applied, 16 hex digits: equal on all members whose applied_op is equal. Empty
    when it is not known."""
    followers: tuple[FollowerStatus, ...] = ()
    """Only where it is led."""
    crowded: bool = False
    """Its primary remembers the results of as many changes as it may, and answers Busy to more."""


def describe(replica: Replica, *, crowded: bool = False) -> GroupStatus:
    """The status of one replica; whether it is `crowded` is known to who serves it."""
    state, leadership = replica.state, replica.leadership
    followers = leadership.followers.values() if leadership is not None else ()
    return GroupStatus(
        group=state.group,
        device=state.me,
        role=replica.role,
        standing=_standing(state),
        view=state.view,
        primary=replica.primary,
        members=state.configuration.members,
        joining=state.configuration.joining,
        configuration=state.configuration.number,
        birth=state.durable_birth,
        generation=state.generation,
        learners=leadership.learners if leadership is not None else (),
        first_op=state.first_op,
        last_op=state.last_op,
        last_view=state.last_view,
        commit_op=state.commit_op,
        applied_op=state.applied_op,
        digest=_short(state.log.digest()),
        followers=tuple(
            FollowerStatus(
                one.device,
                one.match_op,
                one.applied_op,
                one.copy is not None or (one.silent_ticks > 2 and one.match_op < state.commit_op),
            )
            for one in followers
        ),
        crowded=crowded,
    )


def _short(digest: bytes) -> str:
    return xxh3_64_hexdigest(digest) if digest else ""


def _standing(state: MemberState) -> str:
    if state.lost:
        return "lost"
    if state.standing.copying:
        return "copying"
    if state.me in state.voters:
        return state.standing.name.lower()
    return "learner" if state.standing.new else "outside"
