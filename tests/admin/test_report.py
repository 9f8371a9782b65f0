from typing import Any

from pinfold.admin.gauges import cluster_gauges
from pinfold.admin.report import Report, report, waiting_for
from pinfold.cluster.map import ClusterMap, DeviceEntry, NodeEntry, PolicyEntry

NODES = ("n1", "n2", "n3")
MAP = ClusterMap(
    cluster_id=b"c" * 16,
    nodes={
        **{name: NodeEntry(role="storage") for name in NODES},
        "s3-1": NodeEntry(role="s3"),
    },
    devices=tuple(
        DeviceEntry(id=number, uuid=name.encode() * 8, node=name, path=f"devices/{name}")
        for number, name in enumerate(NODES)
    ),
    policies={"metadata": PolicyEntry(copies=3, write_quorum=2, part_power=2)},
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
    assert "n3 is down" in found.findings[0].what
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
    assert "device 1 on n2 is 95% full" in told
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
