"""Clients at work while a storage node dies and comes back."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import boto3
import pytest

from tests.cluster_clients.conftest import Run
from tests.running import Cluster, cluster
from tests.wire_clients import NbdClient

pytestmark = pytest.mark.cluster


def test_acknowledged_objects_outlive_a_killed_node(pen: Cluster) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=pen.facts["s3"],
        region_name="us-east-1",
        aws_access_key_id=pen.facts["access_key"],
        aws_secret_access_key=pen.facts["secret_key"],
    )
    client.create_bucket(Bucket="losing")
    bodies = {f"{number:03}": b"%d;" % number * 3000 for number in range(120)}
    for key, body in bodies.items():
        if key == "040":
            os.kill(pen.pids()["n1"], signal.SIGKILL)
        client.put_object(Bucket="losing", Key=key, Body=body)
    listed = client.list_objects_v2(Bucket="losing")
    assert [item["Key"] for item in listed["Contents"]] == list(bodies)
    for key, body in bodies.items():
        assert client.get_object(Bucket="losing", Key=key)["Body"].read() == body
    client.close()
    wait_for_all_copies(pen)


def wait_for_all_copies(pen: Cluster) -> None:
    """With three devices every blob is on each: as many here as there, and nothing queued.

    A node that has not come back yet tells nothing of its device.
    """
    deadline = time.monotonic() + 60
    while True:
        status = pen.json("status")
        blobs = {device.get("blobs") for device in status["devices"]}
        queued = [worker for worker in status["care"] if worker["queued"]]
        if len(blobs) == 1 and not blobs & {0, None} and not queued:
            return
        assert time.monotonic() < deadline, (status["devices"], status["care"])
        time.sleep(0.5)


def test_a_guest_does_not_notice_a_killed_node(run: Run, pen: Cluster) -> None:
    pen.json("volume", "create", "losing", "64MiB")
    victim = pen.pids()["n2"]
    killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {victim}"])
    run(
        "fio",
        "--name=verify",
        "--ioengine=nbd",
        f"--uri={pen.facts['nbd']}/losing",
        "--rw=randwrite",
        "--bs=4k",
        "--iodepth=8",
        "--size=32m",
        "--rate_iops=1500",
        "--fsync=128",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--randseed=11",
    )
    assert killer.wait(10) == 0


def test_what_was_acknowledged_outlives_the_power_going(tmp_path: Path) -> None:
    """All processes killed at once, then started again on the same directory."""
    with cluster(tmp_path / "data") as first:
        settings = {
            "region_name": "us-east-1",
            "aws_access_key_id": first.facts["access_key"],
            "aws_secret_access_key": first.facts["secret_key"],
        }
        client = boto3.client("s3", endpoint_url=first.facts["s3"], **settings)
        client.create_bucket(Bucket="kept")
        for number in range(30):
            client.put_object(Bucket="kept", Key=str(number), Body=b"%d" % number * 5000)
        client.close()
        for pid in (first.process.pid, *first.pids().values()):
            os.kill(pid, signal.SIGKILL)
    with cluster(tmp_path / "data") as again:
        client = boto3.client("s3", endpoint_url=again.facts["s3"], **settings)
        for number in range(30):
            got = client.get_object(Bucket="kept", Key=str(number))["Body"].read()
            assert got == b"%d" % number * 5000
        client.close()


def test_a_write_that_was_answered_outlives_the_death_of_every_process(tmp_path: Path) -> None:
    """Without a flush: the machine lives, and its kernel has what the answer spoke of."""
    blocks = [bytes([number]) * 4096 for number in range(1, 65)]
    with cluster(tmp_path / "data") as first:
        first.json("volume", "create", "answered", "64MiB")
        client = NbdClient(first.facts["nbd"], "answered")
        pids = (first.process.pid, *first.pids().values())
        for number, block in enumerate(blocks):
            client.write(number << 16, block)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        client.close()
    with cluster(tmp_path / "data") as again:
        client = attached(again.facts["nbd"], "answered")
        assert [client.read(number << 16, 4096) for number in range(64)] == blocks
        client.close()


def attached(address: str, volume: str) -> NbdClient:
    """A client of a volume whose last holder has died: another takes it over after its silence."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return NbdClient(address, volume)
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)
