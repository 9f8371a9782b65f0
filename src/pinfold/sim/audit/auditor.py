"""Opens devices for simulated nodes, and audits each against its own past."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from pinfold.cluster.api import BlobRef
from pinfold.cluster.map import DeviceEntry
from pinfold.device import api
from pinfold.device.device import Device
from pinfold.env.api import Env
from pinfold.model.ids import BlobId, DeviceId, DeviceUuid
from pinfold.model.settings import DeviceSettings
from pinfold.sim.account import Account
from pinfold.sim.audit.agreement import RULE, Agreement, Member
from pinfold.sim.audit.blobs import BlobLedger, Blobs
from pinfold.sim.audit.effects import Effects
from pinfold.sim.audit.extents import ExtentLedger, Extents
from pinfold.sim.audit.log import Applied, Log, LogLedger
from pinfold.sim.audit.rows import RowLedger, Rows
from pinfold.sim.audit.volumes import VolumeAudit
from pinfold.sim.events import Events

Tell = Callable[[str], None]
"""Takes the name of what has just happened to a device."""

_RULE: Final = "a device's word"

_COPIES_MIN: Final = 2
"""On so many nodes a blob is before anybody is told so: the policy's quorum."""

_VOLUMES_RULE: Final = "a holder's word"


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
    """Every device of a run and its ledger, and what they have agreed on.

    `keep_s` is how long blobs are kept at least that no row names any more.
    """

    def __init__(self, account: Account, events: Events, keep_s: float = 0.0) -> None:
        self._account = account
        self._events = events
        self._disagree = disagree = partial(account.violated, RULE)
        self.effects = Effects(disagree, account.now, keep_s)
        self.agreement = Agreement(disagree, self.effects)
        self.devices: tuple[DeviceEntry, ...] = ()
        """Of the cluster, once it has been made."""
        self._ledgers: dict[bytes, Ledger] = {}
        self.volumes = VolumeAudit(
            lambda what: account.violated(_VOLUMES_RULE, what),
            account.now,
            lambda uuid: self.of(uuid).extents,
        )

    def know(self, devices: tuple[DeviceEntry, ...]) -> None:
        """The cluster has these devices."""
        self.devices = devices
        for entry in devices:
            self.agreement.devices[bytes(entry.uuid)] = DeviceId(entry.id)

    def of(self, uuid: bytes) -> Ledger:
        """The ledger of a device."""
        return self._ledgers.setdefault(bytes(uuid), Ledger())

    @property
    def rows(self) -> list[RowLedger]:
        """What every device applied to its rows."""
        return [ledger.rows for ledger in self._ledgers.values()]

    def forget(self, uuid: bytes) -> None:
        """All that this device acknowledged was taken from it."""
        self._ledgers.pop(bytes(uuid), None)

    def stored(self, ref: BlobRef) -> None:
        """Somebody was told that these devices have a blob.

        Clusters have three nodes or more, and the ring gives each copy of a blob one of its own:
        so no two that an answer counts may be on the same.
        """
        entries = {entry.id: entry for entry in self.devices if entry.id in ref.devices}
        for device, entry in entries.items():
            blobs = self.of(entry.uuid).blobs
            if BlobId(ref.id) not in blobs.kept.keys() | blobs.placeless.keys():
                self._disagree(f"blob {ref.id.hex()} is said to be on device {device}")
        if len({entry.node for entry in entries.values()}) < _COPIES_MIN:
            self._disagree(f"blob {ref.id.hex()} is on devices {ref.devices} of one node")

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
        ledger.extents.opened(inner.boot)
        self._events.tell("device opened", node)
        member = Member(self.agreement, bytes(inner.uuid), inner.log, inner.rows)
        tell = self._tell_of(node)
        audited = _Audited(inner, ledger, member, self.effects, accuse, tell, self.volumes.row)
        return cast(api.Device, audited)

    def _tell_of(self, node: str) -> Tell:
        tell = self._events.tell
        return lambda name: tell(name, node)


class _Audited:
    """An open device whose calls are noted; whatever is not noted goes through."""

    def __init__(
        self,
        inner: Device,
        ledger: Ledger,
        member: Member,
        effects: Effects,
        accuse: Callable[[str], None],
        tell: Tell,
        applied: Applied,
    ) -> None:
        self._inner = inner
        self.log = Log(inner.log, ledger.log, ledger.rows, member, accuse, tell, applied)
        self.rows = Rows(inner.rows, inner.log, ledger.rows, accuse)
        self.blobs = Blobs(inner.blobs, ledger.blobs, effects, accuse, tell)
        self.extents = Extents(inner.extents, ledger.extents, accuse, tell)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
