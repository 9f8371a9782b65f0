"""`pinfold up` with real processes: start, loss, stop, and what it refuses."""

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pinfold.env.osdisk import OsDisk
from pinfold.node.boot import hold
from pinfold.node.layout import Layout
from tests.running import Cluster, cluster, free_ports, gone, kill
from tests.wire_clients import S3Client

pytestmark = pytest.mark.cluster

NAMES = ("n1", "n2", "n3", "s3-1", "nbd-1", "admin-1")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One cluster for the tests that leave it as they found it."""
    with cluster(tmp_path_factory.mktemp("up") / "data") as running:
        yield running


def until(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.05)


def test_ready_names_endpoints_keys_and_processes(shared: Cluster) -> None:
    facts = shared.facts
    base = shared.base_port
    assert facts["ready"] is True
    assert facts["s3"] == f"http://127.0.0.1:{base}"
    assert facts["nbd"] == f"nbd://127.0.0.1:{base + 2}"
    assert facts["admin"] == f"http://127.0.0.1:{base + 3}"
    assert [node["name"] for node in facts["nodes"]] == ["n1", "n2", "n3"]
    assert all(Path(node["data"]).is_dir() for node in facts["nodes"] + facts["frontends"])
    assert len({node["pid"] for node in facts["nodes"] + facts["frontends"]}) == 6


def test_status_is_healthy_and_names_everything(shared: Cluster) -> None:
    found = shared.json("status")
    assert found["state"] == "healthy", found["findings"]
    assert {node["name"]: node["state"] for node in found["nodes"]} == dict.fromkeys(NAMES, "up")
    assert found["groups"]["with_primary"] == found["groups"]["total"] > 0
    text = shared.pinfold("status").stdout
    assert "is healthy" in text
    assert all(name in text for name in NAMES)


def test_everything_listens_on_loopback_only(shared: Cluster) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells our own address
        except OSError:
            return  # this machine has no other address
        address = probe.getsockname()[0]
    for offset in (0, 2, 3):
        with socket.socket() as client:
            assert client.connect_ex((address, shared.base_port + offset)) != 0


def test_a_second_up_on_the_same_directory_is_refused(shared: Cluster) -> None:
    second = Cluster(shared.data, free_ports())
    assert "is running" in second.end_refused()
    assert shared.json("status")["state"] == "healthy"


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    base = free_ports()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", base + 2))
        taken.listen()
        said = Cluster(tmp_path / "data", base).end_refused()
    assert f"port {base + 2} for nbd" in said
    assert not (tmp_path / "data").exists()


def test_a_killed_storage_node_comes_back_with_a_higher_boot(shared: Cluster) -> None:
    before = {node["name"]: node for node in shared.json("status")["nodes"]}
    kill(before["n2"]["pid"])

    def back() -> bool:
        found = shared.json("status")
        now = {node["name"]: node for node in found["nodes"]}["n2"]
        return now["state"] == "up" and now["boot"] > before["n2"]["boot"]

    until(back, "n2 up again")
    until(lambda: shared.json("status")["state"] == "healthy", "healthy again")


def test_sigterm_stops_all_processes_and_the_next_start_keeps_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with cluster(data) as first:
        pids = first.pids()
        facts = first.facts
        assert first.pinfold("volume", "create", "disk1", "64MiB").returncode == 0
        first.end()
        assert first.process.returncode == 0
        assert all(gone(pid, 0) for pid in pids.values())
    with cluster(data) as second:
        assert second.facts["secret_key"] == facts["secret_key"]
        volumes = second.json("volume", "list")
        assert [volume["name"] for volume in volumes] == ["disk1"]


def test_when_the_supervisor_is_killed_its_processes_end(tmp_path: Path) -> None:
    with cluster(tmp_path / "data") as running:
        pids = running.pids()
        os.kill(running.process.pid, signal.SIGKILL)
        assert all(gone(pid) for pid in pids.values())
    with cluster(tmp_path / "data") as again:
        assert again.json("status")["state"] == "healthy"


def test_no_restart_leaves_a_killed_process_down(tmp_path: Path) -> None:
    with cluster(tmp_path / "data", "--no-restart") as running:
        kill(running.pids()["n3"])

        def degraded() -> bool:
            found = running.json("status")
            return found["state"] == "degraded" and "n3 is down" in found["findings"][0]["what"]

        until(degraded, "n3 reported down and the rest serving")


def test_a_long_data_path_works(tmp_path: Path) -> None:
    with cluster(tmp_path / ("deep" * 25) / "data") as running:
        assert running.json("status")["state"] == "healthy"


def s3_status(running: Cluster, access_key: str, secret: str) -> int:
    """What a listing of buckets answers to a key."""
    signer = S3Client(running.facts["s3"], access_key, secret, timeout_s=30)
    try:
        return signer.do("GET", "/")[0]
    finally:
        signer.close()


def test_keys_and_secrets_are_replaced_while_the_cluster_serves(tmp_path: Path) -> None:
    with cluster(tmp_path / "data") as running:
        old = running.facts["access_key"], running.facts["secret_key"]
        assert s3_status(running, *old) == 200
        alice = running.json("user", "create", "alice")
        pair = alice["access_key"], alice["secret_key"]
        assert s3_status(running, *pair) == 200
        running.json("user", "disable", "alice")
        until(lambda: s3_status(running, *pair) == 403, "alice refused", 10)
        running.json("user", "enable", "alice")
        until(lambda: s3_status(running, *pair) == 200, "alice allowed", 10)

        running.json("secret", "rotate", "root-key")
        shown = running.json("secret", "show")
        assert s3_status(running, shown["access_key"], shown["secret_key"]) == 200
        until(lambda: s3_status(running, *old) == 403, "the old root key refused", 10)

        running.json("secret", "rotate", "token")
        until(lambda: running.pinfold("user", "list").returncode == 0, "the new token taken", 10)
        running.json("secret", "rotate", "cluster")
        until(lambda: running.json("status")["state"] == "healthy", "all nodes met again")
        assert s3_status(running, shown["access_key"], shown["secret_key"]) == 200

        logs = running.data / "logs"
        lines = [json.loads(line) for line in (logs / "s3-1.access.log").read_text().splitlines()]
        assert ("alice", 200, "ListBuckets") in {
            (line["user"], line["status"], line["operation"]) for line in lines
        }
        audit = (logs / "admin-1.audit.log").read_text()
        assert "/v1/users/alice" in audit
        assert alice["secret_key"] not in audit + str(lines)
        arguments = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.pids().values()]
        assert not any(shown["secret_key"].encode() in line for line in arguments)


def test_a_node_is_stopped_and_started_on_command_if_clients_will_not_notice(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path / "data") as running:
        assert running.json("node", "check", "n2")["ok"] is True
        running.json("node", "stop", "n2")
        found = {node["name"]: node for node in running.json("status")["nodes"]}
        assert (found["n2"]["state"], found["n2"]["pid"]) == ("down", None)
        assert "`pinfold node start n2`" in running.pinfold("status").stdout
        refused = running.pinfold("node", "stop", "n3")
        assert refused.returncode == 1
        assert "would have no majority" in refused.stderr
        assert running.pinfold("node", "check", "n3").returncode == 1
        running.json("node", "start", "n2")
        until(lambda: running.json("status")["state"] == "healthy", "healthy again")
        running.json("node", "restart", "n3")
        assert running.pinfold("node", "stop", "n9").returncode == 1
        assert "only front end" in running.pinfold("node", "stop", "s3-1").stderr
        orders = Layout.at(running.data).socket_dir() / "orders"
        with contextlib.closing(hold(OsDisk(), orders, "")):  # somebody else stops something
            assert "being stopped" in running.pinfold("node", "stop", "n1").stderr


def test_ports_belong_to_the_cluster(tmp_path: Path) -> None:
    data, base = tmp_path / "data", free_ports()
    with cluster(data, base_port=base) as first:
        facts = first.facts
    again = Cluster(data, None)
    try:
        again.wait_ready()
        assert again.facts["s3"] == facts["s3"]
        assert (facts["created"], again.facts["created"]) == (True, False)
    finally:
        again.end()
