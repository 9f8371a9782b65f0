"""The ring wishes other members for a row group while everything else goes on."""

import dataclasses

from pinfold.cluster.map import METADATA, RingEntry
from pinfold.sim.faults.stage import Stage
from pinfold.sim.inspection import group_status
from pinfold_ring import Ring


async def change(stage: Stage) -> None:
    """One device of one group gives way to another, if there is one; the log has to follow.

    Not before every group has begun: a ring is changed once a cluster serves.
    """
    cluster = stage.cluster
    current = cluster.map
    ring = Ring.from_bytes(current.rings[METADATA].table)
    begun = {one["group"] for one in group_status(cluster) if one["configuration"]}
    group = stage.rng.randrange(ring.parts)
    members = ring.devices_of(group)
    others = [device.id for device in current.devices if device.id not in members]
    if not others or len(begun) < ring.parts:
        return
    column, new = stage.rng.randrange(ring.replicas), stage.rng.choice(others)
    table = ring.table.copy()
    table[group, column] = new
    following = dataclasses.replace(
        ring,
        epoch=ring.epoch + 1,
        table=table,
        previous_epoch=ring.epoch,
        previous_checksum=ring.checksum,
    )
    entry = RingEntry(epoch=following.epoch, table=following.to_bytes())
    cluster.replace_map(current.next(rings={**current.rings, METADATA: entry}))
    stage.account.count("members replaced")
    stage.account.tell("world", f"group {group}: device {members[column]} gives way to {new}")
