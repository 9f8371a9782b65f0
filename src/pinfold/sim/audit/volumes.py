"""What holders of volumes promise, compared with the row and the devices at that very instant.

A copy that lacks a write is seen by clients only when all the others are lost. So whatever relies
on members (an answer, a change of the row) is looked at here, across all devices: has each one that
the row names in sync what docs/volumes-protocol.md says that it has?
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pinfold.cluster.groups.entries import decode_row
from pinfold.model.errors import Corrupt, Full
from pinfold.model.ids import DeviceId, VolumeId
from pinfold.sim.audit.cells import NOTHING, Answered, Cell, Place, cells_of
from pinfold.sim.audit.extents import ExtentLedger, VolumeLedger
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, ZERO, Io
from pinfold.volumes.row import VolumeRow, decode_volume, key_of
from pinfold.volumes.spans import EXTENT_SHIFT

_FORCED_S: Final = 12.0
"""Who forces a volume has it within this time: as long as a change of its row may last."""

_ROW: Final = key_of("")[:1]

_CHANGES: Final = (WRITE, ZERO, TRIM)

_GOES_ON: Final = (Full, Corrupt)
"""What a holder answers a write with and goes on: it leaves its members equal."""

Placement = Callable[[VolumeId, int], tuple[DeviceId, ...]]


@dataclass(slots=True)
class _Volume:
    """One volume as its row has it."""

    row: VolumeRow
    version: int
    cells: dict[Place, Cell] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    """The last that each gateway had."""
    taken_at: float = 0.0
    """When the volume went to another holder, whose predecessor had stopped by then."""
    out_at: float = 0.0
    """When the row named other devices out of sync."""


@dataclass(slots=True)
class _Asked:
    """A request on its way."""

    gateway: str
    volume: _Volume
    began: float


class VolumeAudit:
    """Every volume of a run."""

    def __init__(
        self,
        accuse: Callable[[str], None],
        now: Callable[[], float],
        ledger: Callable[[bytes], ExtentLedger],
    ) -> None:
        self._accuse = accuse
        self._now = now
        self._ledger = ledger
        self._volumes: dict[bytes, _Volume] = {}
        self._asked: dict[Io, _Asked] = {}
        self._forced: dict[bytes, float] = {}
        self.place: Placement | None = None
        """Set by the first gateway; it never changes."""

    # What clients ask for

    def began(self, gateway: str, name: str, io: Io) -> None:
        """A request was sent to a gateway."""
        volume = self._volumes.get(key_of(name))
        if volume is None:
            return
        self._asked[io] = _Asked(gateway, volume, self._now())
        if io.kind in _CHANGES:
            for place, content in cells_of(io):
                volume.cells.setdefault(place, Cell()).begin(io, content, self._now())

    def ended(self, io: Io) -> None:
        """A request was answered; see `Io.error`."""
        asked = self._asked.pop(io, None)
        if asked is None:
            return
        certain = io.error is None
        if certain and asked.volume.row.state == "ready":
            self._judge_answer(io, asked)
        if io.kind in _CHANGES:
            self._end(io, asked, certain=certain, stopped=not isinstance(io.error, _GOES_ON))

    def died(self, gateway: str) -> None:
        """A gateway has ended: what it was asked for may have happened."""
        for io, asked in list(self._asked.items()):
            if asked.gateway == gateway:
                del self._asked[io]
                if io.kind in _CHANGES:
                    self._end(io, asked, certain=False, stopped=True)

    def forced(self, name: str) -> None:
        """Somebody takes a volume whose holder may go on for a while."""
        self._forced[key_of(name)] = self._now() + _FORCED_S

    def out_of_sync(self, name: str) -> bool:
        """Whether a device is, by the row as it was agreed last."""
        volume = self._volumes.get(key_of(name))
        return volume is not None and bool(volume.row.out)

    def _end(self, io: Io, asked: _Asked, *, certain: bool, stopped: bool) -> None:
        """A write is over. Its holder may have stopped with it sent to some members only."""
        row = asked.volume.row
        holds = row.holder is not None and row.holder.gateway == asked.gateway
        for place, content in cells_of(io):
            cell = asked.volume.cells[place]
            cell.end(io, self._now(), certain=certain)
            if stopped and holds and not certain:
                cell.left[content] = row.token

    def _judge_answer(self, io: Io, asked: _Asked) -> None:
        volume = asked.volume
        token = volume.tokens.get(asked.gateway, 0)
        if volume.taken_at > 0 and token < volume.row.token and asked.began > volume.taken_at:
            self._say(volume, f"token {token} answers when {volume.row.token} has the volume")
        if token != volume.row.token:
            return
        if io.kind == READ:
            self._judge_read(io, volume)
        elif io.kind in _CHANGES:
            self._judge_write(io, asked)
        elif io.kind == FLUSH:
            self._judge_flush(volume, asked.began)

    def _judge_write(self, io: Io, asked: _Asked) -> None:
        """R2, R4: each member has it, under a boot that the row trusts."""
        volume, row = asked.volume, asked.volume.row
        trusted = row.trust.get(row.token)
        if trusted is None:
            self._say(volume, f"a write is answered before the row trusts token {row.token}")
            return
        for place, content in cells_of(io):
            cell, keepers = volume.cells[place], dict[int, int]()
            for device, ledger, known in self._members(volume, place[0]):
                newest, again = known.newest(place), known.born_again(place)
                if trusted.get(device) == ledger.boot:
                    keepers[int(device)] = ledger.boot
                    if cell.older(newest, asked.began):
                        self._say(volume, f"{place} was answered, device {device} has {newest!r}")
                elif again and newest == content != NOTHING and known.durable(place) != content:
                    self._say(volume, f"{place} was answered by device {device}, not trusted")
            there = content == NOTHING and self._is_zero(volume, place)
            if len(self._in_sync(volume, place[0])) < row.min_in_sync and (
                volume.out_at < asked.began and not there
            ):
                self._say(volume, f"{place} was answered without {row.min_in_sync} members")
            cell.answered.append(Answered(content, asked.began, self._now(), row.token, keepers))
            if io.fua:
                self._judge_durable(volume, place, cell, self._now(), "it was to be flushed")
                cell.cover(self._now(), lambda one: self._valid(volume, one))

    def _judge_read(self, io: Io, volume: _Volume) -> None:
        """What is shown is on every member, so that nothing can take it back."""
        trusted = volume.row.trust.get(volume.row.token, {})
        found = b"".join(io.parts)
        for place, cell in volume.cells.items():
            at = (place[0] << EXTENT_SHIFT) + place[1] - io.offset
            if not 0 <= at < io.length:
                continue
            content = found[at : at + len(NOTHING)]
            began = cell.began.get(content)
            if content == NOTHING or began is None:
                continue
            for device, ledger, known in self._members(volume, place[0]):
                newest = known.newest(place)
                if trusted.get(device) == ledger.boot and cell.older(newest, began):
                    self._say(
                        volume, f"{place} was shown as {content!r}, device {device} has {newest!r}"
                    )

    def _judge_flush(self, volume: _Volume, began: float) -> None:
        """R5: what had been answered is durable on every member."""
        for place, cell in volume.cells.items():
            if cell.answered:
                self._judge_durable(volume, place, cell, began, "a flush was answered")
                cell.cover(began, lambda one: self._valid(volume, one))

    def _judge_durable(
        self, volume: _Volume, place: Place, cell: Cell, before: float, when: str
    ) -> None:
        """What was answered before is flushed on each member in sync."""
        owed = [one for one in cell.answered if one.ended <= before and self._valid(volume, one)]
        floor = max([cell.flushed, *(one.began for one in owed)])
        for device, _ledger, known in self._members(volume, place[0]):
            durable = known.durable(place)
            if cell.older(durable, floor):
                self._say(volume, f"{when}, and {place} of device {device} is {durable!r}")

    def _valid(self, volume: _Volume, write: Answered) -> bool:
        """Whether a write may not be lost: its holder still is, or a member that had it."""
        if write.token == volume.row.token:
            return True
        return any(
            write.keepers.get(device) == self._of(volume, device).boot
            for device in write.keepers
            if device not in volume.row.out
        )

    # What the row says

    def row(self, key: bytes, value: bytes | None) -> None:
        """A device has applied a row: it is agreed."""
        if key[:1] != _ROW or value is None:
            return
        stored = decode_row(value)
        known = self._volumes.get(key)
        if known is not None and stored.version <= known.version:
            return
        row = decode_volume(stored.body)
        if known is None or known.row.id != row.id:
            self._volumes[key] = known = _Volume(row, stored.version)
            return
        before, known.row, known.version = known.row, row, stored.version
        if row.token != before.token:
            self._taken(key, known, before)
        if row.state == before.state == "ready" and self.place is not None:
            self._judge_row(known, before)

    def _taken(self, key: bytes, volume: _Volume, before: VolumeRow) -> None:
        forced = self._forced.get(key, 0.0) > self._now()
        volume.taken_at = 0.0 if forced else self._now()
        if volume.row.holder is not None and not volume.row.holder.tending:
            volume.tokens[volume.row.holder.gateway] = volume.row.token

    def _judge_row(self, volume: _Volume, before: VolumeRow) -> None:
        row = volume.row
        for device in row.out.keys() - before.out.keys():
            volume.out_at = self._now()
            self._put_out(volume, device)
        for device in before.out.keys() - row.out.keys():
            self._taken_in(volume, device)
        if row.cut[0] < row.cut[1]:
            for place, cell in volume.cells.items():
                if row.cut[0] <= (place[0] << EXTENT_SHIFT) + place[1] < row.cut[1]:
                    cell.cut_off()
        given_back = row.holder is None and before.holder is not None and not row.trust
        forgets = any(token < row.token and token not in row.trust for token in before.trust)
        if row.token == before.token and (given_back or forgets):
            self._settled(volume, all_flushed=given_back)
        if before.cut[0] < before.cut[1] and row.cut == (0, 0):
            self._uncut(volume, before.cut)

    def _put_out(self, volume: _Volume, device: int) -> None:
        """R3: only while enough members remain, or what it had is lost anyhow."""
        for cell in volume.cells.values():
            for write in cell.answered:
                write.keepers.pop(device, None)
        if device not in volume.row.uuids:
            return  # not vouched for before: the row cannot say whose losses those are
        ledger = self._of(volume, device)
        if ledger.rotten or ledger.volume(VolumeId(volume.row.id)).lost:
            return
        for extent in {place[0] for place in volume.cells}:
            assert self.place is not None
            members = self.place(VolumeId(volume.row.id), extent)
            if device in members and len(self._in_sync(volume, extent)) < volume.row.min_in_sync:
                self._say(volume, f"device {device} was put out, too few are left of {extent}")

    def _taken_in(self, volume: _Volume, device: int) -> None:
        """R7: it has what was answered, and has flushed what was flushed."""
        for place, cell in volume.cells.items():
            members = {
                int(one): (ledger, known) for one, ledger, known in self._members(volume, place[0])
            }
            if device not in members:
                continue
            ledger, known = members[device]
            if volume.row.trust.get(volume.row.token, {}).get(device, ledger.boot) != ledger.boot:
                return  # it has restarted since
            owed = [one.began for one in cell.answered if self._valid(volume, one)]
            newest, durable = known.newest(place), known.durable(place)
            if cell.older(newest, max([cell.flushed, *owed])) or cell.older(durable, cell.flushed):
                self._say(volume, f"device {device} was taken in, its {place} is {newest!r}")
            self._judge_equal(volume, place, f"device {device} was taken in")

    def _settled(self, volume: _Volume, *, all_flushed: bool) -> None:
        """R4, R8: nothing is owed to former holders; R6: or to anybody, when it is given back."""
        when = "the volume was given back" if all_flushed else "earlier holders are forgotten"
        for place, cell in volume.cells.items():
            if all_flushed or any(one.token < volume.row.token for one in cell.answered):
                self._judge_settled(volume, place, cell, when, all_flushed=all_flushed)
            self._judge_equal(volume, place, when)

    def _is_zero(self, volume: _Volume, place: Place) -> bool:
        """Whether all members in sync have durable zeroes, so that none need be written."""
        members = self._members(volume, place[0])
        return all(known.durable(place) == NOTHING for _device, _ledger, known in members)

    def _judge_settled(
        self, volume: _Volume, place: Place, cell: Cell, when: str, *, all_flushed: bool
    ) -> None:
        owed = [
            one
            for one in cell.answered
            if (all_flushed or one.token < volume.row.token) and self._valid(volume, one)
        ]
        floor = max([cell.flushed, *(one.began for one in owed)])
        for device, _ledger, known in self._members(volume, place[0]):
            durable = known.durable(place)
            if cell.older(durable, floor):
                self._say(volume, f"{when}, and {place} of device {device} is {durable!r}")

    def _judge_equal(self, volume: _Volume, place: Place, when: str) -> None:
        """All members in sync have the same, if nobody is writing there.

        A row may be agreed after its holder has stopped. What that one left unanswered is for the
        next to settle: who has it is not compared, the others are. A holder that gives the volume
        back leaves nothing.
        """
        if self._is_written(volume, place):
            return
        row = volume.row
        left = volume.cells[place].left if row.holder is not None else {}
        trusted = row.trust.get(row.token)
        found = {
            int(device): content
            for device, ledger, known in self._members(volume, place[0])
            if trusted is None or trusted.get(device) == ledger.boot
            if (content := known.newest(place)) is not None and left.get(content) != row.token
        }
        if len(set(found.values())) > 1:
            self._say(volume, f"{when}, and {place} is not equal: {found}")

    def _is_written(self, volume: _Volume, place: Place) -> bool:
        """Whether the holder may be writing there, or has cut it off."""
        at = (place[0] << EXTENT_SHIFT) + place[1]
        if at >= volume.row.size or volume.row.cut[0] <= at < volume.row.cut[1]:
            return True
        holder = volume.row.holder.gateway if volume.row.holder is not None else ""
        return any(
            io in self._asked and self._asked[io].gateway == holder
            for io in volume.cells[place].open
        )

    def _uncut(self, volume: _Volume, cut: tuple[int, int]) -> None:
        """What was cut off is zeroes, durably, before the row forgets about it."""
        for place in volume.cells:
            if not cut[0] <= (place[0] << EXTENT_SHIFT) + place[1] < cut[1]:
                continue
            for device, _ledger, known in self._members(volume, place[0]):
                if known.durable(place) not in (NOTHING, None):
                    self._say(volume, f"the row forgets what was cut, {place} of {device} is left")

    # Members

    def _in_sync(self, volume: _Volume, extent: int) -> list[DeviceId]:
        assert self.place is not None
        members = self.place(VolumeId(volume.row.id), extent)
        return [device for device in members if device not in volume.row.out]

    def _members(
        self, volume: _Volume, extent: int
    ) -> Iterator[tuple[DeviceId, ExtentLedger, VolumeLedger]]:
        """Those in sync, but for what a fault has taken from one."""
        for device in self._in_sync(volume, extent):
            ledger = self._of(volume, device)
            known = ledger.volume(VolumeId(volume.row.id))
            if not known.lost:
                yield device, ledger, known

    def _of(self, volume: _Volume, device: int) -> ExtentLedger:
        return self._ledger(volume.row.uuids.get(device, b""))

    def _say(self, volume: _Volume, what: str) -> None:
        self._accuse(f"volume {volume.row.id.hex()} at token {volume.row.token}: {what}")
