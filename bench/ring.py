"""The ring: time to build and change a large one, and lookups per second.

The limit beside the times is the design's "in seconds": 10 s for any of them.
"""

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import TypeVar

from pinfold_ring import Device, Ring, Topology, build, compare

PART_POWER = 18
REPLICAS = 3
DEVICES = 1000
LIMIT_S = 10.0
LOOKUPS = 200_000

T = TypeVar("T")


def report() -> None:
    """Print one line per measurement."""
    devices = _devices(DEVICES)
    first = _timed("from nothing", lambda: build("bench", devices, PART_POWER, REPLICAS))
    for what, changed in _changes(devices).items():
        topology = Topology(changed)
        after = _timed(what, lambda topology=topology: first.follow(topology))  # type: ignore[misc]
        plan = compare(first, after)
        print(f"  {plan.moves} replicas moved, {plan.remaining} left for the next rebalance")
    data = first.to_bytes()
    loaded = _timed(f"load {len(data) >> 10} KiB, verified", lambda: Ring.from_bytes(data))
    _report_lookups(loaded)


def _devices(count: int) -> list[Device]:
    return [
        Device(id=index, zone=f"z{index % 8}", node=f"n{index % 128}", weight=1 + index % 3)
        for index in range(count)
    ]


def _changes(devices: list[Device]) -> dict[str, list[Device]]:
    added = [replace(device, id=DEVICES + device.id) for device in devices]
    zone = [replace(device, zone="new") for device in added[:125]]
    return {
        "add 10 devices": [*devices, *added[:10]],
        "add a zone": [*devices, *zone],
        "remove a node": [device for device in devices if device.node != "n5"],
        "change all weights": [
            replace(device, weight=device.weight * (1 + device.id % 5 / 10)) for device in devices
        ],
        "double the cluster": [*devices, *added],
    }


def _timed(what: str, call: Callable[[], T]) -> T:
    start = perf_counter()
    result = call()
    seconds = perf_counter() - start
    print(f"{what}: {seconds:.2f} s, {seconds / LIMIT_S:.2f} of the limit")
    return result


def _report_lookups(ring: Ring) -> None:
    keys = [b"bucket/object-%d" % index for index in range(LOOKUPS)]
    start = perf_counter()
    for key in keys:
        ring.devices_of(ring.partition(key))
    seconds = perf_counter() - start
    print(f"lookups: {LOOKUPS / seconds:,.0f} per second")


if __name__ == "__main__":
    report()
