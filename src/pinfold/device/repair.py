"""Acts on a check's report: what does not verify is set aside, what nobody names is freed.

Nothing that verifies is ever removed. The device is opened as for serving, so every change goes
through the journal like any other, and a repair that is interrupted has either happened or not.
"""

from pinfold.device.check import Report
from pinfold.device.device import CLOSED, Device
from pinfold.device.engines import engine_name
from pinfold.device.files import read_superblock
from pinfold.device.offline import segment_bytes
from pinfold.env.api import Disk, Env
from pinfold.model.errors import Conflict, Corrupt, Unavailable
from pinfold.model.settings import DeviceSettings


def settings_of(disk: Disk, path: str) -> DeviceSettings:
    """Settings that fit the files of a stopped device, with no room kept back. Blocks."""
    engine = engine_name(disk, f"{path}/index")
    return DeviceSettings(
        index_engine="ordered" if engine == "ordered" else "lmdb",
        segment_bytes=segment_bytes(disk, path),
        reserve_bytes=0,
    )


async def repair(env: Env, path: str, report: Report) -> None:
    """Quarantine, free and recount what a check of this device has just found.

    Raises Corrupt when the device cannot be opened at all, Conflict when somebody has opened it
    since the check, Unavailable when it stopped on the way, and what `Device.open` raises.
    """
    if not report.opens:
        raise Corrupt(f"{path} cannot be opened: {report.findings[0].what}")
    lane = env.new_offload("settings")
    try:
        settings = await lane(settings_of, env.disk, path)
        superblock = await lane(read_superblock, env.disk, path)
    finally:
        lane.close()
    device = await Device.open(env, path, settings, cluster_id=superblock.cluster_id)
    try:
        if device.boot != report.boot + 1:
            raise Conflict(f"{path} was opened since it was checked: check it again")
        _act(device, report)
    finally:
        await device.close()
    if (reason := device.status().reason) != CLOSED:
        raise Unavailable(f"the repair of {path} was cut short: {reason}")


def _act(device: Device, report: Report) -> None:
    """All of it at once; closing the device applies it and makes it durable."""
    device.touch(report.rotten)
    packs = {pack.number for pack in device.packs.all()}
    for number, (live, live_bytes) in report.miscounted.items():
        if number in packs:
            device.packs.recount(number, live, live_bytes)
    for number, start, size in report.leftovers:
        if number in packs:
            device.packs.reclaim(number, start, size)
    for blob in report.bad_blobs:
        device.blobs.quarantine(blob)
    suspects = dict.fromkeys((volume, extent) for volume, extent, _ in report.bad_blocks)
    for volume, extent in suspects:
        device.extents.suspect(volume, extent)
    for first, count in report.nobodys:
        device.extents.slots.free(range(first, first + count))
