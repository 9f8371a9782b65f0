from typing import Any

import msgspec
import pytest

from pinfold.admin.gauges import cluster_gauges
from pinfold.admin.report import Report, report, waiting_for
from pinfold.admin.stopping import objections
from pinfold.cluster.map import ClusterMap, DeviceEntry, NodeEntry
from pinfold.node.formation import first_policies, first_rings

NODES = ("n1", "n2", "n3")
DEVICES = tuple(
    DeviceEntry(
        id=number, uuid=name.encode() * 8, node=name, path=f"devices/{name}", zone=f"z-{name}"
    )
    for number, name in enumerate(NODES)
)
POLICIES = first_policies()
POLICIES["metadata"] = msgspec.structs.replace(POLICIES["metadata"], part_power=2)
MAP = ClusterMap(
    cluster_id=b"c" * 16,
    nodes={
        **{name: NodeEntry(role="storage") for name in NODES},
        "s3-1": NodeEntry(role="s3"),
    },
    devices=DEVICES,
    policies=POLICIES,
    rings=first_rings(POLICIES, DEVICES),
)


def answers(**changes: Any) -> dict[str, Any]:
    """All nodes as they answer when all is well; n1 leads every group."""
    found: dict[str, Any] = {"s3-1": {"pid": 9, "boot": 1}}
    for number, name in enumerate(NODES):
        device = {
            "id": number,
            "state": "serving",
            "free_bytes": 60,
            "total_bytes": 100,
            "quarantined": 0,
        }
        groups = [{"group": g, "view": 0, "lagging": []} for g in range(4)] if name == "n1" else []
        found[name] = {"pid": number, "boot": 1, "devices": [device], "groups": groups}
    return {**found, **changes}


def judged(found: dict[str, Any], volumes: list[dict[str, Any]] | None = None) -> Report:
    return report(MAP, found, volumes or [], version="1")


def test_all_well_is_healthy() -> None:
    found = judged(answers())
    assert found.state == "healthy"
    assert found.findings == []
    assert waiting_for(found) == []


def test_a_dead_storage_node_degrades_while_its_groups_are_led_elsewhere() -> None:
    up = answers()
    del up["n3"]
    found = judged(up)
    assert found.state == "degraded"
    assert found.findings[0].what == (
        "storage node n3 is down; its data is served from other copies"
    )
    assert found.devices[2]["state"] == "unreachable"
    assert waiting_for(found) == []


def test_a_group_without_primary_makes_data_unavailable() -> None:
    up = answers()
    up["n1"]["groups"].pop()
    found = judged(up)
    assert found.state == "unavailable"
    assert waiting_for(found) == ["1 of 4 groups have no primary"]


def test_a_primary_that_is_left_alone_does_not_count() -> None:
    up = answers()
    for group in up["n1"]["groups"]:
        group["members"] = [0, 1, 2]
    del up["n2"]
    assert judged(up).groups["with_primary"] == 4
    del up["n3"]
    found = judged(up)
    assert found.state == "unavailable"
    assert found.groups["with_primary"] == 0
    assert waiting_for(found) == ["4 of 4 groups have no primary"]


def test_volumes_that_cannot_be_read_are_unknown_not_none() -> None:
    found = report(MAP, answers(), None, version="1")
    assert found.volumes is None
    assert "pinfold_cluster_volumes" not in cluster_gauges(found)


def test_a_dead_front_end_makes_its_service_unavailable() -> None:
    up = answers()
    del up["s3-1"]
    found = judged(up)
    assert found.state == "unavailable"
    assert waiting_for(found) == ["s3-1 does not answer"]


def test_a_front_end_that_is_still_starting_is_waited_for() -> None:
    up = answers()
    up["s3-1"]["serving"] = False
    assert waiting_for(judged(up)) == ["s3-1 is not serving yet"]


def test_of_two_who_claim_a_group_the_higher_view_is_shown() -> None:
    up = answers()
    up["n2"]["groups"] = [{"group": 0, "view": 4, "lagging": []}]
    assert judged(up).groups["items"][0]["node"] == "n2"


def test_a_lagging_member_degrades() -> None:
    up = answers()
    up["n1"]["groups"][2]["lagging"] = [1]
    found = judged(up)
    assert (found.state, found.groups["degraded"]) == ("degraded", 1)


def test_a_stopped_and_a_full_device_are_told_with_what_to_do() -> None:
    up = answers()
    up["n1"]["devices"][0].update(state="stopped", reason="write failed: EIO")
    up["n2"]["devices"][0].update(free_bytes=5)
    up["n3"]["devices"][0].update(quarantined=3)
    found = judged(up)
    told = [finding.what for finding in found.findings]
    assert "device 0 on n1 has stopped: write failed: EIO" in told
    assert "the file system of device 1 on n2 is 95% full" in told
    assert "device 2 on n3 holds 3 blobs that failed their checksum" in told
    assert all(finding.do for finding in found.findings)


