"""A network of reliable streams that can be slow, cut and reset, but never reorders a stream.

It stands for TCP: bytes of one direction arrive in order, in pieces that follow no boundary of
the writes, or the connection breaks. A cut keeps bytes back (as retransmission would) until it is
healed; a reset loses what had not arrived. A node that crashes resets its connections, or falls
silent when its power goes with it.

Addresses are global strings; a listener belongs to the process that made it, and partitions are
between the names of nodes.
"""

import asyncio
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pinfold.sim.loop import Process, SimLoop, current_process
from pinfold.sim.trace import Trace
from pinfold.sim.transport import Link

_CONNECT_PATIENCE_S: Final = 10.0
"""Seconds a connect over a cut waits before it fails, as a kernel without an answer does."""

_PORT_FIRST: Final = 20_000


@dataclass(slots=True)
class NetFaults:
    """What the network does to its users; change it at any time."""

    latency_s: tuple[float, float] = (0.0001, 0.001)
    """One way, drawn for each delivery."""
    spike_chance: float = 0.0
    """That a delivery takes `spike_s` longer, and all behind it on the stream with it."""
    spike_s: float = 0.2
    reset_chance: float = 0.0
    """That a delivery finds its connection reset instead."""
    corrupt_chance: float = 0.0
    """That a bit of a delivery is another on its arrival, with nothing below that notices."""
    ghost_chance: float = 0.0
    """That a connect is seen twice by the listener: the second one never says anything."""


