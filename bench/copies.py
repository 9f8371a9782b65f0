"""How fast a device takes a copy of a group's rows: MiB/s of pages, a window of them at a time.

`python -m bench.copies [DIRECTORY]`; beside it a copy with one page on its way, as a ratio's base.
"""

import asyncio
import itertools
import os
import shutil
import sys
import tempfile
import time

from pinfold.cluster.groups.state import Limits
from pinfold.device.device import Device
from pinfold.env.real import real_env
from pinfold.model.ids import GroupId
from pinfold.model.limits import MIB
from pinfold.model.settings import DeviceSettings

GROUP = GroupId(0)


async def rate(device: Device, size: int, window: int, pages: int) -> float:
    """MiB/s of a copy of rows of `size` bytes."""
    count = Limits().page_bytes // size
    value = os.urandom(size)
    began = time.monotonic()
    on_their_way: list[asyncio.Future[None]] = []
    for page in range(pages):
        if page >= window:
            await on_their_way[page - window]
        rows = [(b"row-%08d" % (page * count + one), value) for one in range(count)]
        install = device.log.install(GROUP, 9, 1, rows, first=not page, last=page == pages - 1)
        on_their_way.append(install)
        await asyncio.sleep(0)
    await asyncio.gather(*on_their_way)
    return pages * count * size / MIB / (time.monotonic() - began)


async def measure(directory: str) -> None:
    """Print the rates."""
    env, settings, cluster = real_env(), DeviceSettings(), b"c" * 16
    await Device.format(env, directory, cluster, settings)
    device = await Device.open(env, directory, settings, cluster_id=cluster)
    await device.log.create(GROUP)
    for size, window in itertools.product((490, 4096), (1, Limits().copy_pages)):
        pages = 8 if window == 1 else 128
        found = await rate(device, size, window, pages)
        print(f"rows of {size:4d} bytes, {window:2d} pages on their way: {found:6.1f} MiB/s")
    await device.close()


def report() -> None:
    """Measure on a directory of its own."""
    parent = sys.argv[1] if __name__ == "__main__" and len(sys.argv) > 1 else None
    directory = tempfile.mkdtemp(dir=parent)
    try:
        asyncio.run(measure(os.path.join(directory, "device")))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    report()
