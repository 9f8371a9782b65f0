"""A process that dies without its machine: the kernel keeps what it was given, nothing else."""

import asyncio

import pytest

from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.device.journal import INLINE_BYTES
from pinfold.env.api import Env
from pinfold.model.ids import Token, VolumeId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.sim.disk import SimFile
from pinfold.sim.world import World
from tests.device.model import whole
from tests.device.worlds import CLUSTER, PATH, SETTINGS, Life

V = VolumeId(b"v" * 16)
ONE = Token(1)


def kill_after(*acts: Life) -> None:
    """Open a device once for each act, and kill its process behind each."""

    async def live(env: Env, act: Life) -> None:
        await act(await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER))

    async def scenario() -> None:
        await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
        for act in acts:
            node.crash(power=False)
            await node.start(lambda env, act=act: live(env, act))  # type: ignore[misc]

    with World(1) as world:
        node = world.node("n1")
        world.run(scenario())


def write(device: Device, index: int, content: bytes) -> asyncio.Future[None]:
    op = ExtentOp(0, index, 0, len(content))
    return device.extents.write(V, ONE, 0, index + 1, [op], memoryview(content))


SIZES = [BLOCK_BYTES, 10 * BLOCK_BYTES, INLINE_BYTES + BLOCK_BYTES, SETTINGS.record_bytes * 5]


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_was_answered_survives_the_process(size: int) -> None:
    contents = [bytes([number]) * min(size, EXTENT_BYTES) for number in range(1, 5)]

    async def first(device: Device) -> None:
        await device.extents.claim(V, ONE)
        for index, content in enumerate(contents):
            await write(device, index, content)

    async def then(device: Device) -> None:
        await device.extents.claim(V, ONE)
        spans = [(index, 0, len(content)) for index, content in enumerate(contents)]
        assert await whole(device.extents.read(V, ONE, spans)) == b"".join(contents)

    kill_after(first, then)


def test_writes_of_one_iteration_of_the_loop_share_one_call() -> None:
    async def act(device: Device) -> None:
        calls = 0
        plain = SimFile.pwritev

        def counting(self: SimFile, *arguments: object) -> int:
            nonlocal calls
            calls += 1
            return plain(self, *arguments)  # type: ignore[arg-type]

        await device.extents.claim(V, ONE)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SimFile, "pwritev", counting)
            await asyncio.gather(*(write(device, n, bytes(BLOCK_BYTES)) for n in range(8)))
            assert calls == 1

    kill_after(act)


def test_a_write_is_answered_while_a_flush_is_under_way() -> None:
    async def act(device: Device) -> None:
        await device.extents.claim(V, ONE)
        await write(device, 0, bytes(BLOCK_BYTES))
        flushing = device.extents.flush(V, ONE)
        await asyncio.sleep(0)  # the writer has begun
        await write(device, 1, bytes(BLOCK_BYTES))
        assert not flushing.done()
        await flushing

    kill_after(act)
