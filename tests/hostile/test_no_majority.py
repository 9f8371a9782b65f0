"""Two storage nodes of three are gone: what cannot be done is refused in time, or waits."""

import threading
import time
from pathlib import Path

import pytest

from tests.hostile.conftest import s3_of
from tests.running import Cluster, cluster, kill
from tests.wire_clients import NbdClient

pytestmark = pytest.mark.cluster

CLIENT_PATIENCE_S = 60.0
"""What S3 clients wait for an answer by default."""


def test_s3_is_refused_before_clients_give_up_and_a_disk_waits(tmp_path: Path) -> None:
    with cluster(tmp_path / "data", "--no-restart") as pen:
        client = s3_of(pen)
        assert client.do("PUT", "/kept")[0] == 200
        assert client.do("PUT", "/kept/k", b"x" * 10_000)[0] == 200
        client.close()
        pen.json("volume", "create", "disk", "16MiB")
        disk = NbdClient(pen.facts["nbd"], "disk", timeout_s=8)
        disk.write(0, b"y" * 4096)
        disk.flush()
        pids = pen.pids()
        for name in ("n2", "n3"):
            kill(pids[name])
        answers: dict[str, tuple[int, str, float]] = {}
        threads = [
            threading.Thread(target=ask, args=(pen, answers, method, body))
            for method, body in (("PUT", b"z" * 10_000), ("GET", b""), ("DELETE", b""))
        ]
        for thread in threads:
            thread.start()
        with pytest.raises(TimeoutError):  # not an error of the disk
            disk.write(0, b"n" * 4096)
        disk.close()
        for thread in threads:
            thread.join(CLIENT_PATIENCE_S)
        assert answers.keys() == {"PUT", "GET", "DELETE"}
        for status, retry_after, took_s in answers.values():
            assert (status, retry_after) == (503, "1")
            assert took_s < CLIENT_PATIENCE_S / 2


def ask(pen: Cluster, answers: dict[str, tuple[int, str, float]], method: str, body: bytes) -> None:
    client = s3_of(pen)
    began = time.monotonic()
    status, _ = client.do(method, "/kept/k", body)
    answers[method] = status, client.headers.get("retry-after", ""), time.monotonic() - began
    client.close()
