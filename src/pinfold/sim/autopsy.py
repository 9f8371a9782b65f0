"""What is wrong on a device that nobody serves: as `pinfold device check` would say, and its space.

A device that was crashed shows what its next opening will serve; one that was at rest has besides
given back everything it does not need.
"""

from collections.abc import Iterator
from typing import Final

from pinfold.device.check import check
from pinfold.device.extentrows import each_sub
from pinfold.device.offline import Offline, look_at
from pinfold.model.errors import PinfoldError
from pinfold.model.limits import SLOT_BYTES
from pinfold.sim.diskfaults import DiskFaults
from pinfold.sim.inode import PAGE
from pinfold.sim.world import SimNode

_SLOT_PAGES: Final = SLOT_BYTES // PAGE


def autopsy(node: SimNode, path: str, *, rested: bool = False) -> list[str]:
    """Everything that is wrong with a device of a node that is down; changes nothing.

    `rested`: nothing was asked of it for so long that it has no space to give back.
    """
    faults, node.disk.faults = node.disk.faults, DiskFaults()
    disk = node.boot().disk
    try:
        device = look_at(disk, path)
        report = check(disk, path, device, lambda _done, _total: None)
        found = [f"{one.part}: {one.what}" for one in report.findings]
        if rested and not found:
            found += [f"pack: {one} is nobody's" for one in report.leftovers]
            found += _kept_for_nobody(node, path, device)
        device.close()
    except PinfoldError as error:
        found = [repr(error)]
    finally:
        node.crash(power=False)  # the tool has ended: nobody was told of a loss of power
        node.disk.faults = faults
    return found


def _kept_for_nobody(node: SimNode, path: str, device: Offline) -> Iterator[str]:
    """Space that an arena and the packs take for what no row names."""
    assert device.extents is not None, "nothing was found wrong"
    rows = [one.row for one in device.extents.stored()]
    slots = {row.slots[sub] for row in rows for sub in each_sub(row.subs)}
    arena = node.disk.file(f"{path}/arena/slots")
    idle = sorted({page // _SLOT_PAGES for page in arena.pages} - slots)
    if idle:
        yield f"arena: slots that no extent names take space: {idle[:5]}"
    assert device.index is not None, "nothing was found wrong"
    freed = sum(1 for _ in device.index.scan(b"f", b"g"))
    if freed:
        yield f"pack: {freed} ranges that nothing names take space"
