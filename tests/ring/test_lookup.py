import mmap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from pinfold_ring import BadTopology, Device, Ring, RingError, Topology, build
from tests.ring.clusters import regular, topologies


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 6))
def test_a_lookup_is_the_top_bits_of_the_hash(salt: bytes, key: bytes, power: int) -> None:
    ring = build("r", regular(3, 1, 2), power, 3, salt=salt)
    digest = int.from_bytes(xxhash.xxh3_64_digest(salt + key), "big")
    bits = format(digest, "064b")[:power]
    assert ring.partition(key) == int(bits or "0", 2)
    assert ring.devices_of(ring.partition(key)) == tuple(ring.table[ring.partition(key)].tolist())


@pytest.mark.parametrize("partition", [-1, -16, 16, 1 << 40])
def test_a_partition_that_is_not_there_is_an_index_error(partition: int) -> None:
    ring = build("r", regular(3, 1, 2), 4, 3)
    with pytest.raises(IndexError, match="is not from 0 to 15"):
        ring.devices_of(partition)


@given(topologies(at_least=3), st.integers(1, 3), st.integers(0, 7))
def test_handoffs_are_all_other_devices_once_new_domains_first(
    topology: Topology, replicas: int, partition: int
) -> None:
    ring = build("r", topology.with_weight(0, 1).devices, 3, replicas)
    primaries = ring.devices_of(partition)
    handoffs = list(ring.handoffs(partition))
    usable = {device.id for device in ring.devices if device.weight > 0}
    assert sorted(handoffs) == sorted(usable - set(primaries))
    assert handoffs == list(ring.handoffs(partition))
    _assert_widest_first(ring, primaries, handoffs)


def _assert_widest_first(ring: Ring, primaries: tuple[int, ...], handoffs: list[int]) -> None:
    """No handoff opens a wider new domain than one before it did."""
    by_id = {device.id: device for device in ring.devices}
    chosen = [by_id[device_id].place for device_id in primaries]
    widths = []
    for device_id in handoffs:
        place = by_id[device_id].place
        new = [depth for depth in (1, 2, 3) if all(place[:depth] != c[:depth] for c in chosen)]
        widths.append(min(new, default=4))
        chosen.append(place)
    assert widths == sorted(widths)


def test_first_handoffs_differ_between_partitions() -> None:
    ring = build("r", regular(4, 4, 1), 8, 3)
    first = Counter(next(ring.handoffs(partition)) for partition in range(256))
    assert len(first) == 16
    assert max(first.values()) < 4 * 256 / 16


def test_weightless_devices_are_no_handoffs() -> None:
    ring = build("r", regular(3, 1, 2).with_weight(5, 0), 4, 3)
    assert all(5 not in ring.handoffs(partition) for partition in range(16))


def test_a_ring_with_exactly_its_replicas_has_no_handoffs() -> None:
    assert list(build("r", regular(3, 1, 1), 2, 3).handoffs(1)) == []


def test_epochs_name_the_ring_before() -> None:
    devices = regular(3, 2, 1).devices
    first = build("r", devices, 4, 2, salt=b"s")
    second = build("r", devices[1:], 4, 2, previous=first)
    assert (first.epoch, first.previous_epoch, first.previous_checksum) == (1, 0, b"")
    assert (second.epoch, second.previous_epoch) == (2, 1)
    assert second.previous_checksum == first.checksum
    assert second.salt == b"s"


def test_what_would_move_every_key_is_refused() -> None:
    devices = regular(3, 2, 1).devices
    first = build("r", devices, 4, 2, salt=b"s")
    for name, power, replicas, salt in [
        ("q", 4, 2, b"s"),
        ("r", 5, 2, b"s"),
        ("r", 4, 3, b"s"),
        ("r", 4, 2, b"t"),
    ]:
        with pytest.raises(RingError, match="cannot change"):
            build(name, devices, power, replicas, previous=first, salt=salt)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"part_power": 23}, "part power"),
        ({"part_power": -1}, "part power"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 33}, "replicas"),
        ({"replicas": 7}, "need at least 7 devices"),
        ({"name": ""}, "name"),
        ({"salt": b"x" * 65}, "salt"),
    ],
)
def test_a_ring_of_senseless_size_is_refused(changes: dict, complaint: str) -> None:
    arguments = {"name": "r", "part_power": 4, "replicas": 2} | changes
    with pytest.raises(RingError, match=complaint):
        build(devices=regular(3, 2, 1), **arguments)


def test_no_devices_at_all() -> None:
    with pytest.raises(BadTopology, match="there are 0"):
        build("r", [], 4, 2)


def test_a_mapped_ring_is_read_where_it_lies(tmp_path: Path) -> None:
    ring = build("r", [Device(id=65_534), Device(id=3, zone="z2")], 6, 2)
    path = tmp_path / "r.ring"
    path.write_bytes(ring.to_bytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        loaded = Ring.from_bytes(memoryview(mapped))
        assert loaded.devices_of(7) == ring.devices_of(7)
        assert np.shares_memory(loaded.table, np.frombuffer(mapped, np.uint8))
        assert not loaded.table.flags.writeable
        del loaded
