"""Volumes by name: create, list, show, resize, delete.

Creating and deleting touch two groups of the row log (the volume's and the index's) and every
device. There is no two-phase commit: the volume row decides. It is `creating` until the index row
is there, and `deleting` until its data is gone, so that every step can be repeated, a volume that
may be used is never without an index row, and a crash leaves at worst a row that the next attempt
takes over.

The index row says what the volume row says. Whoever changes the latter writes the former behind it,
as `_reindex` argues.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Row, Rows
from pinfold.cluster.extents import ExtentClient
from pinfold.codec import names
from pinfold.env.api import Env
from pinfold.model.errors import Busy, Conflict, Fenced, Invalid, NotFound, Unavailable
from pinfold.model.ids import DeviceId, OpId, Token, VolumeId
from pinfold.model.limits import VOLUME_BYTES_MAX
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.row import (
    INDEX_PLACE,
    Holder,
    IndexRow,
    Told,
    VolumeRow,
    decode_index,
    decode_volume,
    demand_ready,
    encode,
    index_key,
    key_of,
    name_of,
    place_of,
)

NAME_BYTES_MAX: Final = 255
"""Longest volume name, UTF-8 bytes: what clients and file names of exports can carry."""

SIZE_UNIT: Final = 512
"""Sizes are multiples of a sector: kernels and hypervisors drop what does not fill one."""

PAGE: Final = 1000
"""Index rows per scan."""

DROP_S: Final = 10.0
"""Time a device has to drop a deleted volume's extents."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeShown:
    """A volume as operators and front ends see it."""

    name: str
    id: bytes
    size: int
    created_ms: int
    copies: int
    min_in_sync: int
    holder: str | None
    """The gateway that serves it."""
    live: bool
    """Whether that gateway has confirmed it lately."""
    out_of_sync: tuple[int, ...]
    """Devices that are being or have to be resynchronised."""
    unsettled: bool
    """A holder died, and what it left unflushed has not been made equal on all devices."""
    seen: dict[int, int]
    """While nobody holds it: the boot of each device in sync at which its copies were known to be
    good. Empty for a volume that was never written."""
    state: str

    @property
    def told(self) -> Told:
        """What whoever attaches to it was told."""
        return Told(self.id, self.size)


