"""Hostile clients against real processes, while a bystander uses the cluster."""

import contextlib
import os
import random
import resource
import select
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from pinfold.node.layout import Layout
from tests.hostile.conftest import assert_memory_bounded, bystander, s3_of
from tests.running import Cluster, cluster
from tests.wire_clients import UNKNOWN, S3Client

pytestmark = pytest.mark.cluster

KEYS = int(os.environ.get("PINFOLD_HOSTILE_KEYS", "4000"))
"""Of the large bucket; `make hostile` takes 200,000."""

GIB = 1 << 30

BEGINNINGS = (b"", b"GET / HTTP/1.1\r\n", b"PUT /b/k HTTP/1.1\r\ncontent-length: 9\r\n")
"""Of the noise: nothing, and what gets further into a server."""


def doors(pen: Cluster) -> dict[str, str]:
    """Every address that the cluster listens on: `host:port`, or a socket's path."""
    found = {name: urlsplit(pen.facts[name]).netloc for name in ("s3", "nbd", "admin")}
    layout = Layout.at(pen.data)
    for node in pen.json("status")["nodes"]:
        found[node["name"]] = layout.rpc_address(node["name"]).removeprefix("unix://")
    return found


def knock(door: str) -> socket.socket:
    if door.startswith("/"):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(10)
        made.connect(door)
        return made
    host, port = door.split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_a_mebibyte_of_noise_at_every_door(pen: Cluster) -> None:
    with bystander(pen):
        for number, door in enumerate(doors(pen).values()):
            for start in (
                b"",
                b"GET / HTTP/1.1\r\n",
                b"PUT /b/k HTTP/1.1\r\ncontent-length: 9\r\n",
            ):
                noise = start + random.Random(number).randbytes(1 << 20)
                with knock(door) as wire, contextlib.suppress(OSError):
                    wire.sendall(noise)
                    wire.shutdown(socket.SHUT_WR)
                    while wire.recv(1 << 16):
                        pass
    assert_memory_bounded(pen)


def half_requests(pen: Cluster) -> list[tuple[str, bytes]]:
    """(door, a beginning that is never continued)."""
    client = s3_of(pen)
    found = doors(pen)
    signed = client.head("PUT", "/bystander/slow", headers={"content-length": "5000000"})
    lines = [f"{name}: {value}" for name, value in signed.items()]
    body = "\r\n".join(["PUT /bystander/slow HTTP/1.1", *lines, "", "x"]).encode()
    admin = b"POST /v1/volumes HTTP/1.1\r\nhost: h\r\ncontent-length: 50\r\n\r\n{"
    return [
        (found["s3"], b"GET /bystander/k HTTP/1.1\r\nhost: "),
        (found["s3"], body),
        (found["nbd"], b"\0\0\0\3IHAVEOPT\0\0"),
        (found["admin"], admin),
        (found["n1"], b"PFrm\1"),
    ]


@contextlib.contextmanager
def trickling(pen: Cluster, each: int) -> Iterator[list[socket.socket]]:
    """Clients that begin and then send a byte now and then."""
    wires = []
    for door, start in half_requests(pen):
        for _ in range(each):
            wire = knock(door)
            wire.sendall(start)
            wires.append(wire)
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.5):
            for wire in wires:
                with contextlib.suppress(OSError):
                    wire.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield wires
    finally:
        stop.set()
        thread.join(30)
        for wire in wires:
            wire.close()


def test_a_thousand_clients_that_trickle(pen: Cluster) -> None:
    with trickling(pen, each=200), bystander(pen):
        time.sleep(8)
    assert_memory_bounded(pen)


def test_ten_thousand_idle_connections(pen: Cluster) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard >= 12_000, f"ulimit -Hn is {hard}: this test itself opens 10,000 files"
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    counts = {"s3": 6000, "nbd": 2500, "admin": 1000, "n1": 300, "n2": 100, "n3": 100}
    wires: list[socket.socket] = []
    ended = select.poll()
    try:
        with bystander(pen):
            found = doors(pen)
            for name, count in counts.items():
                for _ in range(count):
                    wires.append(knock(found[name]))
            for wire in wires:
                ended.register(wire, select.POLLRDHUP)
            newcomer = s3_of(pen)
            assert newcomer.do("GET", "/bystander/k")[0] == 200
            newcomer.close()
            pen.json("volume", "list")
            time.sleep(2)
        assert len(wires) == 10_000
        assert len(ended.poll(0)) > 2000  # what was over the limits has been ended
        assert_memory_bounded(pen)
    finally:
        for wire in wires:
            wire.close()


def test_five_gibibytes_into_a_full_device(
    pen: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The device counts as full because nothing may be taken of what is free."""
    data = tmp_path_factory.mktemp("full") / "data"
    with cluster(data) as roomy:
        client = s3_of(roomy)
        assert client.do("PUT", "/full")[0] == 200
        assert client.do("PUT", "/full/before", b"x" * 100_000)[0] == 200
        client.close()
    for name in ("n1", "n2", "n3"):
        Layout.at(data).settings(name).write_text(f"[device]\nreserve_bytes = {1 << 40}\n")
    with cluster(data) as full:
        client = s3_of(full)
        began = time.monotonic()
        status, sent = pour(client, "/full/large", 5 * GIB)
        assert status == 507
        assert time.monotonic() - began < 10
        assert sent < GIB
        assert client.do("GET", "/full/before") == (200, b"x" * 100_000)
        states = [device["state"] for device in full.json("status")["devices"]]
        assert states == ["full"] * 3
        client.close()
        assert_memory_bounded(full)


def pour(client: S3Client, path: str, size: int) -> tuple[int, int]:
    """(status, bytes sent) of a PUT that goes on sending until it is answered."""
    lines = [
        f"{name}: {value}"
        for name, value in client.head("PUT", path, headers={"content-length": str(size)}).items()
    ]
    chunk = bytes(1 << 20)
    with socket.create_connection((client.host, client.port), timeout=20) as wire:
        wire.sendall("\r\n".join([f"PUT {path} HTTP/1.1", *lines, "", ""]).encode())
        sent = 0
        while sent < size and not select.select([wire], [], [], 0)[0]:
            try:
                wire.sendall(chunk)
            except OSError:
                break
            sent += len(chunk)
        try:
            head = wire.recv(1 << 16)
        except OSError:
            return UNKNOWN, sent
        return int(head.split()[1]), sent


def test_a_listing_of_a_large_bucket_is_complete_and_in_order(pen: Cluster) -> None:
    client = s3_of(pen)
    assert client.do("PUT", "/large")[0] == 200
    names = [f"{number * 7919 % KEYS:07d}" for number in range(KEYS)]
    client.close()  # idle connections end after 75 s, and this takes longer
    fill(pen, names)
    with bystander(pen):
        for _ in range(max(20_000 // KEYS, 1)):
            assert client.list_all("large") == sorted(names)
    client.close()
    assert_memory_bounded(pen)


def fill(pen: Cluster, names: list[str]) -> None:
    """Put an empty object under every name, from several connections."""
    failures: list[int] = []

    def put(part: list[str]) -> None:
        client = s3_of(pen)
        for name in part:
            status, _ = client.do("PUT", f"/large/{name}")
            while status == 503:
                time.sleep(float(client.headers["retry-after"]))
                status, _ = client.do("PUT", f"/large/{name}")
            if status != 200:
                failures.append(status)
        client.close()

    threads = [threading.Thread(target=put, args=(names[first::8],)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
