"""Where the node layer meets the device layer: making devices and opening those of a node."""

from pinfold.env.api import Env
from pinfold.model.ids import DeviceUuid


def format_device(env: Env, path: str, cluster_id: bytes) -> DeviceUuid:
    """Make the directory `path` into an empty device of the cluster."""
    return DeviceUuid(env.rng.randbytes(16))
