"""A process that dies without its machine: the kernel keeps what it was given, nothing else."""

import asyncio
import random

import pytest

from pinfold.device.api import ExtentOp
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.errors import Unavailable
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.sim.disk import SimFile
from pinfold.sim.world import World
from tests.device.model import whole
from tests.device.recorded import ONE, G, H, State, Told, V, W, differences, found_in, work
from tests.device.worlds import CLUSTER, PATH, SETTINGS, Life, put


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


SIZES = [BLOCK_BYTES, SETTINGS.inline_bytes, 4 * SETTINGS.inline_bytes, SETTINGS.record_bytes * 5]


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


@pytest.mark.parametrize("part", ["journal", "index", "packs", "arena"])
def test_what_a_failed_flush_left_is_not_believed_after_a_restart(part: str) -> None:
    """The kernel shows such pages and never writes them: what is acknowledged on top would go."""
    told = Told()
    shown: State = {}

    async def use(env: Env, rounds: int) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        for group in (G, H):
            await device.log.create(group)
        for volume in (V, W):
            await device.extents.claim(volume, ONE)
        rng = random.Random(rounds)
        await work(device, told, rng, rounds)
        node.disk.faults.under = f"{PATH}/{part}/"
        node.disk.faults.lost_flush_chance = 1.0
        with pytest.raises(Unavailable):
            await work(device, told, rng, 1000)
        node.disk.faults.lost_flush_chance = 0.0

    async def go_on(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        kinds = {kind for _, state in told.states for kind in state}
        shown.update({kind: await found_in(device, kind) for kind in kinds})
        for number in range(40):  # flushed, hence everything before it; and the journal goes round
            await put(device, b"%016d" % number, bytes(60_000))
            await asyncio.sleep(0.02)

    async def look(env: Env) -> None:
        device = await Device.open(env, PATH, SETTINGS, cluster_id=CLUSTER)
        assert not await differences(device, shown)

    with World(1) as world:
        node = world.node("n1")

        async def scenario() -> None:
            for rounds in range(12):
                node.disk.wipe()
                del told.states[1:]
                shown.clear()
                await node.start(lambda env: Device.format(env, PATH, CLUSTER, SETTINGS))
                node.crash(power=False)
                await node.start(lambda env, n=rounds: use(env, n))  # type: ignore[misc]
                node.crash(power=False)
                await node.start(go_on)
                node.crash()
                await node.start(look)
                node.crash()

        world.run(scenario(), limit_s=100_000)
