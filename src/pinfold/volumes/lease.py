"""The row of a held volume: taking it, confirming it, and changing it before answers rely on it.

Every change checks the row's version, so it happens only while nobody else has taken the volume;
a lease that was lost shows as `Fenced` from whatever is tried next.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec

from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, Fenced, Full, NotFound, Unavailable
from pinfold.model.ids import Boot, DeviceId, DeviceUuid, OpId
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.row import (
    Holder,
    VolumeRow,
    decode_volume,
    demand_ready,
    encode,
    key_of,
    place_of,
)

_PASSING: Final = (Unavailable, Busy, Full)
"""Why a row may not be changed now: a volume waits until that is over, and fails no request. Full:
the row of a volume on many devices grows by more than is taken where nothing may."""


class Memory(NamedTuple):
    """What a device is as long as it forgets nothing."""

    uuid: DeviceUuid
    boot: Boot


class Silence:
    """Whether a row has stopped changing: judged by our own clock only."""

    def __init__(self) -> None:
        self._version = -1
        self._since = 0.0

    def lasts(self, version: int, now: float) -> float:
        """Seconds for which the row has shown this version."""
        if version != self._version:
            self._version = version
            self._since = now
        return now - self._since


def superseded(row: VolumeRow, me: Holder) -> bool:
    """Whether nobody can be serving the volume any more: free, or held by our own past.

    One process has a gateway's name at a time, so a lower boot of it has ended, and within one
    process a later session begins when the earlier one has closed. Who tends a volume serves
    nobody, and makes room for whoever has a client; it makes none for who tends it, in the same
    process least of all.
    """
    holder = row.holder
    if holder is None or (holder.tending and not me.tending):
        return True
    past = holder.boot < me.boot or (holder.boot == me.boot and holder.tending == me.tending)
    return holder.gateway == me.gateway and past


class Lease:
    """One gateway's hold on one volume."""

    def __init__(
        self, env: Env, rows: Rows, name: str, me: Holder, settings: VolumeSettings
    ) -> None:
        self._env = env
        self._rows = rows
        self._me = me
        self._settings = settings
        self._place = place_of(name)
        self._key = key_of(name)
        self._name = name
        self.accept: Callable[[VolumeRow], None] = _anything
        """Raises Fenced for a row that must not be held: asked before it is taken or confirmed."""
        self._version = 0
        self._changing = asyncio.Lock()
        self.row = VolumeRow(id=b"", size=0, created_ms=0)
        self.confirmed = 0.0
        """When the last change that succeeded was begun, monotonic: until `trust_s` after this
        nobody else has the volume."""

    async def acquire(self, *, force: bool = False) -> VolumeRow:
        """Take the volume, waiting until its holder is gone or silent; the row as it was before.

        Who only tends it does not wait for a holder: Busy when there is one.

        `force` does not wait: whoever forces says that the former holder is gone. Its writes are
        refused in any case, but until its trust ends it may answer reads from members that the new
        holder did not reach. NotFound when there is no such volume.
        """
        silence, looked = Silence(), False
        while True:
            try:
                found = await self._read()
            except (Unavailable, Busy):
                await asyncio.sleep(self._settings.retry_s)
                continue
            before, self._version = found
            self.accept(before)
            silent = silence.lasts(self._version, self._env.clock.monotonic())
            if not (force or superseded(before, self._me) or silent > self._settings.takeover_s):
                if self._me.tending and silent == 0.0 and looked:
                    raise Busy(f"volume {self._name!r} has a holder that lives")
                looked = True
                await asyncio.sleep(self._settings.retry_s)
                continue
            self.row = before
            taken = msgspec.structs.replace(
                before, holder=self._me, token=before.token + 1, beat=before.beat + 1
            )
            try:
                await self._write(taken)
            except Conflict:
                continue
            except _PASSING:
                if not await self._is_ours(taken.token):
                    await asyncio.sleep(self._settings.retry_s)
                    continue
            return before

    async def beat(self, whole: Mapping[DeviceId, Memory], *, settled: bool) -> None:
        """Confirm the lease, and tell which members have every write we answered.

        `settled` says that this is so of every earlier holder's writes too.
        """

        def edit(row: VolumeRow) -> VolumeRow:
            trust = {} if settled else {t: boots for t, boots in row.trust.items() if t < row.token}
            known = {int(d): memory for d, memory in whole.items() if d not in row.out}
            if known:
                trust[row.token] = {device: memory.boot for device, memory in known.items()}
            uuids = {device: memory.uuid for device, memory in known.items()}
            return msgspec.structs.replace(
                row, beat=row.beat + 1, trust=trust, uuids={**row.uuids, **uuids}
            )

        await self._change(edit)

    async def put_out(self, device: DeviceId, spared: Callable[[VolumeRow], bool]) -> int | None:
        """Name a device out of sync; the epoch since which it is.

        None, and nothing has changed, when the row as it is by then must not lose it: another
        device may have been put out since the caller decided.
        """

        def edit(row: VolumeRow) -> VolumeRow:
            if device in row.out or not spared(row):
                return row
            epoch = row.epoch + 1
            return msgspec.structs.replace(
                row,
                epoch=epoch,
                out={**row.out, int(device): epoch},
                trust={token: _without(device, boots) for token, boots in row.trust.items()},
            )

        await self._change(edit)
        return self.row.epoch if device in self.row.out else None

    async def take_in(self, device: DeviceId, memory: Memory) -> None:
        """Name a device in sync again: it has everything, under this boot."""

        def edit(row: VolumeRow) -> VolumeRow:
            trust = dict(row.trust)
            if row.token in trust:
                trust[row.token] = {**trust[row.token], int(device): memory.boot}
            return msgspec.structs.replace(
                row,
                out=_without(device, row.out),
                trust=trust,
                uuids={**row.uuids, int(device): memory.uuid},
            )

        await self._change(edit)

    async def uncut(self, cut: tuple[int, int]) -> None:
        """Nothing is left on devices of what shrinking had cut off."""
        await self._change(
            lambda row: msgspec.structs.replace(row, cut=(0, 0)) if row.cut == cut else row
        )

    async def release(self, boots: Mapping[DeviceId, int]) -> None:
        """Give the volume back; everything must be flushed on the devices given, as they are."""
        seen = {int(device): boot for device, boot in boots.items()}
        await self._change(
            lambda row: msgspec.structs.replace(
                row, holder=None, trust={}, seen=seen, beat=row.beat + 1
            )
        )

    async def leave(self) -> None:
        """Give the volume back as it is, nobody being served: the next holder settles the rest.

        Nothing is done for a volume that was not taken.
        """
        if self.row.holder != self._me:
            return
        self.accept = _anything
        await self._change(lambda row: msgspec.structs.replace(row, holder=None, beat=row.beat + 1))

    async def _change(self, edit: Callable[[VolumeRow], VolumeRow]) -> None:
        """Apply an edit that may be repeated, until it is in the row. Fenced when it is lost."""
        async with self._changing:
            while True:
                edited = edit(self.row)
                if edited == self.row:
                    return
                try:
                    await self._write(edited)
                    return
                except (Conflict, *_PASSING) as error:
                    if not isinstance(error, Conflict):
                        await asyncio.sleep(self._settings.retry_s)
                await self._refresh()

    async def _write(self, row: VolumeRow) -> None:
        began = self._env.clock.monotonic()
        change = Change(
            op_id=OpId(self._env.rng.randbytes(16)),
            checks=(Check("version", self._key, self._version),),
            puts=((self._key, Row(encode(row))),),
        )
        changed = await self._rows.change(self._place, change)
        self._version = changed.version
        self.row = row
        self.confirmed = began

    async def _read(self) -> tuple[VolumeRow, int]:
        found = await self._rows.get(self._place, self._key)
        if found is None:
            raise NotFound(f"there is no volume {self._name!r}")
        row = decode_volume(found.body)
        demand_ready(self._name, row)
        return row, found.version

    async def _refresh(self) -> None:
        """Read the row again after a change whose outcome is unknown or that came too late."""
        while True:
            try:
                row, version = await self._read()
                break
            except NotFound as error:
                raise Fenced(error.message) from error
            except (Unavailable, Busy):
                await asyncio.sleep(self._settings.retry_s)
        if row.holder != self._me or row.token != self.row.token:
            raise Fenced(f"volume {self._name!r} has another holder")
        self.accept(row)
        self.row, self._version = row, version

    async def _is_ours(self, token: int) -> bool:
        """Whether the volume was taken by a change whose answer was lost.

        The row may have changed again since.
        """
        try:
            row, version = await self._read()
        except (Unavailable, Busy):
            return False
        if row.holder != self._me or row.token != token:
            return False
        self.row, self._version = row, version
        self.accept(row)
        return True


def _anything(_row: VolumeRow) -> None:
    """Nobody was told anything of the volume."""


def _without(device: DeviceId, by_device: Mapping[int, int]) -> dict[int, int]:
    return {other: value for other, value in by_device.items() if other != device}
