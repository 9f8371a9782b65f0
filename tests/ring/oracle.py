"""Naive twins of the ring: slow, obvious, and written from the promises rather than the code."""

from collections import Counter, deque
from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor

import numpy as np

from pinfold_ring.assign import Table
from pinfold_ring.topology import Device, Topology

Path = tuple[str | int, ...]


def paths(device: Device) -> list[Path]:
    """The domains a device is in, from its region down to itself."""
    whole: Path = (*device.place, device.id)
    return [whole[:depth] for depth in range(1, 5)]


def fair_shares(devices: Sequence[Device], parts: int, replicas: int) -> dict[int, Fraction]:
    """Hand out by weight; who gets more than one replica per partition keeps that and leaves."""
    full: set[int] = set()
    while True:
        rest = [device for device in devices if device.id not in full]
        total = sum(Fraction(str(float(device.weight))) for device in rest)
        left = parts * (replicas - len(full))
        shares = {
            device.id: Fraction(str(float(device.weight))) * left / total if total else Fraction(0)
            for device in rest
        }
        over = {device_id for device_id, share in shares.items() if share > parts}
        if not over:
            return shares | {device_id: Fraction(parts) for device_id in full}
        full |= over


def domain_shares(devices: Sequence[Device], parts: int, replicas: int) -> dict[Path, Fraction]:
    """Replicas due to every domain of every level."""
    shares = fair_shares(devices, parts, replicas)
    result: dict[Path, Fraction] = {}
    for device in devices:
        for path in paths(device):
            result[path] = result.get(path, Fraction(0)) + shares[device.id]
    return result


def imbalance(topology: Topology, table: Table) -> list[int]:
    """Devices that hold neither their fair share rounded down nor rounded up."""
    shares = fair_shares(topology.devices, *table.shape)
    held = Counter(table.ravel().tolist())
    return [
        device_id
        for device_id, share in shares.items()
        if held[device_id] not in (floor(share), ceil(share))
    ]


def crowded(topology: Topology, table: Table) -> list[tuple[int, Path, int]]:
    """Partitions with more or fewer replicas in a domain than its share, rounded up or down."""
    parts = len(table)
    shares = domain_shares(topology.devices, *table.shape)
    by_id = {device.id: device for device in topology}
    result = []
    for partition, row in enumerate(table.tolist()):
        inside = Counter(path for device_id in row for path in paths(by_id[device_id]))
        for path, share in shares.items():
            if not floor(share / parts) <= inside[path] <= ceil(share / parts):
                result.append((partition, path, inside[path]))
    return result


def moves(before: Table, after: Table) -> list[int]:
    """Per partition, how many devices are new to it."""
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    return [len(set(new) - set(old)) for old, new in pairs]


def least_moves(topology: Topology, previous: Table) -> int:
    """The fewest moves to any table that is balanced and widest spread, by minimum-cost flow.

    A unit of flow is a replica: partition, region, zone, node, device of that partition, device.
    A lower bound on an edge is a reward too large to pass by.
    """
    flow = _Flow()
    parts, replicas = previous.shape
    reward = 10_000
    shares = domain_shares(topology.devices, parts, replicas)
    rewarded = 0

    def edge(source: object, target: object, share: Fraction, cost: int = 0) -> int:
        flow.add(source, target, floor(share), cost - reward)
        flow.add(source, target, ceil(share) - floor(share), cost)
        return floor(share)

    for device in topology:
        rewarded += edge(("device", device.id), "sink", shares[paths(device)[-1]])
    for partition, row in enumerate(previous.tolist()):
        flow.add("source", (partition,), replicas, 0)
        for path in sorted(shares, key=len):
            target: object = (partition, *path)
            cost = 0
            if len(path) == 4:
                target, cost = ("device", path[-1]), int(path[-1] not in row)
            rewarded += edge((partition, *path[:-1]), target, shares[path] / parts, cost)
    cost = flow.cheapest("source", "sink", parts * replicas)
    total = cost + reward * rewarded
    assert 0 <= total <= parts * replicas, "no table meets all bounds"
    return total


class _Flow:
    """Successive cheapest paths (Bellman-Ford with a queue)."""

    def __init__(self) -> None:
        self.edges: list[list[int]] = []
        self.numbers: dict[object, int] = {}
        self.out: list[list[int]] = []

    def _number(self, node: object) -> int:
        if node not in self.numbers:
            self.numbers[node] = len(self.out)
            self.out.append([])
        return self.numbers[node]

    def add(self, source: object, target: object, capacity: int, cost: int) -> None:
        a, b = self._number(source), self._number(target)
        self.out[a].append(len(self.edges))
        self.edges.append([b, capacity, cost])
        self.out[b].append(len(self.edges))
        self.edges.append([a, 0, -cost])

    def cheapest(self, source: object, sink: object, amount: int) -> int:
        start, end = self.numbers[source], self.numbers[sink]
        total = 0
        for _ in range(amount):
            came, distance = self._search(start)
            total += distance[end]
            node = end
            while node != start:
                self.edges[came[node]][1] -= 1
                self.edges[came[node] ^ 1][1] += 1
                node = self.edges[came[node] ^ 1][0]
        return total

    def _search(self, start: int) -> tuple[dict[int, int], list[int]]:
        distance = [1 << 40] * len(self.out)
        distance[start] = 0
        came: dict[int, int] = {}
        queue, queued = deque([start]), {start}
        while queue:
            node = queue.popleft()
            queued.discard(node)
            for number in self.out[node]:
                target, capacity, cost = self.edges[number]
                if capacity and distance[node] + cost < distance[target]:
                    distance[target] = distance[node] + cost
                    came[target] = number
                    if target not in queued:
                        queued.add(target)
                        queue.append(target)
        return came, distance


def as_table(rows: list[list[int]]) -> Table:
    """Rows of device ids as a table."""
    return np.array(rows, np.uint16)
