"""python -m tests.soak [--minutes N] [--seed N]: load and trouble, then everything is verified.

Prints a table; exit status 1 if any promise was broken.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pinfold.node.settings import NodeSettings
from tests.hostile.bounds import rss_bound
from tests.running import free_ports
from tests.soak.blocks import VOLUME_BYTES, BlockWorker
from tests.soak.objects import BUCKET, ObjectWorker
from tests.soak.tally import Tally
from tests.soak.troubles import Troubles
from tests.wire_clients import NbdClient, S3Client

OBJECT_WORKERS = 6
VOLUMES = 2
BETWEEN_S = 0.005
"""Between two operations of a worker: the load is to be there, not to be a benchmark."""

HEALING_S = 120.0
"""By then after the last trouble everything must be healthy."""

OF_THE_MACHINE = re.compile(r"^device \S+ on \S+ is \d+% full$")
"""What `pinfold status` finds that no healing mends."""


def main() -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="soak")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0, help="0: another one each time")
    given = parser.parse_args()
    seed = given.seed or random.SystemRandom().randrange(1, 1 << 30)
    print(f"seed {seed}, {given.minutes:g} minutes", flush=True)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="pinfold-soak-") as directory:
        troubles = Troubles(Path(directory) / "data", free_ports(), tally, seed)
        try:
            soak(troubles, tally, seed, given.minutes * 60)
        finally:
            troubles.cluster.end()
    for name, held in tally.rss.items():
        if held > rss_bound(role_of(name), NodeSettings()):
            tally.violated(f"{name} held {held >> 20} MiB, more than its settings allow")
    print(tally.table(), flush=True)
    return 1 if tally.violations else 0


def role_of(name: str) -> str:
    """The role of a process by its name, as `pinfold up` gives them."""
    return name.rstrip("-0123456789") if "-" in name else "storage"


def soak(troubles: Troubles, tally: Tally, seed: int, seconds: float) -> None:
    """Load and trouble for so long, then healing, then the verification."""
    facts = troubles.cluster.facts

    def s3() -> S3Client:
        return S3Client(facts["s3"], facts["access_key"], facts["secret_key"], timeout_s=30)

    assert s3().do("PUT", f"/{BUCKET}")[0] == 200
    objects = [
        ObjectWorker(f"w{number}", s3(), tally, seed + number) for number in range(OBJECT_WORKERS)
    ]
    blocks = []
    for number in range(VOLUMES):
        volume = f"soak{number}"
        troubles.cluster.json("volume", "create", volume, f"{VOLUME_BYTES >> 20}MiB")
        blocks.append(
            BlockWorker(
                volume,
                lambda volume=volume: NbdClient(facts["nbd"], volume),  # type: ignore[misc]
                tally,
                seed + number,
            )
        )
    stop = threading.Event()
    threads = started(lambda worker: repeat(worker.step, stop, tally), (*objects, *blocks))
    troubles.start()
    time.sleep(seconds)
    troubles.stop()
    wait_healthy(troubles, tally)
    stop.set()
    for thread in threads:
        thread.join()
    for block_worker in blocks:
        block_worker.close()
    for thread in started(lambda worker: worker.verify(), (*objects, *blocks)):
        thread.join()


def started(
    work: Callable[[ObjectWorker | BlockWorker], None],
    workers: Sequence[ObjectWorker | BlockWorker],
) -> list[threading.Thread]:
    """A thread for each worker."""
    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    return threads


def repeat(step: Callable[[], None], stop: threading.Event, tally: Tally) -> None:
    """One worker's life. A bug in it is told, and makes the soak fail."""
    try:
        while not stop.wait(BETWEEN_S):
            step()
    except BaseException as error:
        tally.violated(f"a worker has failed: {error!r}")
        raise


def wait_healthy(troubles: Troubles, tally: Tally) -> None:
    """Until `pinfold status` finds nothing but that this machine's disk is rather full."""
    until = time.monotonic() + HEALING_S
    said = "nothing"
    while time.monotonic() < until:
        status = troubles.cluster.pinfold("status", "--json")
        if status.returncode == 0:
            findings = [one["what"] for one in json.loads(status.stdout)["findings"]]
            wrong = [what for what in findings if not OF_THE_MACHINE.search(what)]
            if not wrong:
                tally.troubled("healed")
                return
            said = "; ".join(wrong)
        time.sleep(1.0)
    tally.violated(f"not healthy {HEALING_S:g} s after the last trouble: {said}")


if __name__ == "__main__":
    sys.exit(main())
