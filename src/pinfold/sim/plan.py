"""What one seed decides before its run begins: topology, limits, faults, and who does what.

Pure. Every choice is drawn from one generator in a fixed order, so a seed means the same run until
this file changes. New choices belong at the end, or old seeds change their meaning (which costs
nothing but the stories told about them).
"""

import dataclasses
import random
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.groups.results import RESULTS_MAX
from pinfold.cluster.groups.state import Limits
from pinfold.model.limits import GIB, KIB
from pinfold.model.settings import (
    AccountSettings,
    BlobSettings,
    CareSettings,
    DeviceSettings,
    ObjectSettings,
    S3Settings,
    VolumeSettings,
    WorkerSettings,
)
from pinfold.node.settings import NodeSettings

BLOCK: Final = 4 * KIB
"""What volume clients write: a token fills one block."""

SECTOR: Final = 512
"""What clients write that do not know of blocks."""

PART_BYTES_MIN: Final = 8
"""Parts of uploads are as small as everything else."""

FAULT_RATES: Final = {
    "crash": (0.5, 3.0),
    "power-loss": (1.0, 4.0),
    "power-cut": (1.5, 5.0),
    "freeze": (1.0, 4.0),
    "cut": (0.5, 3.0),
    "isolate": (1.0, 4.0),
    "reset": (0.2, 1.5),
    "slow-net": (1.0, 4.0),
    "clock-jump": (0.5, 3.0),
    "slow-disk": (1.0, 4.0),
    "failing-flush": (1.0, 4.0),
    "io-error": (1.0, 4.0),
    "full-disk": (1.0, 4.0),
    "crash-in-write": (0.5, 3.0),
    "rot": (0.3, 2.0),
    "swap": (1.5, 5.0),
    "strand": (1.0, 4.0),
    "lost-index": (1.5, 5.0),
    "cut-at-answer": (0.5, 3.0),
    "new-members": (0.5, 3.0),
    "lost-answers": (0.3, 2.0),
    "forgotten-vote": (0.5, 2.0),
    "lost-memory": (1.0, 2.5),
    "stutter": (0.5, 2.0),
    "blink": (0.3, 1.5),
    "rot-named": (0.2, 1.0),
    "rot-rows": (1.0, 4.0),
    "kill-all": (1.5, 5.0),
    "kill-at-answer": (0.5, 3.0),
    "stop": (1.0, 4.0),
    "strike": (0.2, 1.0),
    "strike-volumes": (0.2, 1.0),
    "strike-logs": (0.2, 1.0),
    "wrong-day": (0.5, 2.5),
    "corrupt-net": (0.3, 2.0),
    "strike-buckets": (0.2, 1.0),
    "strike-splits": (0.1, 0.5),
}
"""Every fault by name and the range of its mean pause, in seconds of world time."""

_DRAWN_APART: Final = {
    "lost-index": 0.2,
    "cut-at-answer": 0.5,
    "new-members": 0.3,
    "lost-answers": 0.3,
    "forgotten-vote": 0.25,
    "lost-memory": 0.3,
    "stutter": 0.25,
    "blink": 0.3,
    "rot-named": 0.25,
    "rot-rows": 0.3,
    "kill-all": 0.15,
    "kill-at-answer": 0.2,
    "stop": 0.15,
    "strike": 0.35,
    "strike-volumes": 0.35,
    "strike-logs": 0.2,
    "wrong-day": 0.2,
    "corrupt-net": 0.25,
    "strike-buckets": 0.2,
    "strike-splits": 0.2,
}
"""Faults and how likely each is chosen, by a generator of its own: no other draw depends on it."""

_DISKS_CHANCE: Final = 0.2
"""How likely a run is about volumes: all else is quiet, and members and holders break often."""

_OF_DISKS: Final = ("power-loss", "crash", "power-cut", "slow-net", "reset", "slow-disk", "blink")
"""Faults that such a run may have besides."""

_RIVALS_CHANCE: Final = 0.25
"""How likely two gateways contend for a volume; its other clients stay away then."""

_KEYED_CHANCE: Final = 0.25
"""How likely users and access keys come and go."""

_CALM_CHANCE: Final = 0.35

_FORGED_CHANCE: Final = 0.2

_AGED_CHANCE: Final = 0.35

_FAR_REACHING: Final = (
    "power-cut",
    "cut-at-answer",
    "new-members",
    "slow-net",
    "strand",
    "lost-answers",
    "forgotten-vote",
    "stutter",
    "corrupt-net",
)
"""Faults of more than one node."""

