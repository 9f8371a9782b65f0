import msgspec
import pytest

from pinfold.cluster.map import (
    ClusterMap,
    DeviceEntry,
    NodeEntry,
    PolicyEntry,
    RingEntry,
    decode_map,
    encode_map,
)
from pinfold.codec.sealed import seal
from pinfold.model.errors import Corrupt, Invalid, NotFound
from pinfold.model.ids import NodeName

N1 = NodeName("n1")
FIRST = ClusterMap(
    cluster_id=bytes(16),
    nodes={"n1": NodeEntry(role="storage"), "s3-1": NodeEntry(role="s3")},
    devices=(
        DeviceEntry(id=0, uuid=b"a" * 16, node="n1", path="devices/n1/d1"),
        DeviceEntry(id=4, uuid=b"b" * 16, node="n1", path="devices/n1/d2"),
    ),
    policies={"blobs": PolicyEntry(copies=3, write_quorum=2, part_power=4)},
    rings={"blobs": RingEntry(epoch=1, table=b"ring")},
)


def test_a_map_survives_being_stored() -> None:
    assert decode_map(encode_map(FIRST)) == FIRST


def test_a_change_makes_the_next_version_and_leaves_the_old_one_alone() -> None:
    entry = NodeEntry(role="storage", address="unix:///n1", boot=3)
    following = FIRST.with_node(N1, entry)
    assert following.version == FIRST.version + 1
    assert following.node(N1) == entry
    assert FIRST.node(N1).boot == 0


def test_devices_of_a_node() -> None:
    assert [device.id for device in FIRST.devices_of(N1)] == [0, 4]
    assert FIRST.devices_of(NodeName("s3-1")) == ()


def test_an_unknown_node_is_not_found() -> None:
    with pytest.raises(NotFound, match="n9"):
        FIRST.node(NodeName("n9"))


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"devices": (*FIRST.devices, FIRST.devices[0])}, "device id is used twice"),
        (
            {"devices": (msgspec.structs.replace(FIRST.devices[0], node="n7"),)},
            "unknown node 'n7'",
        ),
        (
            {"policies": {"blobs": PolicyEntry(copies=3, write_quorum=4, part_power=1)}},
            "write quorum",
        ),
        ({"rings": {"other": RingEntry(epoch=1, table=b"")}}, "belongs to no policy"),
    ],
)
def test_a_map_that_contradicts_itself_cannot_be_made(part: dict, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        FIRST.next(**part)


def test_a_stored_map_that_contradicts_itself_is_corrupt() -> None:
    fields = msgspec.to_builtins(FIRST, builtin_types=(bytes,))
    fields["devices"][0]["node"] = "n7"
    with pytest.raises(Corrupt, match="n7"):
        decode_map(seal(b"PFmp", 1, msgspec.msgpack.encode(fields)))


def test_a_map_of_a_later_format_is_refused() -> None:
    with pytest.raises(Corrupt, match="format 2"):
        decode_map(seal(b"PFmp", 2, b""))
