"""Where things lie in a data directory. The rule of this file: paths only, nothing is touched.

```
DATA/pinfold.json        whose directory this is, and whether its creation finished
DATA/cluster.json        endpoints, token and root keys for the commands (0600)
DATA/lock                held by the supervisor
DATA/secrets/cluster     the cluster secret (0600)
DATA/secrets/sealing     the key that access keys' secrets are sealed with (0600)
DATA/map/                the cluster map (LMDB)
DATA/nodes/NAME.toml     a node's settings, for the operator to edit
DATA/nodes/NAME/         a node's boot number and lock
DATA/devices/NAME/dN/    devices
DATA/logs/NAME.log       JSON lines, rotated
DATA/logs/NAME.access.log, NAME.audit.log   requests of clients, acts of operators
DATA/run/NAME.sock       rpc sockets
```
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pinfold.model.errors import Invalid
from pinfold.model.ids import NodeName

SOCKET_PATH_BYTES_MAX: Final = 100
"""Longest unix socket path we use: the kernel's limit is 107 bytes and a NUL."""

_NODE_NAME_MAX: Final = 32
"""Characters in a node name, so that its socket path stays short."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one data directory; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, data: str | Path) -> "Layout":
        """The layout of a directory that need not exist yet."""
        return cls(Path(data).expanduser().absolute())

    @property
    def marker(self) -> Path:
        """Says that the directory is a Pinfold data directory."""
        return self.root / "pinfold.json"

    @property
    def endpoints(self) -> Path:
        """What the commands need to find and enter the cluster."""
        return self.root / "cluster.json"

    @property
    def lock(self) -> Path:
        """Held by the supervisor that runs this directory."""
        return self.root / "lock"

    @property
    def cluster_secret(self) -> Path:
        """What nodes prove to each other."""
        return self.root / "secrets" / "cluster"

    @property
    def sealing_key(self) -> Path:
        """What access keys' secrets are sealed with in their rows."""
        return self.root / "secrets" / "sealing"

    @property
    def map(self) -> Path:
        """The cluster map's environment."""
        return self.root / "map"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    @property
    def devices(self) -> Path:
        """The devices that `pinfold up` made."""
        return self.root / "devices"

    def log(self, node: NodeName) -> Path:
        """A process's log."""
        return self.logs / f"{node}.log"

    def access_log(self, node: NodeName) -> Path:
        """What a front end answered, a line a request."""
        return self.logs / f"{node}.access.log"

    def audit_log(self, node: NodeName) -> Path:
        """What operators changed through an admin endpoint."""
        return self.logs / f"{node}.audit.log"

    def settings(self, node: NodeName) -> Path:
        """A node's settings file."""
        return self.root / "nodes" / f"{node}.toml"

    def node(self, node: NodeName) -> Path:
        """A node's own directory."""
        return self.root / "nodes" / checked_name(node)

    def device(self, path: str) -> Path:
        """A device's directory: the map's paths are relative so that DATA can be moved."""
        return self.root / path

    def socket_dir(self) -> Path:
        """Where rpc sockets go: DATA/run, or a short private directory when that is too long."""
        run = self.root / "run"
        longest = len(os.fsencode(run)) + 1 + _NODE_NAME_MAX + len(".sock")
        if longest <= SOCKET_PATH_BYTES_MAX:
            return run
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"pinfold-{os.getuid()}-{digest}"

    def rpc_address(self, node: NodeName) -> str:
        """The address other processes of this machine call a node at."""
        return f"unix://{self.socket_dir() / checked_name(node)}.sock"


def checked_name(name: str) -> NodeName:
    """A node name fit for a file name; Invalid otherwise."""
    plain = name.replace("-", "").replace("_", "")
    if not 0 < len(name) <= _NODE_NAME_MAX or not (plain.isascii() and plain.isalnum()):
        raise Invalid(
            f"node name {name!r}: use 1 to {_NODE_NAME_MAX} of a-z, A-Z, 0-9, '-' and '_'"
        )
    return NodeName(name)
