"""The machine itself as an `Env`."""

import random
import time

from pinfold.env.api import Env
from pinfold.env.lanes import ThreadLane
from pinfold.env.osdisk import OsDisk
from pinfold.env.osnet import OsNet


class OsClock:
    """The real `Clock`. asyncio and uvloop both count CLOCK_MONOTONIC, as `monotonic` does."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


def real_env() -> Env:
    """The real clock, randomness, disk, network and threads."""
    return Env(
        clock=OsClock(),
        rng=random.SystemRandom(),
        disk=OsDisk(),
        net=OsNet(),
        new_offload=ThreadLane,
    )