class Registry:
    """The volumes of a cluster. Every call may raise Unavailable; what it did is then unknown and
    it may be repeated.
    """

    def __init__(
        self,
        env: Env,
        rows: Rows,
        extents: ExtentClient,
        devices: Callable[[], Sequence[DeviceId]],
        settings: VolumeSettings,
    ) -> None:
        self._env = env
        self._rows = rows
        self._extents = extents
        self._devices = devices
        self._settings = settings

    async def create(self, name: str, size: int) -> VolumeShown:
        """Make an empty volume. Conflict when the name is taken, Invalid for a bad name or size."""
        _check_name(name)
        _check_size(size)
        copies = min(self._settings.copies, len(self._devices()))
        if not copies:
            raise Unavailable("the cluster has no devices for volumes")
        row = VolumeRow(
            id=self._env.rng.randbytes(16),
            size=size,
            created_ms=int(self._env.clock.wall() * 1000),
            copies=copies,
            min_in_sync=min(self._settings.min_in_sync, copies),
            state="creating",
        )
        version = await self._claim(name, row)
        await self._reindex(name, row.id)
        ready = msgspec.structs.replace(row, state="ready")
        try:
            await self._put(name, ready, Check("version", key_of(name), version))
        except Conflict:
            raise Conflict(f"volume {name!r} was created or deleted meanwhile") from None
        await self._reindex(name, row.id)
        return _shown(name, ready, live=False)

    async def names(self, *, limit: int) -> list[str]:
        """The first `limit` volumes' names, in order."""
        return list(await self._scan(limit))

    async def indexed(self, after: str, limit: int) -> Sequence[str]:
        """Up to `limit` names behind one, in the index's order: of volumes in any state, and of
        some that are none. No volume is without.
        """
        start = index_key(after) + b"\x00" if after else b"l"
        page = await self._rows.scan(INDEX_PLACE, start, names.successor(b"l"), limit)
        return [name_of(key) for key, row in page.items if row is not None]

    async def list(self, *, limit: int = 1_000_000) -> Sequence[VolumeShown]:
        """The first `limit` volumes, in order of their names."""
        shown = []
        for name in await self._scan(limit):
            try:
                shown.append(await self.show(name))
            except NotFound:
                continue  # deleted since
        return shown

    async def show(self, name: str) -> VolumeShown:
        """One volume; NotFound when there is none."""
        row, _version, stamp_ms = await self._get(name)
        demand_ready(name, row)
        return _shown(name, row, live=self._is_live(row, stamp_ms))

    async def resize(self, name: str, size: int, *, force: bool = False) -> VolumeShown:
        """Change the size. Shrinking cuts off data and is refused (Conflict) unless forced.

        A gateway that serves the volume closes its clients' connections within seconds; they
        see the new size when they connect again. Shrinking ends when it has been told: what it
        answers later is not cut off any more, whatever the size is by then.
        """
        _check_size(size)
        while True:
            row, version, stamp_ms = await self._get(name)
            demand_ready(name, row)
            if size < row.size and not force:
                raise Conflict(f"{size} bytes would cut off data of {name!r}; force it to shrink")
            resized = msgspec.structs.replace(row, size=size, cut=_cut(row, size))
            try:
                await self._put(name, resized, Check("version", key_of(name), version))
            except Conflict:
                continue  # its holder confirmed it meanwhile
            await self._reindex(name, row.id)
            if resized.cut != (0, 0) and _serves(row.holder):
                await self._stopped(name, row.holder)
            return _shown(name, resized, live=self._is_live(row, stamp_ms))

    async def delete(self, name: str, *, force: bool = False, only: VolumeId | None = None) -> None:
        """Forget a volume and its data. Conflict while a live gateway serves it, unless forced.

        A device that cannot be reached keeps its extents until it is asked again. With `only`,
        another volume that has the name by now is left alone.
        """
        while True:
            try:
                row, version, _stamp = await self._get(name)
            except NotFound:
                if await self._unlist(name):
                    return  # an earlier attempt had come so far
                raise
            if only is not None and row.id != only:
                return
            if not force and _serves(row.holder) and await self._beats(name, row):
                assert row.holder is not None
                raise Conflict(f"volume {name!r} is in use by {row.holder.gateway}; force it")
            deleting = msgspec.structs.replace(
                row, state="deleting", holder=None, token=row.token + 1
            )
            try:
                await self._put(name, deleting, Check("version", key_of(name), version))
                break
            except Conflict:
                continue
        await self._finish(name, deleting, held=row.holder is not None)

    async def _finish(self, name: str, row: VolumeRow, *, held: bool) -> None:
        """Drop what a volume marked as being deleted has on devices, and then its rows.

        The index row is hidden first and goes last: whoever looks for volumes by the index misses
        none. Each goes only if it is still this volume's.
        """
        await self._reindex(name, row.id)
        if held:
            await self._evict(row)
        await self._drop(VolumeId(row.id))
        await self._remove(name, row.id)
        await self._unlist(name)

    async def _reindex(self, name: str, volume: bytes) -> None:
        """Have the index row say what the volume row says, while that is this volume's.

        The index row is read before the volume row, and written only if nobody has written it
        since. So whoever writes it behind the one that knew the latest volume row knows that too.
        """
        while True:
            listed = await self._rows.get(INDEX_PLACE, index_key(name))
            try:
                row, _version, _stamp = await self._get(name)
            except NotFound:
                return
            if row.id != volume:
                return
            index = IndexRow(
                id=row.id, size=row.size, created_ms=row.created_ms, ready=row.state == "ready"
            )
            put = (index_key(name), Row(encode(index)))
            try:
                await self._change(INDEX_PLACE, checks=(_unchanged(name, listed),), puts=(put,))
            except Conflict:
                continue
            if listed is None:  # it may have come and gone, with the volume, since it was read
                await self._unlist(name)
            return

    async def _unlist(self, name: str) -> bool:
        """Remove an index row of no volume; whether there was one.

        Read before the volume row as well: the index row of a volume made since is another version.
        """
        while True:
            listed = await self._rows.get(INDEX_PLACE, index_key(name))
            if listed is None or await self._rows.get(place_of(name), key_of(name)) is not None:
                return False
            check = _unchanged(name, listed)
            with contextlib.suppress(Conflict):
                await self._change(INDEX_PLACE, checks=(check,), deletes=(index_key(name),))
                return True

    async def _remove(self, name: str, volume: bytes) -> None:
        """Remove a volume's row, if it is still this volume's."""
        while True:
            try:
                found, version, _stamp = await self._get(name)
                if found.id != volume:
                    return
                check = Check("version", key_of(name), version)
                await self._change(place_of(name), checks=(check,), deletes=(key_of(name),))
            except NotFound:
                return
            except Conflict:
                continue
            return

    async def _evict(self, row: VolumeRow) -> None:
        """See that a holder has stopped, so that it does not begin anew what is dropped.

        One that asks devices is fenced; one that does not reads its row within a beat.
        """
        for device in self._devices():
            deadline = self._env.clock.monotonic() + self._settings.claim_s
            with contextlib.suppress(Unavailable, Fenced, Conflict):
                await self._extents.claim(
                    device, VolumeId(row.id), Token(row.token), 1, deadline=deadline
                )
        await asyncio.sleep(2 * self._settings.beat_s)

    async def _drop(self, volume: VolumeId) -> None:
        for device in self._devices():
            try:
                await self._extents.drop(
                    device, volume, deadline=self._env.clock.monotonic() + DROP_S
                )
            except Unavailable:
                continue

    async def _beats(self, name: str, row: VolumeRow) -> bool:
        """Whether a volume's holder lives: its row changes sooner than others may take it."""
        until = self._env.clock.monotonic() + self._settings.takeover_s
        while self._env.clock.monotonic() <= until:
            found, _version, _stamp = await self._get(name)
            if found.holder != row.holder:
                return False
            if found.beat != row.beat:
                return True
            await asyncio.sleep(self._settings.retry_s)
        return False

    async def _stopped(self, name: str, holder: Holder | None) -> None:
        """Wait until a holder has stopped at a change of the row, which it cannot confirm any more:
        it has given the volume back, or its trust has ended.
        """
        until = self._env.clock.monotonic() + self._settings.takeover_s
        while self._env.clock.monotonic() <= until:
            with contextlib.suppress(Unavailable, Busy):
                found, _version, _stamp = await self._get(name)
                if found.holder != holder or found.cut == (0, 0):
                    return
            await asyncio.sleep(self._settings.retry_s)

    def _is_live(self, row: VolumeRow, stamp_ms: int) -> bool:
        """Whether the holder confirmed its row lately, by wall clocks: good enough to be shown."""
        if row.holder is None or not _serves(row.holder):
            return False
        age = self._env.clock.wall() - stamp_ms / 1000
        return age < self._settings.takeover_s

    async def _scan(self, limit: int) -> Sequence[str]:
        found: list[str] = []
        start: bytes | None = b"l"
        end = names.successor(b"l")
        while start is not None and len(found) < limit:
            page = await self._rows.scan(INDEX_PLACE, start, end, PAGE)
            for key, row in page.items:
                if row is not None and (decode_index(row.body).ready or await self._ready(key)):
                    found.append(name_of(key))
            start = page.next_start
        return found[:limit]

    async def _ready(self, key: bytes) -> bool:
        """Whether a volume may be used that its index row does not show: whoever created it may
        have stopped just before that.
        """
        with contextlib.suppress(NotFound):
            row, _version, _stamp = await self._get(name_of(key))
            return row.state == "ready"
        return False

    async def _get(self, name: str) -> tuple[VolumeRow, int, int]:
        """(row, version, stamp); NotFound."""
        found = await self._rows.get(place_of(name), key_of(name))
        if found is None:
            raise NotFound(f"there is no volume {name!r}")
        return decode_volume(found.body), found.version, found.stamp_ms

    async def _put(self, name: str, row: VolumeRow, check: Check) -> int:
        return await self._change(
            place_of(name), checks=(check,), puts=((key_of(name), Row(encode(row))),)
        )

    async def _claim(self, name: str, row: VolumeRow) -> int:
        """Write the row of a volume that is about to exist; its version.

        One that somebody else has not finished is replaced: that one finds another version.
        Conflict when there is a volume, or one that is not gone yet.
        """
        while True:
            check = Check("absent", key_of(name))
            with contextlib.suppress(NotFound):
                found, version, _stamp = await self._get(name)
                if found.state != "creating":
                    await self._reindex(name, found.id)  # a crash may have come before that
                    raise Conflict(f"volume {name!r} exists already")
                check = Check("version", key_of(name), version)
            with contextlib.suppress(Conflict):
                return await self._put(name, row, check)

    async def _change(
        self,
        place: bytes,
        *,
        checks: tuple[Check, ...] = (),
        puts: tuple[tuple[bytes, Row], ...] = (),
        deletes: tuple[bytes, ...] = (),
    ) -> int:
        op_id = OpId(self._env.rng.randbytes(16))
        change = Change(op_id=op_id, checks=checks, puts=puts, deletes=deletes)
        return (await self._rows.change(place, change)).version


