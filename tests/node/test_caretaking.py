"""What Prometheus hears of care workers."""

from prometheus_client import CollectorRegistry

from pinfold.node.caretaking import CareCollector
from pinfold.node.metrics import render


def worker(name, **more):
    known = {"queued": 3, "queued_bytes": 4096, "done": 7, "done_bytes": 9000, "failed": 1}
    return {"name": name, **known, **more}


def test_every_worker_is_told_with_its_own_numbers() -> None:
    registry = CollectorRegistry()
    workers = [
        worker("replicator", blobs=2, single=1),
        worker("collector", queued=0, collected=5, suspected=6),
    ]
    registry.register(CareCollector(lambda: workers))
    lines = render(registry).decode().splitlines()
    for line in (
        'pinfold_care_queued{worker="replicator"} 3.0',
        'pinfold_care_queued{worker="collector"} 0.0',
        'pinfold_care_queued_bytes{worker="replicator"} 4096.0',
        'pinfold_care_done_total{worker="replicator"} 7.0',
        'pinfold_care_bytes_total{worker="collector"} 9000.0',
        'pinfold_care_failed_total{worker="replicator"} 1.0',
        "pinfold_care_blobs_lacking_copies 2.0",
        "pinfold_care_blobs_with_one_copy 1.0",
        "pinfold_care_orphans_collected_total 5.0",
    ):
        assert line in lines
