"""How a process becomes a peer of the others: sessions that follow the map, and its own address.

The rule of this file: only `env`-made things, so that the simulator joins nodes the same way.
"""

from pinfold.cluster.map import ClusterMap, MapStore, NodeEntry
from pinfold.env.api import Env
from pinfold.model.ids import NodeName
from pinfold.node.context import NodeContext
from pinfold.rpc.dispatch import Operations
from pinfold.rpc.handshake import Identity
from pinfold.rpc.peers import PeerTable


def join_peers(
    env: Env, identity: Identity, map_store: MapStore, operations: Operations
) -> PeerTable:
    """Sessions with every node the map knows, now and later."""
    peers = PeerTable(env, identity, operations)

    def follow(current: ClusterMap) -> None:
        peers.set_epoch(current.version)
        peers.set_addresses(
            {NodeName(n): entry.address for n, entry in current.nodes.items() if entry.address}
        )

    follow(map_store.get())
    map_store.watch(follow)
    return peers


async def register(context: NodeContext, entry: NodeEntry, address: str) -> None:
    """Listen for peers, then tell them where."""
    await context.peers.listen(address)
    registered = NodeEntry(role=entry.role, address=address, boot=context.boot)
    await context.map.update(lambda current: current.with_node(context.name, registered))
