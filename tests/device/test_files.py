from collections.abc import Awaitable, Callable

import pytest

from pinfold.device.device import Device
from pinfold.device.files import superblock_path
from pinfold.env.api import Env
from pinfold.model.errors import Conflict, Corrupt, NotFound, Unavailable
from pinfold.model.ids import DeviceUuid, GroupId
from pinfold.sim.world import SimNode, World
from tests.device.worlds import CLUSTER, PATH, SETTINGS


def live(life: Callable[[Env, SimNode], Awaitable[None]]) -> None:
    """Run `life` as a node's only process."""

    async def process(env: Env) -> None:
        await life(env, node)

    async def scenario() -> None:
        await node.start(process)

    with World(1) as world:
        node = world.node("n1")
        world.run(scenario())


def test_a_directory_is_never_made_a_device_by_opening_it() -> None:
    async def life(env: Env, node: SimNode) -> None:
        with pytest.raises(NotFound):
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not env.disk.exists(PATH)

    live(life)


def test_only_the_right_cluster_and_uuid_open_a_device_and_only_once() -> None:
    async def life(env: Env, node: SimNode) -> None:
        uuid = await Device.format(env, PATH, CLUSTER, SETTINGS)
        with pytest.raises(Conflict):
            await Device.format(env, PATH, CLUSTER, SETTINGS)
        with pytest.raises(Conflict):
            await Device.open(env, PATH, SETTINGS, cluster_id=b"x" * 16)
        other = DeviceUuid(b"u" * 16)
        with pytest.raises(Conflict):
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER, uuid=other)
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER, uuid=uuid)
        assert (device.uuid, device.boot) == (uuid, 1)
        with pytest.raises(Unavailable):
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        await device.close()
        with pytest.raises(Unavailable):
            await device.log.create(GroupId(1))
        again = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert again.boot == 2
        await again.close()

    live(life)


def test_a_damaged_superblock_is_corrupt() -> None:
    async def life(env: Env, node: SimNode) -> None:
        await Device.format(env, PATH, CLUSTER, SETTINGS)
        node.disk.rot(superblock_path(PATH), 30)
        with pytest.raises(Corrupt):
            await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)

    live(life)
