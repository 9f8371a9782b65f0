"""What a role gets from its process, and what it gives back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry
from structlog.typing import FilteringBoundLogger

from pinfold.cluster.groups.state import Limits
from pinfold.cluster.map import MapStore
from pinfold.device import api
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.env.tasks import TaskScope
from pinfold.model.errors import Invalid
from pinfold.model.ids import Boot, DeviceUuid, NodeName
from pinfold.model.settings import DeviceSettings
from pinfold.node.layout import Layout
from pinfold.node.secrets import Secrets
from pinfold.node.settings import NodeSettings
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.peers import PeerTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a front end listens."""

    host: str
    port: int


class OpenDevice(Protocol):
    """See `device.device.Device.open`."""

    async def __call__(  # noqa: D102
        self,
        env: Env,
        path: str,
        settings: DeviceSettings,
        *,
        cluster_id: bytes,
        uuid: DeviceUuid | None = None,
    ) -> api.Device: ...


@dataclass(slots=True, kw_only=True)
class NodeContext:
    """A running process, ready for its role."""

    name: NodeName
    boot: Boot
    env: Env
    layout: Layout
    settings: NodeSettings
    secrets: Secrets
    """As the files say now: read a field when it is needed, and keep none."""
    map: MapStore
    peers: PeerTable
    dispatcher: Operations
    scope: TaskScope
    """For tasks that live as long as the process; a failure there is logged."""
    metrics: CollectorRegistry
    log: FilteringBoundLogger
    listen: Endpoint | None
    """For front ends; storage nodes have only their rpc address."""
    group_limits: Limits = field(default_factory=Limits)
    """What bounds the replicas of row groups; nobody has had to tune it on a real node."""
    open_device: OpenDevice = Device.open
    """Opens a device of this node; the simulator audits what it opens."""


def endpoint_of(context: NodeContext) -> Endpoint:
    """Where this front end listens; Invalid when nobody said."""
    if context.listen is None:
        raise Invalid(f"{context.name} is a front end: start it with --listen HOST:PORT")
    return context.listen


class Role(Protocol):
    """A started role."""

    def status(self) -> dict[str, Any]:
        """What `node.status` adds for this role: msgpack-able. Cheap, never fails."""
        ...

    async def stop(self) -> None:
        """Stop taking work, finish what was accepted, close. Called once."""
        ...


StartRole = Callable[[NodeContext], Awaitable[Role]]
"""Bind the role's rpc handlers and start it. What it promises holds when it returns: front ends
listen, devices are open. Peers may not be reachable yet."""
