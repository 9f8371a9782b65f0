"""What a process may hold in memory by its settings; docs/operating.md explains the sums.

The sums take every queue as full at once, so they are far above what is ever seen. They are what
must not be exceeded, whatever clients do.
"""

from pinfold.model.limits import KIB, MIB
from pinfold.node.settings import NodeSettings
from pinfold.rpc.limits import CREDIT_WINDOW_BYTES, STREAMS, RpcLimits

PROCESS_BYTES = 160 * MIB
"""Interpreter, libraries, and freed memory that is kept for the next buffers."""

PEERS = 5
"""Other processes of a cluster that `pinfold up` has made."""


def rss_bound(role: str, settings: NodeSettings) -> int:
    """Resident bytes that a process of a role stays below."""
    rpc = RpcLimits()
    asks = PEERS * rpc.send_bytes
    if role == "s3":
        s3 = settings.s3
        bodies = s3.requests_in_flight_max * 2 * s3.read_buffer_bytes
        connections = s3.connections_max * 25 * KIB
        memory = s3.objects.write_memory_bytes + s3.objects.read_memory_bytes
        memory += 4 * s3.document_memory_bytes  # with what is made of them
        return PROCESS_BYTES + memory + settings.blobs.behind_bytes + bodies + connections + asks
    if role == "nbd":
        buffers = settings.nbd.connections_max * 272 * KIB
        volume = settings.volumes.retained_bytes + settings.volumes.window_bytes
        return PROCESS_BYTES + settings.nbd.total_bytes + buffers + volume + asks
    if role == "admin":
        return PROCESS_BYTES + 64 * MIB + asks
    device = settings.device
    answers = PEERS * (rpc.held_bytes + 2 * rpc.send_bytes + STREAMS * CREDIT_WINDOW_BYTES)
    journal = 2 * device.unapplied_bytes + device.log_tail_bytes
    return PROCESS_BYTES + journal + 128 * MIB + answers + asks


def rss_of(pid: int) -> int:
    """Resident bytes of a process now; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0
