"""Placement for a storage cluster: which devices hold which key, and how that changes.

Pure arithmetic over values: no I/O, no clock, no randomness. `build` makes a `Ring` from devices,
`Ring.to_bytes` and `Ring.from_bytes` store it, `partition`, `devices_of` and `handoffs` look things
up, and `report` tells what a ring is like and what a change of it moves. What the assignment
promises, and which promise yields to which, stands in `assign`.
"""

from pinfold_ring.assign import assign, remaining_moves
from pinfold_ring.builder import Builder
from pinfold_ring.errors import BadRingFile, BadTopology, RingError
from pinfold_ring.lookup import Ring, build
from pinfold_ring.report import Plan, balance, compare, dispersion
from pinfold_ring.topology import Device, Topology

__all__ = [
    "BadRingFile",
    "BadTopology",
    "Builder",
    "Device",
    "Plan",
    "Ring",
    "RingError",
    "Topology",
    "assign",
    "balance",
    "build",
    "compare",
    "dispersion",
    "remaining_moves",
]
