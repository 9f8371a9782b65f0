"""A bucket that grows into many shards under clients at work, while its gateway is killed."""

import os
import signal
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.running import Cluster, cluster

pytestmark = pytest.mark.cluster

SETTINGS = """
[s3.objects]
shard_rows_max = 50
split_range_rows = 20
split_interval_s = 0.2
"""

NAMES = [f"{number % 7}/{number:04}" for number in range(300)]


def client_of(pen: Cluster) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=pen.facts["s3"],
        region_name="us-east-1",
        aws_access_key_id=pen.facts["access_key"],
        aws_secret_access_key=pen.facts["secret_key"],
        config=Config(retries={"max_attempts": 10, "mode": "standard"}),
    )


def listed(client: Any, **options: Any) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="growing", **options)
    return [item["Key"] for page in pages for item in page.get("Contents", ())]


def splits(pen: Cluster) -> int:
    """How many splits this life of the gateway has finished."""
    with urllib.request.urlopen(f"{pen.facts['admin']}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    lines = [line for line in text.splitlines() if line.startswith("pinfold_s3_splits_total")]
    return int(sum(float(line.rpartition(" ")[2]) for line in lines))


def test_a_bucket_splits_under_load_and_a_killed_gateway(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with cluster(data):
        pass  # made
    (data / "nodes" / "s3-1.toml").write_text(SETTINGS)
    with cluster(data) as pen:
        client = client_of(pen)
        client.create_bucket(Bucket="growing")
        acknowledged: list[str] = []
        wrong: list[str] = []

        def watch() -> None:
            """Whatever was acknowledged before a listing began is in it."""
            watcher = client_of(pen)
            while len(acknowledged) < len(NAMES):
                before = set(acknowledged)
                missing = before - set(listed(watcher, PaginationConfig={"PageSize": 90}))
                wrong.extend(missing)
            watcher.close()

        watching = threading.Thread(target=watch)
        watching.start()
        for name in NAMES:
            if name == NAMES[150]:
                os.kill(pen.pids()["s3-1"], signal.SIGKILL)
            client.put_object(Bucket="growing", Key=name, Body=name.encode() * 100)
            acknowledged.append(name)
        watching.join(60)
        assert not watching.is_alive()
        assert wrong == []
        deadline = time.monotonic() + 60
        while splits(pen) < 2:
            assert time.monotonic() < deadline, "the gateway's second life splits nothing"
            time.sleep(0.2)
        assert listed(client) == sorted(NAMES)
        for name in NAMES[::5]:
            body = client.get_object(Bucket="growing", Key=name)["Body"].read()
            assert body == name.encode() * 100
        client.close()
