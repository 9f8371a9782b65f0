"""Opens devices for simulated nodes, and audits each against its own past."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, cast

from pinfold.device import api
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.ids import BlobId, DeviceUuid
from pinfold.model.settings import DeviceSettings
from pinfold.sim.account import Account
from pinfold.sim.audit.blobs import BlobLedger, Blobs
from pinfold.sim.audit.extents import ExtentLedger, Extents
from pinfold.sim.audit.log import Log, LogLedger
from pinfold.sim.audit.rows import RowLedger, Rows
from pinfold.sim.events import Events

Tell = Callable[[str], None]
"""Takes the name of what has just happened to a device."""

_RULE: Final = "a device's word"


@dataclass(slots=True)
class Ledger:
    """What one device acknowledged in all its lives."""

    log: LogLedger = field(default_factory=LogLedger)
    rows: RowLedger = field(default_factory=RowLedger)
    blobs: BlobLedger = field(default_factory=BlobLedger)
    extents: ExtentLedger = field(default_factory=ExtentLedger)

    def rotten(self) -> None:
        """Some of its bytes were changed: from now on they may fail verification, but not lie."""
        self.blobs.rotten = self.extents.rotten = True

    def rotten_rows(self, keys: Iterable[bytes]) -> None:
        """These rows of its index were changed: a blob of one is set aside, a volume lost."""
        self.rotten()
        for key in keys:
            self.blobs.lose_place(BlobId(key[1:]))
            if key[:1] == b"e":
                self.extents.forget_extents()

    def rebuilt(self, *, whole: bool) -> None:
        """It has a new index: votes are given up, and everything but blobs, views and tokens
        unless the journal was `whole`.
        """
        self.log.forget_votes()
        self.blobs.rebuilt()
        if whole:
            return
        self.log.forget_entries()
        self.rows.forget()
        self.extents.forget_extents()


class Auditor:
    """Every device of a run and its ledger."""

    def __init__(self, account: Account, events: Events) -> None:
        self._account = account
        self._events = events
        self._ledgers: dict[bytes, Ledger] = {}

    def of(self, uuid: bytes) -> Ledger:
        """The ledger of a device."""
        return self._ledgers.setdefault(bytes(uuid), Ledger())

    def forget(self, uuid: bytes) -> None:
        """All that this device acknowledged was taken from it."""
        self._ledgers.pop(bytes(uuid), None)

    async def open(
        self,
        node: str,
        env: Env,
        path: str,
        settings: DeviceSettings,
        *,
        cluster_id: bytes,
        uuid: DeviceUuid | None = None,
    ) -> api.Device:
        """See `device.Device.open`; the device is compared with its past before it is used."""
        inner = await Device.open(env, path, settings, cluster_id=cluster_id, uuid=uuid)
        ledger = self.of(inner.uuid)

        def accuse(what: str) -> None:
            self._account.violated(_RULE, f"{path} at boot {inner.boot}: {what}")

        ledger.log.compare(inner.log, accuse)
        ledger.rows.compare(inner.log, inner.rows, accuse)
        await ledger.blobs.compare(inner.blobs, accuse)
        await ledger.extents.compare(inner.extents, accuse)
        self._events.tell("device opened", node)
        return cast(api.Device, _Audited(inner, ledger, accuse, self._tell_of(node)))

    def _tell_of(self, node: str) -> Tell:
        tell = self._events.tell
        return lambda name: tell(name, node)


class _Audited:
    """An open device whose calls are noted; whatever is not noted goes through."""

    def __init__(
        self, inner: api.Device, ledger: Ledger, accuse: Callable[[str], None], tell: Tell
    ) -> None:
        self._inner = inner
        self.log = Log(inner.log, ledger.log, ledger.rows, tell)
        self.rows = Rows(inner.rows, inner.log, ledger.rows, accuse)
        self.blobs = Blobs(inner.blobs, ledger.blobs, accuse, tell)
        self.extents = Extents(inner.extents, ledger.extents, accuse, tell)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
