"""The volumes that a device knows: their tokens, their lives, and what of them was lost here.

All of them are in memory, with the marks of their dirty extents and nothing else by extent.
"""

from collections.abc import Iterator
from typing import Final

from pinfold.codec.names import successor
from pinfold.device.extentpass import is_dropped
from pinfold.device.extentrows import EXTENT_TABLE, ExtentRows, of_key
from pinfold.device.index import Index
from pinfold.device.journal import Journal
from pinfold.device.marks import Dirty, stored_marks
from pinfold.device.volume import Volume, decode_volume, encode_volume
from pinfold.model.errors import Conflict, Fenced
from pinfold.model.ids import Token, VolumeId

_TABLE: Final = b"v"


class Volumes:
    """See the module."""

    def __init__(self, index: Index, rows: ExtentRows, journal: Journal) -> None:
        self._index = index
        self._rows = rows
        self._journal = journal
        self._by_id: dict[VolumeId, Volume] = {}
        self._by_life: dict[int, Volume] = {}
        index.watch(EXTENT_TABLE, self._lose_row)
        for key, record in index.scan(_TABLE, successor(_TABLE)):
            volume = decode_volume(VolumeId(key[1:]), record)
            self._by_life[volume.life] = self._by_id[volume.id] = volume
        marks: dict[int, list[tuple[int, Dirty]]] = {}
        for life, extent, mark in stored_marks(index):
            marks.setdefault(life, []).append((extent, mark))
        for life, found in marks.items():
            if life in self._by_life:
                self._by_life[life].marks.restore(found)

    def get(self, volume: VolumeId) -> Volume | None:
        """The present life of a volume; None for one never claimed here."""
        return self._by_id.get(volume)

    def of_life(self, life: int) -> Volume | None:
        """The volume whose present life it is."""
        return self._by_life.get(life)

    def __iter__(self) -> Iterator[Volume]:
        """All of them, by id."""
        return (self._by_id[volume] for volume in sorted(self._by_id))

    def fenced(self, volume: VolumeId, token: Token) -> Volume:
        """The volume for a holder that has claimed it, and knows of all that was lost."""
        known = self._by_id.get(volume)
        if known is None or known.token != token:
            highest = None if known is None else known.token
            raise Fenced(f"token {token} is not the claimed {highest}", detail=highest)
        if not known.told:
            raise untold(known)
        return known

    def claimed(self, volume: VolumeId, token: Token, sequence: int) -> Volume:
        """The volume, begun by the record of this sequence if it is new, with at least a token."""
        known = self._by_id.get(volume)
        if known is None:
            return self._begin(volume, token, sequence)
        if token > known.token:
            known.token = token
            self._put(known)
        return known

    def restored(self, known: Volume) -> None:
        """Nothing is lost any more."""
        known.lost_at = 0
        self._put(known)

    def dropped(self, known: Volume, sequence: int) -> None:
        """End the volume's life and begin another; its token stays, see `ExtentStore.drop`."""
        del self._by_life[known.life]
        self._begin(known.id, known.token, sequence)

    def _begin(self, volume: VolumeId, token: Token, sequence: int) -> Volume:
        fresh = self._by_id[volume] = self._by_life[sequence] = Volume(volume, token, sequence)
        self._put(fresh)
        return fresh

    def _put(self, known: Volume) -> None:
        record = encode_volume(known.token, known.life, lost_at=known.lost_at)
        self._index.put(_TABLE + known.id, record)

    def _lose_row(self, key: bytes) -> bool:
        """An extent's row failed its checksum: which one it was is not known for certain, nor, when
        its key tells of no life that there is, whose.

        Of a life that is on its way out nobody needs it. Its slots are nobody's from now on, which
        a check finds and a repair mends. What is written again makes a row anew, whatever memory
        knows of the old one.
        """
        life = of_key(key)[0]
        known = self._by_life.get(life)
        if known is not None:
            losers = [known]
        else:
            losers = [] if is_dropped(self._index, life) else list(self._by_id.values())
        for volume in losers:
            volume.lost_at = self._journal.appended
            volume.told = False
            self._put(volume)
        self._rows.forget()
        self._index.put(key, None)
        return True


def untold(known: Volume) -> Conflict:
    """What a holder hears that does not know yet of extents lost here."""
    return Conflict(f"volume {known.id.hex()} has lost extents here: claim it again")