def test_a_slow_device_is_named_with_what_it_takes() -> None:
    up = answers()
    up["n2"]["devices"][0].update(slow=True, flush_s=0.25)
    found = judged(up)
    assert found.state == "degraded"
    assert "device 1 on n2 is slow: its flushes take 0.250 s" in found.findings[0].what
    assert 'device_slow{device="1",on="n2"} 1.0' in cluster_gauges(found)
    assert 'device_slow{device="0",on="n1"} 0.0' in cluster_gauges(found)


def test_a_volume_with_devices_out_of_sync_degrades() -> None:
    found = judged(answers(), [{"name": "disk1", "size_bytes": 1, "out": [2]}])
    assert found.state == "degraded"
    assert "disk1" in found.findings[0].what


def test_gauges_tell_the_same() -> None:
    up = answers()
    del up["n3"]
    text = cluster_gauges(judged(up, [{"name": "disk1", "size_bytes": 5}]))
    assert 'pinfold_cluster_state{state="degraded"} 1.0' in text
    assert 'pinfold_cluster_node_up{name="n3",role="storage"} 0.0' in text
    assert "pinfold_cluster_groups_with_primary 4.0" in text
    assert "pinfold_cluster_volume_bytes 5.0" in text


def worker(**changes: Any) -> dict[str, Any]:
    known = {
        "name": "replicator",
        "state": "idle",
        "queued": 0,
        "queued_bytes": 0,
        "left_s": 0.0,
        "last_error": "",
        "blobs": 0,
        "single": 0,
    }
    return {**known, **changes}


def test_missing_copies_are_told_with_what_is_left_to_do() -> None:
    up = answers()
    up["n1"]["care"] = [worker(), {**worker(), "name": "collector"}]
    assert judged(up).state == "healthy"
    up["n1"]["care"][0] = worker(blobs=7, single=2, queued_bytes=3 << 20, left_s=4.0)
    up["n3"]["care"] = [worker(blobs=5, queued_bytes=1 << 20, left_s=9.0)]
    found = judged(up)
    assert found.state == "degraded"
    (finding,) = found.findings
    assert finding.what == (
        "12 blobs lack copies (2 of them have one copy left); being repaired, 4.0 MiB in about 9 s"
    )
    assert [(one["node"], one["name"]) for one in found.care] == [
        ("n1", "replicator"),
        ("n1", "collector"),
        ("n3", "replicator"),
    ]


def test_a_worker_that_a_bug_has_ended_is_told() -> None:
    up = answers()
    up["n2"]["care"] = [worker(state="stopped", last_error="a bug")]
    (finding,) = judged(up).findings
    assert "replicator of n2 has stopped" in finding.what
    assert "n2.log" in finding.do


def told(found: Report) -> str:
    return "\n".join(f"{one.severity}: {one.what} -> {one.do}" for one in found.findings)


def test_with_two_of_three_nodes_down_nothing_is_served_from_other_copies() -> None:
    up = answers()
    del up["n2"], up["n3"]
    up["n1"]["groups"] = []
    found = judged(up)
    assert found.state == "unavailable"
    assert "served from other copies" not in told(found)
    assert "4 of 4 groups have no primary" in found.findings[0].what
    assert "device 1 on n2, device 2 on n3" in found.findings[0].do
    assert "no object and no volume can be written" in told(found)


def test_without_a_supervisor_that_restarts_nobody_is_said_to() -> None:
    up = answers()
    del up["n3"]
    found = report(MAP, up, [], version="1", restarts=False)
    assert "pinfold node start n3" in told(found)
    assert "supervisor starts it again" not in told(found)
    told_of = told(judged(up))
    assert "supervisor starts it again, unless it was stopped by command" in told_of
    assert "pinfold node start n3" in told_of


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("absent", "mount the disk again"),
        ("index", "pinfold device rebuild-index devices/n3"),
        ("foreign", "mount the right one"),
        ("damaged", "pinfold device check devices/n3"),
        (None, "smartctl"),
    ],
)
def test_what_stopped_a_device_decides_what_to_do(kind: str | None, advice: str) -> None:
    up = answers()
    up["n3"]["devices"] = [{"id": 2, "state": "stopped", "reason": "why", "refused": kind}]
    found = judged(up)
    (finding,) = found.findings
    assert finding.what == "device 2 on n3 has stopped: why"
    assert advice in finding.do


def test_copies_that_belong_on_a_lost_device_are_not_said_to_be_under_way() -> None:
    up = answers()
    up["n3"]["devices"] = [{"id": 2, "state": "stopped", "reason": "gone", "refused": "absent"}]
    up["n1"]["care"] = [worker(blobs=413, queued_bytes=78 << 20, left_s=1.0)]
    text = told(judged(up))
    assert "413 blobs lack copies, 78.0 MiB; those that belong on device 2 on n3" in text
    assert "being repaired" not in text


