from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pinfold_ring import Topology, assign
from pinfold_ring.scatter import hashes, hashes_of
from tests.ring import oracle
from tests.ring.clusters import regular, topologies


@settings(max_examples=150)
@given(topologies(), st.integers(0, 6), st.integers(1, 4))
def test_from_nothing_a_ring_is_balanced_and_widest_spread(
    topology: Topology, power: int, replicas: int
) -> None:
    assume(len(topology) >= replicas)
    table = assign(topology, power, replicas)
    assert table.shape == (1 << power, replicas)
    assert all(len(set(row)) == replicas for row in table.tolist())
    assert oracle.imbalance(topology, table) == []
    assert oracle.crowded(topology, table) == []


@pytest.mark.parametrize("topology", [regular(1, 40, 1), regular(4, 10, 1), regular(1, 1, 40)])
def test_every_device_shares_partitions_with_nearly_all_others(topology: Topology) -> None:
    table = assign(topology, 10, 3)
    possible = sum(1 for device in topology if device.zone != "z0" or len({*_zones(topology)}) == 1)
    peers = Counter(device for row in table.tolist() if 0 in row for device in row)
    del peers[0]
    assert len(peers) >= 0.9 * (possible - 1)
    assert max(peers.values()) <= 0.15 * peers.total()


def test_the_first_column_is_shared_fairly() -> None:
    leaders = Counter(assign(regular(3, 4, 1), 10, 3)[:, 0].tolist())
    assert all(0.6 * 1024 / 12 < count < 1.4 * 1024 / 12 for count in leaders.values())


def test_hashes_depend_on_number_and_seed_only() -> None:
    assert np.array_equal(hashes(5, 3), hashes(9, 3)[:5])
    assert np.array_equal(hashes_of(np.array([4, 1]), 3), hashes(9, 3)[[4, 1]])
    assert not np.array_equal(hashes(5, 3), hashes(5, 4))
    assert len(np.unique(hashes(100_000, 0))) == 100_000


def _zones(topology: Topology) -> list[str]:
    return [device.zone for device in topology]
