"""Who the members of a group are: a value that lives in the group's log and changes through it.

The ring is a wish; the log decides. A configuration is a row of the group's own, put by an entry of
its own kind (`entries.configuration_body`). A member goes by the newest configuration its log
holds, committed or not, from the moment the entry is appended; an entry that a later view replaces
takes its configuration with it. The row travels with every copy of the rows, and what is applied is
also stored with the view, so that neither a trimmed log nor a copy cut short forgets the members.

A change has three steps, decided by `changing` on a serving primary, one at a time, each proposed
only when the step before is committed:

1. *Learners* are those whom the ring adds. The primary sends them the log (or a copy), they count
   for nothing and the log does not name them: a new primary starts again from the wish.
2. The *joint* entry names the old members and the new ones. From now on a majority of both is
   needed to commit, to be elected and to confirm a read.
3. The *final* entry names the new members alone; from now on a majority of them decides. A primary
   that is not among them leads until it is committed, then hands over.

Why nothing committed is lost. (a) *One primary per view*: a view's number carries the device that
owns it (`views`), so two members cannot disagree about who leads it, whatever configurations they
have. `members[view mod n]` could not promise that: two lists, two primaries of one view. The order
of members only says whom to try next. (b) *Quorums of neighbouring configurations meet*: old and
joint share the old majority, joint and final the new one; a configuration two steps on exists only
once the one between is committed. (c) *Who is elected holds it*: the elect counts votes by the
configuration of the best log among its voters: when the log it fetches names other members, it
needs their votes too before it leads. By (b) one of the voters kept the committed entry and voted
after that, so the best log has it.

Which messages are obeyed follows from that. Entries and copies are taken from the owner of the
view they name, member or not in the receiver's eyes: it was elected. A view is raised for an elect
(Join, Vote) only when the sender is a voter here, or shows a newer configuration than this one, or
leads the present view (it hands over). So a removed member cannot disturb a group that knows it is
removed; it hears `Outside` instead and begins no views any more.

*Births.* A member is a device and the birth of its log there, a number drawn when the log is
created and stored before anything is said. The configuration names both, votes and acknowledgements
carry both, and only the named birth is counted. A device swapped for an empty one, or put back
after it was replaced, so never counts as the member it was: the primary sees the other birth, takes
the lost member out, and takes it in again as a learner. A learner counts (`Standing.MEMBER`) only
once an entry names its own birth.

*Beginning.* Configuration 0 is what the first ring said when the log was created, stored with it,
without births. The first primary names the births in configuration 1 as soon as it has heard them
all; no member is changed before that. Logs created under a later ring belong to no configuration
until the group tells them: they never begin a group that may exist elsewhere.

*Force.* An operator may declare survivors to be the members. That configuration begins a new
*generation* (the high half of its number). Whoever is of an older generation is answered with
`Outside`, and what it holds is replaced by a copy before it counts again: what it committed without
the survivors is lost, which is what the operator agreed to.

What was tried against it: a primary that dies between catch-up and joint (the next one starts
again from the wish); a joint entry that only the old majority has (not committed; whoever is
elected either has it and needs both majorities, or replaces it); two changes (the second waits for
the first to be committed); a restart in the middle (the unapplied log is searched for
configurations); a copy in the middle (its rows hold the applied configuration, the entries behind
it the rest); an old majority that returns after a force (older generation).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from pinfold.codec.unreadable import UNREADABLE
from pinfold.model.errors import Corrupt
from pinfold.model.ids import DeviceId

_FORMAT: Final = 1
GENERATION_SHIFT: Final = 32
"""number = generation << 32 | steps; a generation begins when members are forced."""

_Stored = tuple[int, int, list[int], list[int], list[tuple[int, int]]]
_decoder = msgspec.msgpack.Decoder(_Stored)
_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The members of a group, as of one entry. See the module."""

    number: int = 0
    """Grows along a log; equal numbers in different logs may differ until one is committed."""
    members: tuple[DeviceId, ...] = ()
    joining: tuple[DeviceId, ...] = ()
    """The members to be, while both sets decide; empty otherwise."""
    births: Mapping[DeviceId, int] = field(default_factory=dict)
    """Of every voter; empty before the group has begun (number 0)."""

    @property
    def voters(self) -> tuple[DeviceId, ...]:
        """Everybody who counts, in the order in which views go round."""
        return (*self.members, *(one for one in self.joining if one not in self.members))

    @property
    def joint(self) -> bool:
        """Whether two sets decide."""
        return bool(self.joining)

    @property
    def founded(self) -> bool:
        """Whether the log itself names the members, by their births."""
        return self.number > 0

    @property
    def generation(self) -> int:
        """How often members were forced."""
        return self.number >> GENERATION_SHIFT

    def admits(self, device: DeviceId, birth: int) -> bool:
        """Whether this log of a device counts as the member named."""
        return not self.births or self.births.get(device) == birth

    def quorum(self, devices: Collection[DeviceId]) -> bool:
        """Whether these devices decide: a majority of each set."""
        return all(
            2 * sum(one in devices for one in members) > len(members) for members in self._sets
        )

    def reached(self, op_of: Callable[[DeviceId], int]) -> int:
        """The highest op that a quorum has reached."""
        return min(
            sorted(map(op_of, members))[(len(members) - 1) // 2] if members else 0
            for members in self._sets
        )

    @property
    def _sets(self) -> tuple[tuple[DeviceId, ...], ...]:
        return (self.members, self.joining) if self.joining else (self.members,)

    def encode(self) -> bytes:
        """As stored in the members' row and with the view."""
        births = sorted(self.births.items())
        return _encode((_FORMAT, self.number, self.members, self.joining, births))


def decode_configuration(value: bytes) -> Configuration:
    """Read `Configuration.encode`. Raises Corrupt."""
    try:
        form, number, members, joining, births = _decoder.decode(value)
    except UNREADABLE as error:
        raise Corrupt(f"a group's configuration does not decode: {error}") from error
    if form != _FORMAT:
        raise Corrupt(f"a group's configuration of unknown format {form}")
    return Configuration(
        number=number,
        members=tuple(map(DeviceId, members)),
        joining=tuple(map(DeviceId, joining)),
        births={DeviceId(device): birth for device, birth in births},
    )
