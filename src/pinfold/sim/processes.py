"""The processes of simulated nodes: the product's own composition on a simulated environment.

What is left out of a real process: signals, the supervisor, log and settings files, and the front
ends' wire protocols. Gateways offer the use cases that these would call.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, cast

import structlog
from prometheus_client import CollectorRegistry

from pinfold.accounts.sealing import KEY_BYTES, Sealer
from pinfold.cluster.api import Blobs
from pinfold.cluster.groups.state import Limits
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.ids import NodeName
from pinfold.node.access import Access
from pinfold.node.boot import next_boot
from pinfold.node.context import NodeContext
from pinfold.node.gateway import Gateway
from pinfold.node.joining import join_peers, register
from pinfold.node.layout import Layout
from pinfold.node.roles import storage
from pinfold.node.secrets import Secrets
from pinfold.node.settings import NodeSettings
from pinfold.rpc.handshake import Identity, Keyring
from pinfold.s3.call import Store
from pinfold.s3.service import S3Service
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.events import Events
from pinfold.sim.guests import Guests
from pinfold.sim.map import SimMapStore
from pinfold.sim.seams import Seams, SeenBlobs, SeenRows
from pinfold.volumes.sessions import Sessions

LAYOUT: Final = Layout(Path("/data"))
"""The same on every node: each has a disk of its own."""

_KEYRING: Final = Keyring.of(b"secret of the world")
"""Every simulated cluster's: none of them is there to be entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What every process of a simulated cluster is started with."""

    settings: NodeSettings
    limits: Limits
    auditor: Auditor
    """Beside the world; see `audit`."""
    events: Events
    """Told what happens inside of the cluster."""


@dataclass(slots=True, kw_only=True)
class StorageProcess:
    """A running storage node."""

    context: NodeContext
    role: storage.StorageRole

    async def stop(self) -> None:
        """End as a process does that is asked to."""
        await self.role.stop()


@dataclass(slots=True, kw_only=True)
class GatewayProcess:
    """A running gateway: what front ends would serve from."""

    context: NodeContext
    clients: Gateway
    s3: S3Service
    sessions: Sessions
    guests: Guests

    @property
    def store(self) -> Store:
        """The use cases behind S3."""
        return self.s3.store

    async def stop(self) -> None:
        """End as a process does that is asked to: volumes are flushed and given back."""
        await self.sessions.close()


async def run_storage(
    env: Env, name: NodeName, map_store: SimMapStore, recipe: Recipe
) -> StorageProcess:
    """Start a storage node as `node.process` does."""
    context = _context(env, name, map_store, recipe)
    entry = map_store.get().node(name)
    role = await storage.start(context)
    await register(context, entry, _address(name))
    return StorageProcess(context=context, role=role)


async def run_gateway(
    env: Env, name: NodeName, map_store: SimMapStore, recipe: Recipe
) -> GatewayProcess:
    """Start a gateway that serves objects and volumes."""
    context = _context(env, name, map_store, recipe)
    clients = Gateway.of(context)
    rows = SeenRows(clients.rows, recipe.events, recipe.auditor.effects, name)
    s3 = S3Service(
        env,
        rows,
        cast(Blobs, SeenBlobs(clients.blobs, recipe.auditor)),
        context.secrets.sealer,
        recipe.settings.s3,
        registry=context.metrics,
    )
    entry = map_store.get().node(name)
    await register(context, entry, _address(name))
    context.scope.start(s3.store.splitter.run(), name="splitter")
    sessions = Sessions(
        env,
        rows,
        clients.extents,
        clients.extent_placement,
        gateway=name,
        boot=context.boot,
        settings=recipe.settings.volumes,
        on_error=lambda error: context.log.error("background failure", exc_info=error),
    )
    audit = recipe.auditor.volumes
    audit.place = clients.extent_placement.members
    return GatewayProcess(
        context=context,
        clients=clients,
        s3=s3,
        sessions=sessions,
        guests=Guests(sessions, name, audit),
    )


def _context(env: Env, name: NodeName, map_store: SimMapStore, recipe: Recipe) -> NodeContext:
    home = LAYOUT.node(name)
    env.disk.mkdir(str(home))
    boot = next_boot(env.disk, home)
    log = structlog.get_logger("pinfold.process")
    operations = Seams(recipe.events, recipe.auditor.effects, name)
    cluster_id = map_store.get().cluster_id
    identity = Identity(node=name, boot=boot, cluster=cluster_id, keyring=_KEYRING)
    return NodeContext(
        name=name,
        boot=boot,
        env=env,
        layout=LAYOUT,
        settings=recipe.settings,
        secrets=Secrets(
            access=Access(cluster_id="", token="", access_key="", secret_key=""),
            keyring=_KEYRING,
            sealer=Sealer(bytes(KEY_BYTES), env.rng),
        ),
        map=map_store,
        peers=join_peers(env, identity, map_store, operations),
        dispatcher=operations,
        scope=TaskScope(lambda error: log.error("background failure", exc_info=error)),
        metrics=CollectorRegistry(),
        log=log,
        listen=None,
        group_limits=recipe.limits,
        open_device=partial(recipe.auditor.open, name),
    )


def _address(name: NodeName) -> str:
    return f"tcp://{name}:1"
