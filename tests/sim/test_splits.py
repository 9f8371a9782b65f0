"""Shards that split in whole clusters while nodes, gateways and the network fail."""

import dataclasses

import msgspec
import pytest

from pinfold.sim.plan import Plan, make_plan
from pinfold.sim.run import run_seed


def splitting(faults: dict[str, float]) -> Plan:
    """A run in which shards hold two names at most and give one at a time."""
    plan = make_plan(0)
    s3 = plan.settings.s3
    objects = msgspec.structs.replace(
        s3.objects,
        shard_rows_max=2,
        shard_changes_per_s_max=2.0,
        split_range_rows=1,
        split_interval_s=0.2,
        bucket_cache_s=5.0,
    )
    settings = msgspec.structs.replace(
        plan.settings, s3=msgspec.structs.replace(s3, objects=objects)
    )
    return dataclasses.replace(
        plan,
        settings=settings,
        faults=faults,
        safety_s=6.0,
        object_clients=3,
        volume_clients=0,
        groups_power=2,
        buckets=1,
        names=8,
    )


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"crash": 0.7},
        {"freeze": 1.0, "reset": 0.3},
        {"cut": 0.7, "isolate": 1.5},
        {"power-cut": 2.0},
    ],
    ids=lambda faults: "+".join(faults) or "none",
)
def test_splits_under_faults_break_no_promise(faults: dict[str, float]) -> None:
    split_off = 0
    for seed in (1, 2):
        result = run_seed(seed, plan=splitting(faults))
        assert not result.violations, result.violations[0]
        split_off += result.counts.get("shard split off", 0)
    assert split_off >= 2
