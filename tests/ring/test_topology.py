from dataclasses import replace

import pytest
from hypothesis import given

from pinfold_ring import BadTopology, Device, Topology
from tests.ring.clusters import topologies


@given(topologies())
def test_the_order_devices_are_given_in_does_not_matter(topology: Topology) -> None:
    assert Topology(reversed(topology.devices)) == topology


@given(topologies())
def test_fields_round_trip(topology: Topology) -> None:
    assert [Device.from_fields(device.to_fields()) for device in topology] == list(topology)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"id": -1}, "device id -1"),
        ({"id": 65_535}, "device id 65535"),
        ({"id": "7"}, "device id '7'"),
        ({"id": True}, "device id True"),
        ({"id": 1, "zone": ""}, "zone has no name"),
        ({"id": 1, "zone": 3}, "zone 3 is not text"),
        ({"id": 1, "node": "x" * 256}, "node is longer"),
        ({"id": 1, "region": "\ud800"}, "region is not valid Unicode"),
        ({"id": 1, "weight": -0.5}, "negative"),
        ({"id": 1, "weight": float("nan")}, "not a finite number"),
        ({"id": 1, "weight": float("inf")}, "not a finite number"),
        ({"id": 1, "weight": "1"}, "not a finite number"),
        ({"id": 1, "uuid": b"short"}, "16 bytes"),
    ],
)
def test_a_device_that_makes_no_sense_is_refused(fields: dict, complaint: str) -> None:
    with pytest.raises(BadTopology, match=complaint):
        Device(**fields)


def test_ids_and_uuids_are_used_once() -> None:
    one = Device(id=1, uuid=b"u" * 16)
    with pytest.raises(BadTopology, match="id 1 is used twice"):
        Topology([one, Device(id=1, zone="z2")])
    with pytest.raises(BadTopology, match="devices 1 and 2 have the same uuid"):
        Topology([one, replace(one, id=2)])
    assert len(Topology([Device(id=1), Device(id=2)])) == 2


def test_changes_give_a_new_topology() -> None:
    topology = Topology([Device(id=1), Device(id=2)])
    assert topology.with_weight(2, 0.5).device(2).weight == 0.5
    assert [device.id for device in topology.without(1)] == [2]
    assert topology.with_device(Device(id=0)).devices[0].id == 0
    assert [device.weight for device in topology] == [1.0, 1.0]
    with pytest.raises(BadTopology, match="no device 9"):
        topology.without(9)
    with pytest.raises(BadTopology, match="used twice"):
        topology.with_device(Device(id=2))


def test_weightless_devices_carry_nothing() -> None:
    topology = Topology([Device(id=1), Device(id=2, weight=0)])
    topology.check_carries(1)
    with pytest.raises(BadTopology, match=r"2 replicas need at least 2 devices.*there are 1"):
        topology.check_carries(2)