_OF_CLOCKS: Final = ("clock-jump", "wrong-day")
"""Faults by which clocks are wrong for longer than a short day."""

_FOCUSES: Final = ("", "", "", "uploads", "buckets", "overwrites")

_TWO_USERS_CHANCE: Final = 0.35
"""How likely buckets change hands when they are made again."""

_MANAGED_CHANCE: Final = 0.4
"""How likely somebody makes, resizes and deletes volumes."""

_WATCHED_CHANCE: Final = 0.5
"""How likely somebody watches: reads cost events, and mostly find nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run, decided."""

    seed: int
    nodes: int
    devices_per_node: int
    gateways: int
    group_copies: int
    groups_power: int
    settings: NodeSettings
    limits: Limits
    safety_s: float
    faults: dict[str, float]
    """Mean pause between two of a kind."""
    drift: float
    """Largest error of a monotonic clock's rate."""
    object_clients: int
    volume_clients: int
    volumes: int
    depth: int
    """Requests that a volume's client has under way."""
    managed: bool
    """Whether somebody makes, resizes and deletes volumes."""
    volume_bytes: int
    """Of the first; see `workloads.volumes.Disk` for the others."""
    buckets: int
    names: int
    """Names that all object clients share: few, so that they meet."""
    watched: bool
    """Whether somebody at each gateway reads all the time."""
    focus: str
    """What object clients mostly do; see `workloads.objects`."""
    calm: bool
    """Whether faults strike one node only, whose loss the policies promise to survive."""
    forged: bool
    """Whether clients write what looks like headers of a device's files."""
    aged: bool
    """Whether what takes days takes seconds: after those blobs are orphans, or named no more."""
    users: int
    """Who own buckets, one after the other."""
    rivals: bool
    """Whether two gateways contend for a volume, in place of its clients."""
    keyed: bool
    """Whether somebody makes and ends users and access keys, and signs with them."""

    @property
    def storage(self) -> tuple[str, ...]:
        """Names of the storage nodes."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def front(self) -> tuple[str, ...]:
        """Names of the gateways."""
        return tuple(f"g{number}" for number in range(1, self.gateways + 1))

    def describe(self) -> str:
        """One line for people."""
        faults = ", ".join(f"{name} {pause:.1f} s" for name, pause in self.faults.items())
        return (
            f"{self.nodes} nodes x {self.devices_per_node} devices, groups of "
            f"{self.group_copies}, {1 << self.groups_power} groups, {self.gateways} gateways, "
            f"{self.object_clients} object and {self.volume_clients} volume clients, "
            f"{self.safety_s:.0f} s of: {faults or 'no faults'}"
        )


def make_plan(seed: int) -> Plan:
    """Decide everything that a seed decides."""
    rng = random.Random(f"{seed}/plan")
    nodes = rng.choice((3, 3, 3, 4, 5))
    devices_per_node = rng.choice((1, 1, 2))
    five = nodes * devices_per_node >= 5 and rng.random() < 0.6
    names = [name for name in FAULT_RATES if name not in _DRAWN_APART]
    chosen = [name for name in names if rng.random() < rng.choice((0.15, 0.4))]
    plan = Plan(
        seed=seed,
        nodes=nodes,
        devices_per_node=devices_per_node,
        gateways=2,
        group_copies=5 if five else 3,
        groups_power=rng.choice((0, 1, 2)),
        settings=_settings(rng, random.Random(f"{seed}/care")),
        limits=_limits(rng),
        safety_s=rng.choice((4.0, 6.0, 10.0)),
        faults={name: rng.uniform(*FAULT_RATES[name]) for name in chosen} | _apart(seed),
        drift=rng.choice((0.0, 0.01, 0.04)),
        object_clients=rng.choice((1, 2, 3)),
        volume_clients=rng.choice((0, 1, 1, 2)),
        volumes=random.Random(f"{seed}/volumes").choice((1, 1, 2, 3)),
        depth=random.Random(f"{seed}/depth").choice((1, 2, 6)),
        managed=random.Random(f"{seed}/managed").random() < _MANAGED_CHANCE,
        volume_bytes=rng.choice((256 * KIB, 8 << 20)),
        buckets=rng.choice((1, 2)),
        names=rng.choice((1, 3, 8)),
        watched=random.Random(f"{seed}/watched").random() < _WATCHED_CHANCE,
        focus=random.Random(f"{seed}/focus").choice(_FOCUSES),
        calm=random.Random(f"{seed}/calm").random() < _CALM_CHANCE,
        forged=random.Random(f"{seed}/forged").random() < _FORGED_CHANCE,
        aged=random.Random(f"{seed}/aged").random() < _AGED_CHANCE,
        users=2 if random.Random(f"{seed}/users").random() < _TWO_USERS_CHANCE else 1,
        rivals=random.Random(f"{seed}/rivals").random() < _RIVALS_CHANCE,
        keyed=random.Random(f"{seed}/keyed").random() < _KEYED_CHANCE,
    )
    plan = dataclasses.replace(plan, settings=_with_splits(plan.settings, rng))
    if plan.keyed:
        plan = _with_short_memory_of_keys(plan)
    if plan.calm:
        faults = {name: pause for name, pause in plan.faults.items() if name not in _FAR_REACHING}
        plan = dataclasses.replace(plan, faults=faults)
    if plan.aged:
        plan = _with_short_days(plan)
    if plan.focus == "buckets":
        plan = _with_changing_owners(plan)
    if plan.focus in ("uploads", "overwrites"):
        plan = dataclasses.replace(plan, names=1, buckets=1, object_clients=3)
    if random.Random(f"{seed}/disks").random() < _DISKS_CHANCE:
        plan = _about_disks(plan)
    return _with_short_journals(plan) if "lost-memory" in plan.faults else plan


def _apart(seed: int) -> dict[str, float]:
    faults: dict[str, float] = {}
    for name, chance in _DRAWN_APART.items():
        rng = random.Random(f"{seed}/{name}")
        if rng.random() < chance:
            faults[name] = rng.uniform(*FAULT_RATES[name])
    return faults


def _with_splits(settings: NodeSettings, rng: random.Random) -> NodeSettings:
    """Shards that split at few names or few changes, a name or two at a time."""
    objects = msgspec.structs.replace(
        settings.s3.objects,
        shard_rows_max=rng.choice((1, 2, 4, 1000)),
        shard_changes_per_s_max=rng.choice((0.5, 5.0, 1000.0)),
        split_range_rows=rng.choice((1, 2, 1000)),
        split_interval_s=rng.choice((0.1, 0.5, 2.0)),
    )
    s3 = msgspec.structs.replace(settings.s3, objects=objects)
    return msgspec.structs.replace(settings, s3=s3)


def _with_changing_owners(plan: Plan) -> Plan:
    """Buckets of few names, soon empty, whose owner other gateways remember for long."""
    objects = msgspec.structs.replace(plan.settings.s3.objects, bucket_cache_s=5.0)
    s3 = msgspec.structs.replace(plan.settings.s3, objects=objects)
    settings = msgspec.structs.replace(plan.settings, s3=s3)
    return dataclasses.replace(
        plan, users=2, names=min(plan.names, 2), object_clients=3, settings=settings
    )


def _with_short_memory_of_keys(plan: Plan) -> Plan:
    accounts = AccountSettings(cache_s=0.4, negative_cache_s=0.2)
    s3 = msgspec.structs.replace(plan.settings.s3, accounts=accounts)
    settings = msgspec.structs.replace(plan.settings, s3=s3)
    return dataclasses.replace(plan, settings=settings)


def _with_short_days(plan: Plan) -> Plan:
    """A day of 1.5 s, on clocks that are wrong by as little: see `CareSettings`."""
    care = msgspec.structs.replace(
        plan.settings.care, orphan_grace_s=4.5, orphan_recheck_s=0.5, orphan_round_s=1.0
    )
    return dataclasses.replace(
        plan,
        settings=msgspec.structs.replace(plan.settings, care=care),
        limits=dataclasses.replace(plan.limits, name_within_ms=1500),
        faults={name: pause for name, pause in plan.faults.items() if name not in _OF_CLOCKS},
    )


def _about_disks(plan: Plan) -> Plan:
    """Two busy clients of volumes, or rivals, and whoever makes and deletes them."""
    rng = random.Random(f"{plan.seed}/about disks")
    faults = {name: pause for name, pause in plan.faults.items() if name in _OF_DISKS}
    faults["strike-volumes"] = rng.uniform(0.2, 0.8)
    return dataclasses.replace(
        plan,
        faults=faults,
        object_clients=1,
        watched=False,
        volume_clients=2,
        depth=rng.choice((2, 6)),
        rivals=rng.random() < 0.5,
    )


def _with_short_journals(plan: Plan) -> Plan:
    """Busy journals that soon do not reach back to the beginning: an index lost is a log lost."""
    device = msgspec.structs.replace(
        plan.settings.device, segment_bytes=320 * KIB, journal_retain_bytes=0
    )
    return dataclasses.replace(
        plan,
        settings=msgspec.structs.replace(plan.settings, device=device),
        safety_s=14.0,
        object_clients=3,
        volume_clients=2,
    )


def _limits(rng: random.Random) -> Limits:
    """Of row groups: small enough that members fall behind the log and pages are many."""
    return Limits(
        batch_bytes=rng.choice((2 * KIB, 16 * KIB)),
        window_entries=rng.choice((2, 8, 64)),
        retained_bytes=rng.choice((4 * KIB, 64 * KIB)),
        trim_entries=rng.choice((1, 8)),
        page_bytes=rng.choice((1 * KIB, 16 * KIB)),
        copy_pages=rng.choice((1, 4, 16)),
        copy_pages_here=rng.choice((2, 32)),
        copy_keys=rng.choice((64, 4096)),
        results_max=rng.choice((400, RESULTS_MAX)),
    )


def _settings(rng: random.Random, care_rng: random.Random) -> NodeSettings:
    segment = rng.choice((320 * KIB, 640 * KIB, 2560 * KIB))
    device = DeviceSettings(
        index_engine="ordered",
        segment_bytes=segment,
        batch_bytes=rng.choice((16 * KIB, 64 * KIB)),
        kick_bytes=rng.choice((4 * KIB, 32 * KIB)),
        journal_retain_bytes=rng.choice((0, 64 * KIB, 512 * KIB)),
        unapplied_bytes=rng.choice((1, 4)) * segment,
        apply_bytes=rng.choice((8 * KIB, 128 * KIB)),
        apply_interval_s=rng.choice((0.02, 0.1, 0.5)),
        log_tail_bytes=rng.choice((8 * KIB, 128 * KIB)),
        pack_bytes=rng.choice((128 * KIB, 1024 * KIB)),
        compact_interval_s=1.0,
        open_packs=2,
        read_lanes=2,
        reserve_bytes=1024 * KIB,
    )
    blobs = BlobSettings(
        put_timeout_s=4.0,
        read_timeout_s=4.0,
        free_delay_s=rng.choice((1.0, 4.0)),
        free_delay_short_s=0.5,
        free_look_s=0.25,
        free_retry_s=2.0,
    )
    objects = ObjectSettings(
        segment_bytes=rng.choice((4 * KIB, 48 * KIB, 96 * KIB)),
        write_memory_bytes=128 * KIB,
        read_memory_bytes=64 * KIB,
        read_chunk_bytes=rng.choice((1 * KIB, 16 * KIB)),
        bucket_cache_s=rng.choice((0.0, 5.0)),
        part_bytes_min=PART_BYTES_MIN,
    )
    volumes = VolumeSettings(
        silence_s=0.8,
        recover_s=0.5,
        claim_s=1.0,
        flush_s=2.0,
        rejoin_s=0.3,
        piece_bytes=rng.choice((64 * KIB, 128 * KIB)) if segment < 2560 * KIB else 1024 * KIB,
        retained_bytes=rng.choice((32 * KIB, 256 * KIB)),
        retained_s=rng.choice((0.2, 2.0)),
        window_bytes=rng.choice((16 * KIB, 64 * KIB)),
        batches_max=rng.choice((1, 4)),
        dirty_extents=rng.choice((2, 1024)),
        tend_round_s=5.0,
        tend_stall_s=10.0,
        beat_s=0.5,
        trust_s=2.0,
        takeover_s=3.0,
        linger_s=1.0,
    )
    return NodeSettings(
        device=device,
        blobs=blobs,
        s3=S3Settings(objects=objects),
        volumes=volumes,
        care=_care(care_rng),
    )


def _care(rng: random.Random) -> CareSettings:
    """Workers that look every second or so; orphans keep their real ages (see `copies`)."""
    return CareSettings(
        worker=WorkerSettings(
            bytes_per_s=rng.choice((1 << 20, 64 << 20)),
            operations_per_s=rng.choice((100, 1000)),
            look_share=0.5,
            jobs_at_once=rng.choice((1, 4)),
            queue_max=rng.choice((8, 4096)),
            backoff_s=0.2,
        ),
        settle_s=0.5,
        round_s=15.0,
        again_s=1.0,
        quarantine_s=1.0,
        fetch_timeout_s=0.4,
        orphan_recheck_s=2.0,
        orphan_round_s=4.0,
    )


DISK_BYTES: Final = 1 * GIB
"""A simulated disk's capacity while it is not made full."""
