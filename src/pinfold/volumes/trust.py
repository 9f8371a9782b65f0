"""Which copies of an extent that a dead holder left dirty are believed (R4, R8).

The row keeps, for each holder whose writes may not be settled, the devices that had every write it
answered and the boot under which they had it: a device at another boot may have lost what it had
not flushed. Boots only grow, so a device that an older entry still vouches for is vouched for by
all later ones.
"""

from collections.abc import Mapping
from typing import Final

from pinfold.device.api import Mark
from pinfold.model.ids import Boot, DeviceId

TRUSTS_MAX: Final = 8
"""Entries a row may have. A holder that finds so many settles before it answers anything, and so
needs none of its own: takeovers that never settle do not make the row grow."""

Trust = Mapping[int, Mapping[int, int]]
"""Token of a holder -> device -> boot."""


def rank(trust: Trust, marked: int, device: DeviceId, boot: Boot) -> int:
    """How far a member's copy of an extent is to be believed; 0 when nobody vouches for it.

    `marked` is the newest token that any member's mark of the extent has: holders after that have
    not written it. Which of the others had answered a write to it is not known, since copies made
    while settling carry the mark of who makes them; whoever satisfies more of them has everything.
    """
    return sum(boots.get(device) == boot for token, boots in trust.items() if token <= marked)


def further(mark: Mark | None) -> tuple[bool, int, int]:
    """Sorts members of equal rank: those that got further first.

    A restart without a loss of power keeps everything a device had taken; one with a loss keeps
    what it had taken up to some point. So of copies that one holder marked, the one with the higher
    sequence has all that the other has. An older token comes before a newer one: before a holder
    serves an extent, every member has flushed its mark, so the newer one is of a copy under way.
    A mark without a sequence is a device's own, for a block that failed its checksum.
    """
    if mark is None or not mark.sequence:
        return (True, 0, 0)
    return (False, mark.token, -mark.sequence)


def promised(trust: Trust, device: DeviceId) -> int:
    """The rank of a member that was not heard yet, if it still is as it was last seen."""
    newest = max((token for token, boots in trust.items() if device in boots), default=None)
    if newest is None:
        return 0
    return rank(trust, max(trust), device, Boot(trust[newest][device]))
