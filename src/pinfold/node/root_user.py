"""Makes the root user's key work: the one credential that exists before any other.

Its secret lives in cluster.json and, like every user's, in a row; a gateway serves once the row is
there.
"""

import asyncio
from contextlib import suppress
from typing import Final

from structlog.typing import FilteringBoundLogger

from pinfold.accounts.accounts import Accounts
from pinfold.model.errors import Busy, Conflict, Unavailable
from pinfold.node.access import Access
from pinfold.node.secrets import Secrets

ROOT: Final = "root"

RETRY_S: Final = 0.1
"""Between attempts while the row log has no majority yet."""


async def ensure_root_user(accounts: Accounts, secrets: Secrets, log: FilteringBoundLogger) -> None:
    """Return once the root key of cluster.json is known to the cluster; tries for ever."""
    while True:
        try:
            await _ensure(accounts, secrets.access)
            return
        except (Busy, Unavailable) as error:
            log.info("root user not there yet", reason=error.message)
            await asyncio.sleep(RETRY_S)


async def _ensure(accounts: Accounts, access: Access) -> None:
    """Idempotent. Conflict when the access key belongs to somebody else or has another secret."""
    known = await accounts.lookup(access.access_key)
    if known is None:
        with suppress(Conflict):  # an earlier start got this far
            await accounts.create_user(ROOT)
        known = await accounts.create_key(
            ROOT, access_key=access.access_key, secret=access.secret_key
        )
    if (known.user, known.secret) != (ROOT, access.secret_key):
        raise Conflict("the root access key of cluster.json is not the one the cluster knows")
