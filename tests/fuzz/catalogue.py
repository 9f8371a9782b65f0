"""Every target there is."""

from typing import Final

from tests.fuzz import (
    device_targets,
    file_targets,
    http_targets,
    nbd_targets,
    operation_targets,
    rpc_targets,
    s3_targets,
)
from tests.fuzz.harness import Target

TARGETS: Final[tuple[Target, ...]] = (
    *rpc_targets.TARGETS,
    *nbd_targets.TARGETS,
    *s3_targets.TARGETS,
    *http_targets.TARGETS,
    *operation_targets.TARGETS,
    *file_targets.TARGETS,
    *device_targets.TARGETS,
)
