"""The whole front end over real sockets, devices in memory below: what clients meet."""

import asyncio
import struct
from collections.abc import Awaitable, Callable

from pinfold.cluster.extents import ExtentClient, ExtentHost
from pinfold.env.real import real_env
from pinfold.model.ids import Boot, DeviceId, NodeName
from pinfold.model.settings import NbdSettings, VolumeSettings
from pinfold.nbd import protocol as nbd
from pinfold.nbd.service import NbdService
from pinfold.volumes.placement import FunctionPlacement
from pinfold.volumes.registry import Registry
from tests.twins.cluster import MemoryRows
from tests.twins.extents import MemoryDevice, MemoryNetwork, MemoryNode

MIB = 1 << 20


class House:
    """One gateway over three devices."""

    def __init__(self) -> None:
        self.env = real_env()
        self.rows = MemoryRows(self.env.clock, lambda _blobs: None)
        node = MemoryNode("n1")
        self.devices = {DeviceId(i): MemoryDevice(i) for i in range(3)}
        ExtentHost(node.dispatcher, self.devices)
        self.client = ExtentClient(MemoryNetwork([node]), lambda _device: node.name)
        members = tuple(self.devices)
        self.placement = FunctionPlacement(lambda _volume, _extent: members, [members])
        self.settings = VolumeSettings(linger_s=0.05)
        self.registry = Registry(
            self.env, self.rows, self.client, self.placement.devices, self.settings
        )
        self.boots = 0

    def gateway(self, settings: NbdSettings | None = None) -> NbdService:
        self.boots += 1
        return NbdService(
            self.env,
            self.rows,
            self.client,
            self.placement,
            gateway=NodeName("nbd-1"),
            boot=Boot(self.boots),
            settings=settings,
            volume_settings=self.settings,
        )


