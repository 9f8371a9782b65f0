from fractions import Fraction
from itertools import product
from math import ceil, floor

from hypothesis import assume, given
from hypothesis import strategies as st

from pinfold_ring import Device, Topology
from pinfold_ring.shares import LEVELS, Shares, Tree, quotas
from tests.ring import oracle
from tests.ring.clusters import topologies


@given(topologies(), st.integers(1, 3), st.integers(0, 5))
def test_shares_match_the_naive_ones(topology: Topology, replicas: int, power: int) -> None:
    assume(len(topology) >= replicas)
    shares = Shares.of(Tree.of(topology.devices), 1 << power, replicas)
    naive = oracle.domain_shares(topology.devices, 1 << power, replicas)
    for level in range(len(LEVELS)):
        first = {int(tier): at for at, tier in reversed(list(enumerate(shares.tree.tiers[level])))}
        for tier, fair in enumerate(shares.fair[level]):
            path = oracle.paths(shares.tree.devices[first[tier]])[level]
            assert fair == naive[path]
            assert shares.low[level][tier] == floor(fair / (1 << power))
            assert shares.high[level][tier] == ceil(fair / (1 << power))


@given(topologies(at_most=7), st.integers(1, 3), st.integers(0, 3), st.data())
def test_no_other_rounding_moves_less(
    topology: Topology, replicas: int, power: int, data: st.DataObject
) -> None:
    assume(len(topology) >= replicas)
    parts = 1 << power
    shares = Shares.of(Tree.of(topology.devices), parts, replicas)
    have = [data.draw(st.integers(0, parts)) for _ in topology]
    quota = quotas(shares, have)
    best = min(
        sum(max(0, held - kept) for held, kept in zip(have, rounding, strict=True))
        for rounding in _roundings(shares, parts * replicas)
    )
    assert _allowed(shares, tuple(quota[-1].tolist()))
    assert int(sum(quota[-1])) == parts * replicas
    assert sum(max(0, held - int(q)) for held, q in zip(have, quota[-1], strict=True)) == best


def test_decimal_weights_add_up_exactly() -> None:
    zones = [("a", 0.1), ("a", 0.2), ("b", 0.3)]
    devices = [
        Device(id=index, zone=zone, node=str(index), weight=weight)
        for index, (zone, weight) in enumerate(zones)
    ]
    shares = Shares.of(Tree.of(devices), 8, 2)
    assert shares.fair[1] == (Fraction(8), Fraction(8))
    assert shares.high[1].tolist() == [1, 1]


def test_a_device_too_heavy_gets_every_partition_once_and_the_rest_goes_to_others() -> None:
    devices = [Device(id=0, weight=100), *(Device(id=index) for index in range(1, 5))]
    shares = Shares.of(Tree.of(devices), 8, 3)
    assert shares.fair[-1] == (Fraction(8), *[Fraction(4)] * 4)


def _roundings(shares: Shares, total: int) -> list[tuple[int, ...]]:
    choices = [sorted({floor(share), ceil(share)}) for share in shares.fair[-1]]
    return [
        rounding
        for rounding in product(*choices)
        if sum(rounding) == total and _allowed(shares, rounding)
    ]


def _allowed(shares: Shares, rounding: tuple[int, ...]) -> bool:
    """Every device rounds its fair share and every domain keeps room for the widest spread."""
    for fair, kept in zip(shares.fair[-1], rounding, strict=True):
        if kept not in (floor(fair), ceil(fair)):
            return False
    for level in range(len(LEVELS)):
        for tier in range(shares.tree.count(level)):
            inside = sum(
                kept
                for kept, its in zip(rounding, shares.tree.tiers[level], strict=True)
                if its == tier
            )
            low, high = shares.low[level][tier], shares.high[level][tier]
            if not low * shares.parts <= inside <= high * shares.parts:
                return False
    return True
