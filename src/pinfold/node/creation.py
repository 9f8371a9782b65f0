"""Makes a data directory into a cluster, once.

The marker file is written first (creating) and last (ready). Devices are formatted only in
between, so never in a directory that has served: an interrupted creation, from which nothing was
ever acknowledged, starts again from nothing; a finished one is only checked.
"""

import shutil
from typing import Final, Literal

import msgspec

from pinfold.cluster.embedded_map import create_map
from pinfold.cluster.map import ClusterMap, DeviceEntry, NodeEntry
from pinfold.codec.unreadable import UNREADABLE
from pinfold.env.api import Env, Lock
from pinfold.model.errors import Conflict, Corrupt
from pinfold.model.ids import NodeName
from pinfold.node.access import new_access, read_access, write_access
from pinfold.node.boot import hold
from pinfold.node.devices import format_device
from pinfold.node.formation import FRONT_ENDS, STORAGE_NODES, first_policies, first_rings
from pinfold.node.layout import Layout
from pinfold.node.secrets import new_secret_files
from pinfold.node.settings import TEMPLATE

FORMAT: Final = 1
"""Of the directory as a whole; each file inside has its own."""

_LOCK_FILES: Final = {"lock", "lock.pid"}
"""Made by whoever tries to start here, so they do not count as content."""


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The content of pinfold.json."""

    format: int
    cluster_id: str
    state: Literal["creating", "ready"]


def hold_data(env: Env, layout: Layout) -> Lock:
    """Make the directory if it is absent and take it for this supervisor.

    Conflict when another one runs it, or when it holds something that is not ours: then nothing
    is touched.
    """
    root = str(layout.root)
    if env.disk.exists(root):
        if not layout.root.is_dir():
            raise Conflict(f"{root} is not a directory: choose another with --data")
        foreign = set(env.disk.list(root)) - _LOCK_FILES
        if foreign and not layout.marker.exists():
            raise Conflict(
                f"{root} holds files that are not Pinfold's: choose another directory with --data"
            )
    env.disk.mkdir(root)
    layout.root.chmod(0o700)
    return hold(env.disk, layout.lock, f"a `pinfold up` is running on {root} already")


async def ensure_cluster(env: Env, layout: Layout) -> bool:
    """Create the cluster in a held directory unless it is there; whether it did.

    Corrupt when the directory's own files do not agree; then nothing is changed.
    """
    marker = _read_marker(env, layout)
    if marker is not None and marker.state == "ready":
        read_access(env.disk, layout)  # its keys are gone, or damaged: say so now
        return False
    cluster_id = env.rng.randbytes(16)
    _write_marker(env, layout, cluster_id, "creating")
    await _create(env, layout, cluster_id)
    _write_marker(env, layout, cluster_id, "ready")
    return True


async def _create(env: Env, layout: Layout, cluster_id: bytes) -> None:
    for leftover in (layout.devices, layout.map, layout.root / "nodes", layout.root / "secrets"):
        shutil.rmtree(leftover, ignore_errors=True)
    for directory in (layout.map, layout.logs, layout.root / "nodes", layout.root / "secrets"):
        env.disk.mkdir(str(directory))
    new_secret_files(env, layout)
    write_access(env.disk, layout, new_access(env.rng, cluster_id))
    nodes = {name: NodeEntry(role="storage") for name in STORAGE_NODES}
    nodes.update({name: NodeEntry(role=role) for name, role in FRONT_ENDS})
    for name in nodes:
        template = TEMPLATE.format(name=name)
        env.disk.write_file(str(layout.settings(NodeName(name))), template.encode())
    devices = tuple(
        [
            await _new_device(env, layout, cluster_id, number, node)
            for number, node in enumerate(STORAGE_NODES)
        ]
    )
    policies = first_policies()
    first = ClusterMap(
        cluster_id=cluster_id,
        nodes=nodes,
        devices=devices,
        policies=policies,
        rings=first_rings(policies, devices),
    )
    create_map(str(layout.map), first)


async def _new_device(
    env: Env, layout: Layout, cluster_id: bytes, number: int, node: str
) -> DeviceEntry:
    """Format the one device of a node; each node stands in a zone of its own."""
    path = f"devices/{node}/d1"
    absolute = layout.device(path)
    uuid = await format_device(env, str(absolute), cluster_id)
    return DeviceEntry(id=number, uuid=uuid, node=node, path=path, zone=f"z-{node}")


def _read_marker(env: Env, layout: Layout) -> Marker | None:
    path = str(layout.marker)
    if not env.disk.exists(path):
        return None
    try:
        marker = msgspec.json.decode(env.disk.read_file(path), type=Marker)
    except UNREADABLE as error:
        raise Corrupt(f"{path}: {error}") from error
    if marker.format != FORMAT:
        raise Conflict(f"{path} is of format {marker.format}, this version knows {FORMAT}")
    return marker


def _write_marker(
    env: Env, layout: Layout, cluster_id: bytes, state: Literal["creating", "ready"]
) -> None:
    marker = Marker(format=FORMAT, cluster_id=cluster_id.hex(), state=state)
    env.disk.write_file(str(layout.marker), msgspec.json.encode(marker) + b"\n")