def _unchanged(name: str, listed: Row | None) -> Check:
    """That an index row is still as it was read."""
    if listed is None:
        return Check("absent", index_key(name))
    return Check("version", index_key(name), listed.version)


def _shown(name: str, row: VolumeRow, *, live: bool) -> VolumeShown:
    return VolumeShown(
        name=name,
        id=row.id,
        size=row.size,
        created_ms=row.created_ms,
        copies=row.copies,
        min_in_sync=row.min_in_sync,
        holder=row.holder.gateway if row.holder and not row.holder.tending else None,
        live=live,
        out_of_sync=tuple(sorted(row.out)),
        unsettled=bool(row.trust) and not live,
        seen={} if live or row.holder else row.seen,
        state=row.state,
    )


def _serves(holder: Holder | None) -> bool:
    """Whether a volume's holder is one that has clients."""
    return holder is not None and not holder.tending


def _cut(row: VolumeRow, size: int) -> tuple[int, int]:
    """What a volume of this size must zero before it is served again."""
    if size >= row.size:
        return row.cut
    first, end = row.cut if row.cut[1] else (size, row.size)
    return min(first, size), max(end, row.size)


def _check_name(name: str) -> None:
    encoded = name.encode()
    if not encoded or len(encoded) > NAME_BYTES_MAX:
        raise Invalid(f"a volume name has 1 to {NAME_BYTES_MAX} bytes")
    if any(character <= " " or character in '\x7f"\\' for character in name):
        raise Invalid("a volume name has no spaces, quotes, backslashes or control characters")


def _check_size(size: int) -> None:
    if not 0 < size <= VOLUME_BYTES_MAX or size % SIZE_UNIT:
        raise Invalid(
            f"a volume has {SIZE_UNIT} to {VOLUME_BYTES_MAX} bytes, in multiples of {SIZE_UNIT},"
            f" not {size}"
        )
