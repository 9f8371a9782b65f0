"""One cluster, a bystander who uses it all the while, and the bound on every process's memory."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from pinfold.node.settings import NodeSettings
from tests.hostile.bounds import rss_bound, rss_of
from tests.running import Cluster, cluster
from tests.wire_clients import NbdClient, S3Client

PATIENCE_S = 10.0
"""Longest that an ordinary request may take while others misbehave: six times what it may on a
busy machine, a sixth of what clients wait."""


def s3_of(pen: Cluster) -> S3Client:
    return S3Client(pen.facts["s3"], pen.facts["access_key"], pen.facts["secret_key"])


@dataclass
class Bystander:
    """Puts, gets, and writes and reads a disk, as long as the block lasts."""

    requests: int = 0
    longest_s: float = 0.0
    failures: list[str] = field(default_factory=list)


@contextlib.contextmanager
def bystander(pen: Cluster) -> Iterator[Bystander]:
    """Ordinary use of both services meanwhile; every request must be answered, and in time."""
    seen, stop = Bystander(), threading.Event()

    def objects() -> None:
        client = s3_of(pen)
        number = 0
        while not stop.is_set():
            number += 1
            body = b"%d " % number * 1000
            for method, sent, expected in (("PUT", body, b""), ("GET", b"", body)):
                began = time.monotonic()
                status, content = client.do(method, "/bystander/k", sent)
                _note(seen, began, f"{method} {status} {client.error}", status == 200)
                if status == 200 and content != expected:
                    seen.failures.append(f"{method}: other bytes")
        client.close()

    def disk() -> None:
        client = NbdClient(pen.facts["nbd"], "bystander")
        number = 0
        try:
            while not stop.is_set():
                number += 1
                block = number.to_bytes(8, "big") * 512
                began = time.monotonic()
                client.write(0, block)
                client.flush()
                right = client.read(0, 4096) == block
                _note(seen, began, "the disk's bytes differ", right)
                time.sleep(0.01)
        except OSError as error:
            seen.failures.append(repr(error))
        client.close()

    threads = [threading.Thread(target=work) for work in (objects, disk)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(90)
    assert seen.failures == []
    assert seen.requests > 10
    assert seen.longest_s < PATIENCE_S


def _note(seen: Bystander, began: float, what: str, right: bool) -> None:
    seen.requests += 1
    seen.longest_s = max(seen.longest_s, time.monotonic() - began)
    if not right:
        seen.failures.append(what)


def assert_memory_bounded(pen: Cluster) -> None:
    """Every process is the one that it was and holds no more than its settings allow."""
    for node in pen.json("status")["nodes"]:
        held, bound = rss_of(node["pid"]), rss_bound(node["role"], NodeSettings())
        print(f"{node['name']}: {held >> 20} MiB of at most {bound >> 20} MiB")
        assert 0 < held < bound, node["name"]


@pytest.fixture(scope="session")
def pen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that all tests of this folder share; no process of it may end."""
    with cluster(tmp_path_factory.mktemp("hostile") / "data") as running:
        client = s3_of(running)
        assert client.do("PUT", "/bystander")[0] == 200
        client.close()
        running.json("volume", "create", "bystander", "16MiB")
        before = running.pids()
        yield running
        assert running.pids() == before, "a process has ended"
