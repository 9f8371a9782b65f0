"""View numbers: a round and, in the low 16 bits, the device that owns the view.

Whoever reads a view knows its primary without knowing the group's members, so members whose
configurations differ cannot take two devices for the primary of one view. Higher rounds win; of one
round the higher device does. Numbers below 2^16 (round 0) are where logs begin, and what clusters
stored before views had owners: nobody leads them any more.
"""

from typing import Final

from pinfold.model.ids import DeviceId

OWNER_BITS: Final = 16
"""Device numbers end at 65,534 (see `DeviceId`)."""

NOBODY: Final = DeviceId((1 << OWNER_BITS) - 1)
"""Owns the views of round 0."""


def round_of(view: int) -> int:
    """How many rounds a view is away from where logs begin."""
    return view >> OWNER_BITS


def owner(view: int) -> DeviceId:
    """The device that leads a view, or will."""
    return DeviceId(view & NOBODY) if round_of(view) else NOBODY


def next_view(view: int, device: DeviceId) -> int:
    """The first view of a later round that `device` owns."""
    return (round_of(view) + 1 << OWNER_BITS) | device
