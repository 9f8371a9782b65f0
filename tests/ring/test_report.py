from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold_ring import RingError, Topology, balance, build, compare, dispersion
from pinfold_ring.report import changed_devices
from tests.ring import oracle
from tests.ring.clusters import changed, regular, topologies


@given(topologies(at_least=3), st.data())
def test_a_plan_counts_what_moves(topology: Topology, data: st.DataObject) -> None:
    after_topology = data.draw(changed(topology, 2))
    before = build("r", topology.devices, 4, 2)
    after = before.follow(after_topology)
    plan = compare(before, after, total_bytes=3200, device_bytes_per_second=1)
    moved = oracle.moves(before.table, after.table)
    assert plan.moves == sum(moved)
    assert plan.bytes == 100 * plan.moves
    assert plan.lowest_in_place == 2 - max(moved)
    histogram = Counter(moved)
    assert plan.partitions_by_moves == tuple(histogram[n] for n in range(max(moved) + 1))
    was = Counter(before.table.ravel().tolist())
    will = Counter(after.table.ravel().tolist())
    for change in plan.devices:
        device_id = change.device.id
        assert (change.before, change.after) == (was[device_id], will[device_id])
        assert change.after == change.before + change.incoming - change.outgoing
        assert change.incoming_bytes == 100 * change.incoming
    busiest = max(max(change.incoming, change.outgoing) for change in plan.devices)
    assert plan.hours == pytest.approx(busiest * 100 / 3600)


def test_forced_and_remaining_moves_are_told() -> None:
    topology = regular(4, 2, 2)
    before = build("r", topology.devices, 6, 3)
    gone = sum(row.count(3) for row in before.table.tolist())
    plan = compare(before, before.follow(topology.without(3)))
    assert (plan.forced, plan.moves, plan.remaining) == (gone, gone, 0)
    assert (plan.bytes, plan.hours) == (None, None)
    double = Topology([*topology, *(replace(d, id=d.id + 50) for d in topology)])
    plan = compare(before, before.follow(double))
    assert plan.forced == 0
    assert plan.remaining == 3 * 64 // 2 - plan.moves > 0


def test_two_lost_devices_leave_some_partitions_with_one_replica_in_place() -> None:
    topology = regular(4, 2, 1)
    before = build("r", topology.devices, 6, 3)
    plan = compare(before, before.follow(topology.without(0).without(2)))
    assert plan.lowest_in_place == 1


def test_rings_of_different_size_are_not_compared() -> None:
    topology = regular(3, 1, 1)
    with pytest.raises(RingError, match="cannot be compared"):
        compare(build("r", topology, 4, 2), build("r", topology, 5, 2))


@given(topologies(at_least=3))
def test_dispersion_and_balance_match_the_naive_count(topology: Topology) -> None:
    ring = build("r", topology.devices, 4, 3)
    places = {device.id: device for device in ring.devices}
    shares = oracle.domain_shares(topology.devices, 16, 3)
    for domain in dispersion(ring):
        inside = Counter(
            sum(places[i].place[: len(domain.path)] == domain.path for i in row)
            for row in ring.table.tolist()
        )
        assert domain.counts == tuple(inside[count] for count in range(4))
        assert domain.crowded == 0
        assert domain.fair == pytest.approx(float(shares[domain.path]) / 16)
    held = Counter(ring.table.ravel().tolist())
    for holding in balance(ring):
        assert holding.replicas == held[holding.device.id]
        assert abs(holding.replicas - holding.fair) < 1
        assert holding.fair * (1 + holding.percent / 100) == pytest.approx(holding.replicas)


def test_crowded_partitions_are_counted() -> None:
    topology = regular(3, 2, 1)
    ring = build("r", topology.devices, 4, 3)
    merged = Topology(replace(d, zone="z0") if d.zone == "z1" else d for d in topology)
    narrow = replace(
        ring,
        topology=Topology(
            [
                *merged,
                replace(merged.devices[0], id=9, zone="z1"),
                replace(merged.devices[0], id=10, zone="z4"),
            ]
        ),
    )
    spread = {domain.path: domain for domain in dispersion(narrow)}
    assert spread["r1", "z0"].counts == (0, 0, 16, 0)
    assert spread["r1", "z0"].allowed == 2
    assert spread["r1", "z2"].crowded == 0


def test_changed_devices_are_named() -> None:
    before = regular(3, 1, 1)
    after = before.without(0).with_weight(1, 9).with_device(replace(before.devices[0], id=7))
    added, removed, changed_ = changed_devices(before, after)
    assert [[d.id for d in group] for group in (added, removed, changed_)] == [[7], [0], [1]]
