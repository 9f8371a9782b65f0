"""Clusters for the tests: small odd ones from Hypothesis, and regular ones as people build them."""

from hypothesis import strategies as st

from pinfold_ring import Device, Topology

WEIGHTS = st.sampled_from([1.0, 1.0, 1.0, 2.0, 0.1, 3.5, 10.0])


@st.composite
def topologies(draw: st.DrawFn, at_least: int = 1, at_most: int = 10) -> Topology:
    """Devices scattered over few domains, unevenly, with uneven weights."""
    count = draw(st.integers(at_least, at_most))
    return Topology(draw(odd_device(device_id)) for device_id in range(count))


@st.composite
def odd_device(draw: st.DrawFn, device_id: int) -> Device:
    """A device anywhere."""
    return Device(
        id=device_id,
        region=draw(st.sampled_from(["east", "east", "west"])),
        zone=f"z{draw(st.integers(1, 3))}",
        node=f"n{draw(st.integers(1, 4))}",
        weight=draw(WEIGHTS),
    )


@st.composite
def changed(draw: st.DrawFn, topology: Topology, carries: int) -> Topology:
    """The topology after one thing an operator may do, still with enough devices."""
    devices = topology.devices
    free = devices[-1].id + 1
    some = draw(st.sampled_from(devices))
    kinds = ["add", "weight", "zone"]
    usable = sum(device.weight > 0 for device in devices)
    if usable > carries:
        kinds += ["remove", "drain"]
    kind = draw(st.sampled_from(kinds))
    if kind == "add":
        more = draw(st.integers(1, 3))
        return Topology([*devices, *(draw(odd_device(free + index)) for index in range(more))])
    if kind == "remove":
        return topology.without(some.id)
    if kind in ("weight", "drain"):
        return topology.with_weight(some.id, 0.0 if kind == "drain" else draw(WEIGHTS))
    elsewhere = draw(odd_device(some.id))
    return topology.without(some.id).with_device(elsewhere)


def regular(zones: int, nodes: int, disks: int, weight: float = 1.0, first: int = 0) -> Topology:
    """So many zones, of so many nodes, of so many disks, all alike."""
    places = [(zone, node) for zone in range(zones) for node in range(nodes) for _ in range(disks)]
    return Topology(
        Device(id=first + index, zone=f"z{zone}", node=f"n{zone}-{node}", weight=weight)
        for index, (zone, node) in enumerate(places)
    )


def joined(left: Topology, right: Topology) -> Topology:
    """The devices of both."""
    return Topology([*left, *right])
