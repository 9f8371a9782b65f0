"""The real NBD front end over devices in memory: what clients and profilers are pointed at.

`python -m tests.twins.serve_nbd --port 10809 --volume v=1GiB [--seconds 60] [--profile FILE]`
serves volumes on three devices of this process, with no network and no disk below the gateway.
"""

import argparse
import asyncio
import cProfile
import signal
import threading
from collections.abc import Callable, Sequence

import uvloop

from pinfold.cluster.extents import ExtentClient, ExtentHost
from pinfold.env.api import Buffer
from pinfold.env.real import real_env
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import Boot, DeviceId, NodeName
from pinfold.nbd.service import NbdService
from pinfold.rpc.api import Answer, Body, Reply, Request
from pinfold.volumes.placement import FunctionPlacement
from pinfold.volumes.registry import Registry
from tests.twins.cluster import MemoryRows
from tests.twins.extents import MemoryDevice, MemoryDispatcher

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class DirectPeers:
    """Calls answered in the next loop tick, in order: the least a network can cost."""

    def __init__(self, dispatcher: MemoryDispatcher) -> None:
        self._handlers = dispatcher.handlers
        self._due: list[tuple[Request, asyncio.Future[Answer]]] = []

    def call(
        self,
        node: NodeName,
        operation: str,
        body: Body = None,
        payload: Sequence[Buffer] = (),
        *,
        deadline: float,
    ) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        joined = payload[0] if len(payload) == 1 else b"".join(payload)
        body = list(body)
        request = Request(node, Boot(1), operation, body, memoryview(joined), deadline, 0)
        if not self._due:
            loop.call_soon(self._deliver)
        self._due.append((request, answer))
        return answer

    def _deliver(self) -> None:
        due, self._due = self._due, []
        for request, answer in due:
            try:
                result = self._handlers[request.operation](request)
            except PinfoldError as error:
                answer.set_exception(error)
                continue
            if isinstance(result, Reply):
                self._settle(answer, result)
            elif isinstance(result, asyncio.Future):
                result.add_done_callback(
                    lambda done, answer=answer: self._settle(answer, done.result())
                )
            else:
                task = asyncio.get_running_loop().create_task(result)
                task.add_done_callback(
                    lambda done, answer=answer: self._settle(answer, done.result())
                )

    def _settle(self, answer: asyncio.Future[Answer], reply: Reply) -> None:
        if not answer.done():
            payload = reply.payload
            joined = payload[0] if len(payload) == 1 else b"".join(payload)
            answer.set_result(Answer(reply.body, memoryview(joined)))

    def tell(self, node: NodeName, operation: str, body: Body = None) -> None:
        raise NotImplementedError

    def connected(self, node: NodeName) -> bool:
        return True

    def watch(self, callback: Callable[[NodeName, bool, Boot], None]) -> None:
        return


async def serve(arguments: argparse.Namespace) -> None:
    env = real_env()
    dispatcher = MemoryDispatcher()
    devices = {DeviceId(i): MemoryDevice(i, undoable=False) for i in range(3)}
    ExtentHost(dispatcher, devices)
    client = ExtentClient(DirectPeers(dispatcher), lambda _device: NodeName("n1"))
    members = tuple(devices)
    placement = FunctionPlacement(lambda _volume, _extent: members, [members])
    rows = MemoryRows(env.clock, lambda _blobs: None)
    service = NbdService(env, rows, client, placement, gateway=NodeName("nbd-1"), boot=Boot(1))
    registry = Registry(env, rows, client, placement.devices, service.volume_settings)
    for volume in arguments.volume:
        name, _, size = volume.partition("=")
        await registry.create(name, int(size[:-3]) * UNITS[size[-3:]])
    print(await service.start("127.0.0.1", arguments.port), flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.call_later(arguments.seconds, stop.set)
    await stop.wait()
    await service.close()
    print(service.counters, service.errors, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=10809)
    parser.add_argument("--volume", action="append", default=[])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--profile")
    arguments = parser.parse_args()
    assert threading.current_thread() is threading.main_thread()
    profile = cProfile.Profile() if arguments.profile else None
    if profile is not None:
        profile.enable()
    uvloop.run(serve(arguments))
    if profile is not None:
        profile.disable()
        profile.dump_stats(arguments.profile)


if __name__ == "__main__":
    main()
