"""What the auditor of volumes says against answers, and against changes of rows."""

from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from pinfold.cluster.api import Row
from pinfold.cluster.groups.entries import encode_row
from pinfold.model.errors import Full, PinfoldError, Unavailable
from pinfold.model.ids import DeviceId, VolumeId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.sim.audit.extents import ExtentLedger
from pinfold.sim.audit.volumes import VolumeAudit
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, ZERO, Io
from pinfold.volumes.row import Holder, VolumeRow, encode, key_of

VOLUME = VolumeId(b"v" * 16)
DEVICES = (1, 2, 3)
TRUST = dict.fromkeys(DEVICES, 1)
ROW = VolumeRow(
    id=VOLUME,
    size=1 << 20,
    created_ms=0,
    holder=Holder("g1", 1, 1),
    token=1,
    trust={1: TRUST},
    uuids={device: bytes([device]) for device in DEVICES},
)
OLD, NEW, OTHER = (word.ljust(BLOCK_BYTES, b".") for word in (b"old", b"new", b"other"))
PLACE = (0, 0)


class Nobody:
    """Who asks."""

    def finished(self, ios: list[Io]) -> None:
        """See `Owner`."""


@dataclass
class Scene:
    """A volume on three devices."""

    audit: VolumeAudit
    said: list[str]
    ledgers: dict[bytes, ExtentLedger]
    clock: list[float]
    current: VolumeRow = ROW
    version: int = 0

    def row(self, **changes: Any) -> None:
        """The row is changed."""
        self.version += 1
        self.current = msgspec.structs.replace(self.current, **changes)
        row = Row(encode(self.current), version=self.version)
        self.audit.row(key_of("disk"), encode_row(row))

    def has(self, content: bytes, *devices: int, flushed: bool = False) -> None:
        """These devices have taken a block."""
        for device in devices or DEVICES:
            known = self.ledgers[bytes([device])].volume(VOLUME)
            known.turn += 1
            known.write((0, 0), content, 0)
            known.written_turn = known.turn
            if flushed:
                known.flushed(known.turn)

    def begin(
        self, kind: int, gateway: str = "g1", content: bytes = b"", *, fua: bool = False
    ) -> Io:
        """A client asks."""
        self.clock[0] += 1
        length = 0 if kind == FLUSH else BLOCK_BYTES
        io = Io(kind, 0, length, Nobody(), payload=content, fua=fua)
        self.audit.began(gateway, "disk", io)
        return io

    def end(self, io: Io, found: bytes = b"", *, error: PinfoldError | None = None) -> None:
        """It is answered."""
        self.clock[0] += 1
        io.parts = [found]
        io.error = error
        self.audit.ended(io)

    def write(self, content: bytes, *devices: int, flushed: bool = False) -> None:
        """A write from beginning to end."""
        io = self.begin(WRITE, content=content)
        self.has(content, *devices, flushed=flushed)
        self.end(io)

    def flush(self) -> None:
        """A flush from beginning to end."""
        self.end(self.begin(FLUSH))


@pytest.fixture
def scene() -> Scene:
    ledgers = {bytes([device]): ExtentLedger() for device in DEVICES}
    ledgers[b""] = ExtentLedger()
    for ledger in ledgers.values():
        ledger.opened(1)
    said: list[str] = []
    clock = [0.0]
    audit = VolumeAudit(said.append, lambda: clock[0], ledgers.__getitem__)
    audit.place = lambda _volume, _extent: tuple(map(DeviceId, DEVICES))
    made = Scene(audit, said, ledgers, clock)
    made.row(holder=None, token=0, trust={})
    made.row(holder=ROW.holder, token=1, trust=ROW.trust)
    return made


