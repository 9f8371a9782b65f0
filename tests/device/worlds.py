"""Running one device in a simulated world, life after life."""

from collections.abc import Awaitable, Callable

import msgspec

from pinfold.codec.packs import checks_of
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.ids import BlobId
from pinfold.model.settings import DeviceSettings
from pinfold.sim.world import SimNode, World

PATH = "/device"
CLUSTER = b"c" * 16
SETTINGS = DeviceSettings.for_tests()

Life = Callable[[Device], Awaitable[None]]


def lives(
    *acts: Life,
    crash: bool = False,
    between: Callable[[SimNode], None] = lambda node: None,
    seed: int = 1,
    **changed: object,
) -> None:
    """Format a device and open it once for each act; end each life by a close or a crash.

    `between` may touch the node's disk after every life but the last. Settings may be changed.
    """
    settings = msgspec.structs.replace(SETTINGS, **changed)

    async def live(env: Env, act: Life) -> None:
        device = await Device.open(env, PATH, settings, cluster_id=CLUSTER)
        await act(device)
        if not crash:
            await device.close()

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, settings))
        for act in acts:
            node.crash()
            if act is not acts[0]:
                between(node)
            await node.start(lambda env, act=act: live(env, act))  # type: ignore[misc]

    with World(seed) as world:
        node = world.node("n1")
        world.run(scenario())


async def put(device: Device, blob: bytes, payload: bytes) -> None:
    """Store a blob, durably, whatever its size."""
    if len(payload) <= 1 << 16:
        await device.blobs.put(BlobId(blob), memoryview(payload), checks_of(payload))
        return
    stream = device.blobs.begin(BlobId(blob), len(payload), checks_of(payload))
    await stream.write(payload)
    await stream.commit()