def test_full_devices_are_full_whatever_share_is_the_reserve() -> None:
    up = answers()
    for name in NODES:
        up[name]["devices"][0].update(state="full", free_bytes=500 << 20, total_bytes=1 << 30)
    found = judged(up)
    assert found.state == "unavailable"
    assert "no object and no volume can be written" in found.findings[0].what
    assert "make room on device 0 on n1" in found.findings[0].do
    assert "is full: it refuses writes (507, ENOSPC), with 500 MiB" in told(found)
    up["n1"]["devices"][0]["state"] = up["n2"]["devices"][0]["state"] = "serving"
    assert judged(up).state == "degraded"


def test_a_volume_out_of_sync_is_told_by_why() -> None:
    up = answers()
    volume = {"name": "disk1", "size_bytes": 1, "out": [2]}
    assert "nothing: they are being brought up to date" in told(judged(up, [volume]))
    del up["n3"]
    assert "device 2 must serve again" in told(judged(up, [volume]))


def test_a_volume_at_rest_is_not_well_before_its_copies_were_looked_at() -> None:
    up = led(answers())
    for answer in up.values():
        for device in answer.get("devices", ()):
            device["boot"] = 5
    well = {"name": "disk1", "size_bytes": 1, "out": [], "seen": {"0": 5, "1": 5, "2": 5}}
    assert judged(up, [well]).state == "healthy"
    restarted = {**well, "seen": {"0": 5, "1": 4, "2": 5}}
    found = judged(up, [restarted])
    assert found.state == "degraded"
    assert "not proved whole since device 1 restarted" in found.findings[0].what
    assert ["disk1" in one for one in objections(MAP, found, "n3")] == [True]
    unsettled = judged(up, [{**well, "seen": {}, "unsettled": True}])
    assert unsettled.state == "degraded"
    assert "a gateway that died" in unsettled.findings[0].what
    assert objections(MAP, unsettled, "n3")


def test_nodes_and_devices_have_the_same_keys_up_or_down() -> None:
    up = answers()
    whole = judged(up)
    del up["n3"]
    found = judged(up)
    assert {key for node in found.nodes for key in node} == set(found.nodes[2])
    assert set(whole.nodes[2]) == set(found.nodes[2])
    assert set(whole.devices[2]) == set(found.devices[2])
    assert found.nodes[2]["pid"] is None


def led(up: dict[str, Any]) -> dict[str, Any]:
    """Every group has all three devices as members."""
    for group in up["n1"]["groups"]:
        group["members"] = [0, 1, 2]
    return up


def test_a_node_may_be_stopped_while_the_others_carry_everything() -> None:
    found = judged(led(answers()))
    for name in NODES:
        assert objections(MAP, found, name) == []


def test_a_front_end_may_be_stopped_while_another_one_serves_its_clients() -> None:
    assert objections(MAP, judged(answers()), "s3-1") == [
        "s3-1 is the only front end for s3: its clients would get no answer meanwhile"
    ]
    two = msgspec.structs.replace(MAP, nodes={**MAP.nodes, "s3-2": NodeEntry(role="s3")})
    for other, objected in (({"pid": 8, "boot": 1}, False), (None, True)):
        up = {name: one for name, one in answers(**{"s3-2": other}).items() if one}
        found = report(two, up, [], version="1")
        assert bool(objections(two, found, "s3-1")) is objected
        assert objections(two, found, "s3-2") == []  # it is down already, or not alone


def test_advice_names_a_device_where_its_machine_has_it() -> None:
    up = answers()
    up["n3"]["devices"][0].update(state="stopped", refused="index", path="/srv/d/n3")
    (finding,) = judged(up).findings
    assert "`pinfold device check /srv/d/n3`" in finding.do


def test_stopping_a_second_node_is_objected_to() -> None:
    up = led(answers())
    del up["n3"]
    against = objections(MAP, judged(up), "n2")
    assert any("4 of 4 groups" in one for one in against)
    assert any("take new objects" in one for one in against)
    assert any("volumes would wait" in one for one in against)
    assert objections(MAP, judged(up), "n3") == []  # it is down already


def test_what_is_not_in_step_is_objected_to() -> None:
    up = led(answers())
    up["n1"]["groups"][0]["lagging"] = [1]
    assert objections(MAP, judged(up), "n3") == [
        "1 of 4 groups would have no majority of current members"
    ]
    volume = {"name": "disk1", "size_bytes": 1, "out": [2]}
    found = judged(led(answers()), [volume])
    assert objections(MAP, found, "n1") == ["volume disk1 has devices out of sync elsewhere: 2"]
    assert objections(MAP, found, "n3") == []
    up = led(answers())
    up["n1"]["care"] = [worker(blobs=3, single=2)]
    assert "2 blobs have one copy left" in objections(MAP, judged(up), "n2")[0]
    unknown = report(MAP, led(answers()), None, version="1")
    assert "unknown" in objections(MAP, unknown, "n1")[0]