def test_what_every_member_has_may_be_answered_flushed_and_shown(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.flush()
    scene.write(NEW)
    scene.end(scene.begin(READ), NEW)
    assert scene.said == []


def test_a_write_that_a_member_lacks_is_not_answered(scene: Scene) -> None:
    scene.write(OLD)
    scene.write(NEW, 1, 2)
    assert "device 3 has" in scene.said[0]


def test_a_member_out_of_sync_need_not_have_it(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(out={3: 2}, epoch=2, trust={1: {1: 1, 2: 1}})
    scene.write(NEW, 1, 2)
    scene.flush()
    assert "flush" in scene.said[0], "but those that are have to flush"
    assert len(scene.said) == 2


def test_zeroes_that_are_there_already_need_no_members(scene: Scene) -> None:
    scene.row(out={2: 2, 3: 2}, epoch=2, trust={1: {1: 1}})
    before = len(scene.said)
    scene.clock[0] += 1
    scene.end(scene.begin(ZERO))
    assert len(scene.said) == before, "nothing had to be written"
    scene.write(NEW, 1, flushed=True)
    assert "without 2 members" in scene.said[before]
    scene.end(scene.begin(ZERO))
    assert "(0, 0)" in scene.said[-1], "it is not zeroes yet"


def test_a_member_at_another_boot_does_not_answer_until_the_row_trusts_it(scene: Scene) -> None:
    scene.ledgers[b"\x03"].opened(2)
    scene.write(NEW)
    assert "not trusted" in scene.said[0]


def test_what_is_shown_is_on_every_member(scene: Scene) -> None:
    scene.write(OLD)
    scene.begin(WRITE, content=NEW)
    scene.has(NEW, 1)
    scene.end(scene.begin(READ), NEW)
    assert "was shown" in scene.said[0]


def test_a_flush_covers_what_was_answered_before_it_began(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    flush = scene.begin(FLUSH)
    scene.write(NEW)
    scene.end(flush)
    assert scene.said == []


def test_forced_unit_access_is_a_flush_of_its_own(scene: Scene) -> None:
    io = scene.begin(WRITE, content=NEW, fua=True)
    scene.has(NEW)
    scene.end(io)
    assert "was to be flushed" in scene.said[0]


def test_a_member_is_taken_in_with_all_that_was_answered(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(out={3: 2}, epoch=2, trust={1: {1: 1, 2: 1}})
    scene.write(NEW, 1, 2)
    scene.row(out={}, trust={1: TRUST})
    assert "device 3 was taken in" in scene.said[0]


def test_a_member_is_taken_in_without_what_nobody_else_has(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(out={3: 2}, epoch=2, trust={1: {1: 1, 2: 1}})
    io = scene.begin(WRITE, content=NEW)
    scene.has(NEW, 3)
    scene.end(io, error=Full("no member has room"))
    scene.row(out={}, trust={1: TRUST})
    assert "is not equal" in scene.said[0]


def test_earlier_holders_are_forgotten_when_what_they_left_is_settled(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.write(NEW, 1, 2, 3)
    known = scene.ledgers[b"\x03"].volume(VOLUME)
    del known.blocks[PLACE][-1]
    scene.ledgers[b"\x03"].opened(2)
    scene.row(holder=Holder("g2", 1, 1), token=2)
    scene.row(trust={1: TRUST, 2: {1: 1, 2: 1, 3: 2}})
    assert scene.said == []
    scene.row(trust={2: {1: 1, 2: 1, 3: 2}})
    assert "earlier holders are forgotten" in scene.said[0]


def _dies_while_forgetting(scene: Scene, *members: int) -> None:
    """The second holder has settled and asks to forget the first; it dies before that is agreed.

    A write of its own has reached these members only.
    """
    scene.write(OLD, flushed=True)
    scene.row(holder=Holder("g2", 1, 1), token=2, trust={1: TRUST, 2: TRUST})
    scene.begin(WRITE, gateway="g2", content=NEW)
    scene.has(NEW, *members)
    scene.audit.died("g2")


def test_a_row_may_be_agreed_when_its_holder_has_died_amid_a_write(scene: Scene) -> None:
    _dies_while_forgetting(scene, 3)
    scene.row(trust={2: TRUST})
    assert scene.said == []


def test_a_row_may_be_agreed_when_its_holder_has_lost_the_volume_amid_a_write(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.row(holder=Holder("g2", 1, 1), token=2, trust={1: TRUST, 2: TRUST})
    io = scene.begin(WRITE, gateway="g2", content=NEW)
    scene.has(NEW, 3)
    scene.end(io, error=Unavailable("gone"))
    scene.row(trust={2: TRUST})
    assert scene.said == []


def test_a_write_that_found_no_room_is_on_no_member(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.row(holder=Holder("g2", 1, 1), token=2, trust={1: TRUST, 2: TRUST})
    io = scene.begin(WRITE, gateway="g2", content=NEW)
    scene.has(NEW, 3)
    scene.end(io, error=Full("no member has room"))
    scene.row(trust={2: TRUST})
    assert "is not equal" in scene.said[0]


def test_a_volume_is_given_back_with_nothing_left_unanswered(scene: Scene) -> None:
    _dies_while_forgetting(scene, 3)
    scene.row(holder=None, trust={})
    assert "given back, and (0, 0) is not equal" in scene.said[-1]


def test_what_nobody_wrote_last_is_compared_beside_a_write_left_unanswered(scene: Scene) -> None:
    _dies_while_forgetting(scene, 3)
    scene.has(OTHER, 2)
    scene.row(trust={2: TRUST})
    assert "is not equal" in scene.said[0]


def test_what_a_holder_left_unanswered_is_settled_by_the_next(scene: Scene) -> None:
    _dies_while_forgetting(scene, 3)
    scene.row(holder=Holder("g1", 2, 1), token=3, trust={2: TRUST, 3: TRUST})
    scene.row(trust={3: TRUST})
    assert "is not equal" in scene.said[0]


def test_what_all_have_lost_with_their_holder_is_owed_to_nobody(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.write(NEW)
    for device in DEVICES:
        del scene.ledgers[bytes([device])].volume(VOLUME).blocks[PLACE][-1]
        scene.ledgers[bytes([device])].opened(2)
    scene.row(holder=Holder("g2", 1, 1), token=2)
    scene.row(trust={2: dict.fromkeys(DEVICES, 2)})
    assert scene.said == []


def test_a_volume_is_given_back_flushed(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(holder=None, trust={})
    assert "given back" in scene.said[0]


def test_who_leaves_a_volume_as_it_is_owes_no_flush(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(holder=None)
    assert scene.said == []


def test_a_cut_is_forgotten_when_it_is_zeroes(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.row(cut=(0, BLOCK_BYTES))
    scene.row(cut=(0, 0))
    assert "what was cut" in scene.said[0]


def test_what_is_cut_off_is_owed_to_nobody(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.flush()
    scene.row(cut=(0, BLOCK_BYTES))
    scene.has(bytes(BLOCK_BYTES), flushed=True)
    scene.row(cut=(0, 0))
    scene.flush()
    scene.row(holder=None, trust={})
    assert scene.said == []


def test_a_silent_holder_answers_nothing_when_another_has_the_volume(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(holder=Holder("g2", 1, 1), token=2)
    scene.end(scene.begin(READ), OLD)
    assert "token 1 answers" in scene.said[0]


def test_one_from_whom_it_was_taken_by_force_may_go_on_reading(scene: Scene) -> None:
    scene.write(OLD)
    scene.audit.forced("disk")
    scene.row(holder=Holder("g2", 1, 1), token=2)
    scene.end(scene.begin(READ), OLD)
    assert scene.said == []


def test_members_are_put_out_only_while_enough_remain(scene: Scene) -> None:
    scene.write(OLD)
    scene.row(out={3: 2}, epoch=2)
    assert scene.said == []
    scene.row(out={2: 3, 3: 2}, epoch=3)
    assert "too few" in scene.said[0]


def test_what_a_device_that_was_not_vouched_for_has_lost_is_not_known(scene: Scene) -> None:
    scene.write(OLD)
    before = len(scene.said)
    scene.row(uuids={1: b"\x01", 3: b"\x03"}, out={3: 2}, epoch=2)
    scene.row(out={2: 3, 3: 2}, epoch=3)
    assert len(scene.said) == before


def test_zeroes_are_contents_too(scene: Scene) -> None:
    scene.write(OLD, flushed=True)
    scene.flush()
    io = scene.begin(TRIM)
    scene.has(bytes(BLOCK_BYTES), 1, 2)
    scene.end(io)
    assert "device 3 has" in scene.said[0]