class SimNet:
    """The network of a world; `of` gives each process its `Net`."""

    def __init__(self, seed: int | str, loop: SimLoop, trace: Trace) -> None:
        self.faults = NetFaults()
        self.loop = loop
        self.trace = trace
        self.rng = random.Random(f"{seed}/net")
        self._cuts: dict[tuple[str, str], None] = {}
        self._listeners: dict[str, SimListener] = {}
        self._links: dict[Link, None] = {}
        self._waiting: dict[asyncio.Future[None], None] = {}
        """Connects that wait for a cut to heal."""
        self._port = _PORT_FIRST

    def of(self, process: Process) -> "ProcessNet":
        """The network as one process uses it."""
        return ProcessNet(self, process)

    # faults

    def cut(self, source: str, target: str, *, both: bool = True) -> None:
        """Keep back what `source` sends to `target` (and the reverse)."""
        self._cuts[source, target] = None
        if both:
            self._cuts[target, source] = None

    def isolate(self, node: str, others: list[str]) -> None:
        """Cut a node off from the others, both ways."""
        for other in others:
            if other != node:
                self.cut(node, other)

    def mend(self, one: str, other: str) -> None:
        """Undo the cuts between two nodes."""
        self._cuts.pop((one, other), None)
        self._cuts.pop((other, one), None)
        self._deliver_again()

    def heal(self) -> None:
        """Undo every cut; what was kept back arrives now."""
        self._cuts.clear()
        self._deliver_again()

    def _deliver_again(self) -> None:
        for link in list(self._links):
            link.resume()
        waiting, self._waiting = self._waiting, {}
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def is_cut(self, source: str, target: str) -> bool:
        """Whether bytes from `source` to `target` are kept back."""
        return source != target and (source, target) in self._cuts

    def has_cut(self, name: str, *, besides: str = "") -> bool:
        """Whether some node, but this one, does not hear another, or is not heard by it."""
        return any(name in pair and besides not in pair for pair in self._cuts)

    def reset(self, one: str, other: str) -> None:
        """Break every connection between two nodes."""
        for link in list(self._links):
            if {link.names[0], link.names[1]} == {one, other}:
                link.reset()

    def bury(self, process: Process, *, silent: bool) -> None:
        """A process has died: its listeners go, its connections are reset, or just fall silent."""
        for address, listener in list(self._listeners.items()):
            if listener.process is process:
                del self._listeners[address]
        for link in list(self._links):
            if process in link.processes:
                link.bury(process, silent=silent)

    def rise(self, name: str) -> None:
        """A node has started again: it answers what it knows nothing of with resets."""
        for link in list(self._links):
            for process, end in zip(link.processes, link.ends, strict=True):
                if end.silenced and process.name == name:
                    link.reset()

    def latency(self) -> float:
        """Seconds that the next delivery takes."""
        faults = self.faults
        latency = self.rng.uniform(*faults.latency_s)
        if faults.spike_chance and self.rng.random() < faults.spike_chance:
            latency += faults.spike_s
        return latency

    def corrupted(self, piece: bytes) -> bytes:
        """A delivery as it arrives: now and then with a bit flipped."""
        chance = self.faults.corrupt_chance
        if not chance or not piece or self.rng.random() >= chance:
            return piece
        changed = bytearray(piece)
        changed[self.rng.randrange(len(piece))] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    # connections

    def bind(
        self, process: Process, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> "SimListener":
        """See `Net.listen`."""
        if address.startswith("tcp://") and address.endswith(":0"):
            self._port += 1
            address = f"{address[:-1]}{self._port}"
        if address in self._listeners:
            raise OSError(errno.EADDRINUSE, f"another process listens on {address}")
        listener = SimListener(self, process, address, factory)
        self._listeners[address] = listener
        return listener

    def unbind(self, address: str, listener: "SimListener") -> None:
        """Stop listening."""
        if self._listeners.get(address) is listener:
            del self._listeners[address]

    async def connect(
        self, process: Process, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `Net.connect`."""
        await asyncio.sleep(self.latency())
        listener = self._listeners.get(address)
        while listener is not None and self._unreachable(process, listener.process):
            await self._healed(address)
            listener = self._listeners.get(address)
        if listener is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"nobody listens on {address}")
        if self.faults.ghost_chance and self.rng.random() < self.faults.ghost_chance:
            self._haunt(process, listener)
        protocol = factory()
        link = Link(self, (process, listener.process), (protocol, listener.factory))
        self._links[link] = None
        made = self.loop.create_future()
        link.start(made)
        await made
        return link.ends[0], protocol

    def _haunt(self, process: Process, listener: "SimListener") -> None:
        """A repeated connection attempt comes late: its sender wants no second connection."""
        ghost = Link(self, (process, listener.process), (asyncio.Protocol(), listener.factory))
        self._links[ghost] = None
        ghost.start(self.loop.create_future())
        self.loop.after(self.rng.uniform(0, 5), process, ghost.reset)

    def _unreachable(self, process: Process, other: Process) -> bool:
        return self.is_cut(process.name, other.name) or self.is_cut(other.name, process.name)

    async def _healed(self, address: str) -> None:
        future: asyncio.Future[None] = self.loop.create_future()
        self._waiting[future] = None
        try:
            async with asyncio.timeout(_CONNECT_PATIENCE_S):
                await future
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, f"{address} does not answer") from None
        finally:
            self._waiting.pop(future, None)

    def forget(self, link: Link) -> None:
        """Both ends of a connection are gone."""
        self._links.pop(link, None)


class SimListener:
    """The simulated `Listener`."""

    def __init__(
        self,
        net: SimNet,
        process: Process,
        address: str,
        factory: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self._net = net
        self._address = address
        self.process = process
        self.factory = factory

    @property
    def address(self) -> str:
        """See `Listener.address`."""
        return self._address

    def close(self) -> None:
        """See `Listener.close`."""
        self._net.unbind(self._address, self)


class ProcessNet:
    """The simulated `Net` of one process."""

    def __init__(self, net: SimNet, process: Process) -> None:
        self._net = net
        self._process = process

    async def listen(
        self, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> SimListener:
        """See `Net.listen`."""
        return self._net.bind(self._process, address, factory)

    async def connect(
        self, address: str, factory: Callable[[], asyncio.BaseProtocol]
    ) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        """See `Net.connect`."""
        assert current_process() is self._process, "a process connects for itself"
        return await self._net.connect(self._process, address, factory)