class Client:
    """The least that talks NBD: simple replies, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.size = 0

    @classmethod
    async def connect(cls, address: str) -> "Client":
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        client = cls(*await asyncio.open_connection(host, int(port)))
        assert (await client.reader.readexactly(18))[:8] == b"NBDMAGIC"
        client.writer.write(nbd.CLIENT_FLAGS.pack(3))
        return client

    async def option(self, number: int, body: bytes = b"") -> list[tuple[int, bytes]]:
        self.writer.write(nbd.OPTION.pack(nbd.OPTION_MAGIC, number, len(body)) + body)
        found = []
        while True:
            head = await self.reader.readexactly(nbd.OPTION_REPLY.size)
            _magic, _option, kind, length = nbd.OPTION_REPLY.unpack(head)
            found.append((kind, await self.reader.readexactly(length)))
            if kind == nbd.REP_ACK or kind >> 31:
                return found

    async def go(self, name: str) -> int:
        """The last reply's kind."""
        encoded = name.encode()
        body = struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", 0)
        found = await self.option(nbd.OPT_GO, body)
        for kind, info in found:
            if kind == nbd.REP_INFO and info[:2] == b"\x00\x00":
                self.size = struct.unpack_from(">HQ", info)[1]
        return found[-1][0]

    async def do(self, command: int, offset: int, length: int, payload: bytes = b"") -> bytes:
        self.writer.write(
            nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, command, 5, offset, length) + payload
        )
        head = await self.reader.readexactly(nbd.SIMPLE_REPLY.size)
        _magic, error, cookie = nbd.SIMPLE_REPLY.unpack(head)
        assert cookie == 5
        if error:
            raise OSError(error, "refused")
        return await self.reader.readexactly(length) if command == nbd.CMD_READ else b""

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def visit(story: Callable[[House], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(20):
            await story(House())

    asyncio.run(run())


def test_an_export_is_a_volume() -> None:
    async def story(house: House) -> None:
        await house.registry.create("disk", 8 * MIB)
        service = house.gateway()
        address = await service.start("127.0.0.1", 0)
        first, second = await Client.connect(address), await Client.connect(address)
        assert await first.go("disk") == nbd.REP_ACK
        assert await second.go("") == nbd.REP_ACK  # the only one is the default
        assert first.size == second.size == 8 * MIB
        await first.do(nbd.CMD_WRITE, 4 * MIB - 100, 200, b"x" * 200)
        await first.do(nbd.CMD_FLUSH, 0, 0)
        assert await second.do(nbd.CMD_READ, 4 * MIB - 101, 202) == b"\0" + b"x" * 200 + b"\0"
        await first.close()
        await second.close()
        await service.close()
        assert not service.errors
        assert (await house.registry.show("disk")).holder is None
        for device in house.devices.values():
            assert (
                device.extents.content((await house.registry.show("disk")).id, 4 * MIB - 100, 100)
                == b"x" * 100
            )

    visit(story)


def test_names_that_are_not_there() -> None:
    async def story(house: House) -> None:
        service = house.gateway()
        address = await service.start("127.0.0.1", 0)
        client = await Client.connect(address)
        assert await client.go("none") == nbd.REP_ERR_UNKNOWN
        assert await client.go("") == nbd.REP_ERR_UNKNOWN
        await house.registry.create("a", MIB)
        await house.registry.create("b", MIB)
        assert await client.go("") == nbd.REP_ERR_UNKNOWN  # two: no default
        listed = await client.option(nbd.OPT_LIST)
        assert [body[4:] for kind, body in listed if kind == nbd.REP_SERVER] == [b"a", b"b"]
        assert await client.go("b") == nbd.REP_ACK
        await client.close()
        await service.close()

    visit(story)


def test_the_lease_is_given_back_after_the_last_connection() -> None:
    async def story(house: House) -> None:
        await house.registry.create("disk", MIB)
        service = house.gateway()
        address = await service.start("127.0.0.1", 0)
        for number in range(3):
            client = await Client.connect(address)
            assert await client.go("disk") == nbd.REP_ACK
            await client.do(nbd.CMD_WRITE, 0, 4, bytes([number]) * 4)
            assert (await house.registry.show("disk")).live
            await client.close()
            while (await house.registry.show("disk")).holder is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await house.registry.delete("disk")
        await service.close()
        assert not service.errors

    visit(story)


def test_a_restarted_gateway_takes_over_and_old_clients_are_dropped() -> None:
    async def story(house: House) -> None:
        await house.registry.create("disk", MIB)
        old, new = house.gateway(), house.gateway()
        stale = await Client.connect(await old.start("127.0.0.1", 0))
        await stale.go("disk")
        await stale.do(nbd.CMD_WRITE, 0, 4, b"1111")
        client = await Client.connect(await new.start("127.0.0.1", 0))
        await client.go("disk")
        assert await client.do(nbd.CMD_READ, 0, 4) == b"1111"
        await client.do(nbd.CMD_WRITE, 0, 4, b"2222")
        try:
            await stale.do(nbd.CMD_WRITE, 0, 4, b"3333")
            raise AssertionError("the old gateway must not serve")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        assert await client.do(nbd.CMD_READ, 0, 4) == b"2222"
        await stale.close()
        await client.close()
        await new.close()
        await old.close()

    visit(story)


def test_closing_flushes_and_says_goodbye() -> None:
    async def story(house: House) -> None:
        await house.registry.create("disk", MIB)
        service = house.gateway()
        client = await Client.connect(await service.start("127.0.0.1", 0))
        await client.go("disk")
        await client.do(nbd.CMD_WRITE, 0, 4, b"abcd")
        await service.close()
        assert await client.reader.read() == b""
        for device in house.devices.values():
            assert not device.extents._undo
        await client.close()

    visit(story)


def test_silent_connections_do_not_keep_a_client_out_nor_end_one_at_work() -> None:
    async def story(house: House) -> None:
        await house.registry.create("disk", MIB)
        service = house.gateway(NbdSettings(connections_max=3))
        address = await service.start("127.0.0.1", 0)
        worker = await Client.connect(address)
        assert await worker.go("disk") == nbd.REP_ACK
        silent = [await Client.connect(address) for _ in range(4)]
        newcomer = await Client.connect(address)
        assert await newcomer.go("disk") == nbd.REP_ACK
        await worker.do(nbd.CMD_WRITE, 0, 1, b"x")
        for client in silent[:3]:  # the oldest had to go
            assert await client.reader.read() == b""
        for client in (worker, newcomer, *silent):
            client.writer.close()
        await service.close()
        assert not service.errors

    visit(story)
