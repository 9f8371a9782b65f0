"""Quarantined blobs of a node's devices are looked for in turns, as far as there is room."""

import asyncio
from bisect import bisect_right
from types import SimpleNamespace

import pytest

from pinfold.care.replicator import Replicator
from pinfold.model.ids import BlobId, DeviceId
from pinfold.model.settings import CareSettings
from pinfold.rpc.dispatch import Operations
from tests.cluster.group_cluster import env_for

PEER = DeviceId(9)


class Quarantine:
    """The blobs of one device that did not verify."""

    def __init__(self, device: int, count: int) -> None:
        self.held = [(BlobId(bytes([device, n]) * 8), 100) for n in range(count)]
        self.blobs = self

    def scan_quarantined(self, after: bytes, limit: int) -> list[tuple[BlobId, int]]:
        start = bisect_right(self.held, after, key=lambda one: one[0])
        return self.held[start : start + limit]


def looks(counts: list[int], room: int, times: int) -> list[list[int]]:
    """For each look, whose blobs it found: the index of the device."""
    placement = SimpleNamespace(primaries=lambda _: (PEER,), handoffs=lambda _: ())
    devices = {DeviceId(n): Quarantine(n, count) for n, count in enumerate(counts)}
    replicator = Replicator(
        env_for(1).clock,
        SimpleNamespace(watch=lambda _: None),  # type: ignore[arg-type]
        Operations(),
        SimpleNamespace(led=list),  # type: ignore[arg-type]
        devices,  # type: ignore[arg-type]
        lambda: placement,  # type: ignore[arg-type,return-value]
        list,
        CareSettings(quarantine_s=1e-9),
        lambda: None,
    )

    async def scenario() -> list[list[int]]:
        return [[job.target for job in (await replicator.find(room)).jobs] for _ in range(times)]

    return asyncio.run(scenario())


def test_a_device_that_takes_all_the_room_does_not_end_the_worker() -> None:
    assert sorted(looks([2, 1], 2, 1)[0]) in ([0, 0], [0, 1])
    assert looks([4, 4], 4, 2) in ([[0] * 4, [1] * 4], [[1] * 4, [0] * 4])


@pytest.mark.parametrize("room", [1, 2, 3, 5])
def test_a_device_with_many_does_not_keep_another_waiting(room: int) -> None:
    found = looks([50, 1], room, 8)
    for half in (found[:4], found[4:]):
        assert any(1 in one for one in half)


def test_a_node_without_devices_finds_nothing() -> None:
    assert looks([], 4, 2) == [[], []]
