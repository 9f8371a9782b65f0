"""The sequencer's decisions without any wire, loop or time."""

import pytest

from pinfold.model.errors import Corrupt, Fenced, Full
from pinfold.model.ids import Boot, DeviceId
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.batch import Batch
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, Io
from pinfold.volumes.lane import Lane, Standing
from pinfold.volumes.reads import ReadMessage
from pinfold.volumes.sequencer import Sequencer


class Paper:
    """A wire that only writes down what it is told."""

    def __init__(self) -> None:
        self.writes: list[tuple[Lane, Batch]] = []
        self.reads: list[ReadMessage] = []
        self.flushes: list[tuple[Lane, int]] = []
        self.answers: list[Io] = []
        self.wanted: list[int] = []
        self.corrupted: list[tuple[int, int]] = []

    def send_write(self, lane: Lane, batch: Batch) -> None:
        self.writes.append((lane, batch))

    def send_read(self, message: ReadMessage) -> None:
        self.reads.append(message)

    def send_flush(self, lane: Lane, upto: int) -> None:
        self.flushes.append((lane, upto))

    def answer(self, ios: list[Io]) -> None:
        self.answers += ios

    def ask_status(self, io: Io) -> None:
        raise AssertionError

    def corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        self.corrupted.append((device, extent))

    def settle(self, extent: int) -> None:
        self.wanted.append(extent)


class Desk:
    def __init__(self, settings: VolumeSettings | None = None) -> None:
        self.paper = Paper()
        self.time = 0.0
        self.lanes = {DeviceId(number): Lane(DeviceId(number)) for number in range(3)}
        self.sequencer = Sequencer(
            self.paper,
            self.lanes,
            lambda _extent: tuple(self.lanes),
            settings or VolumeSettings(),
            lambda: self.time,
            min_in_sync=2,
            first_sequence=1 << 40,
            epoch=1,
        )
        for stream, lane in enumerate(self.lanes.values(), 1):
            self.sequencer.opened(lane, stream, Boot(1), joining=False)
        self.sequencer.serving = True

    def finished(self, ios: list[Io]) -> None:
        raise AssertionError("answers go through the wire")

    def ask(self, kind: int, offset: int = 0, length: int = BLOCK_BYTES, **more: bool) -> Io:
        payload = bytes(length) if kind == WRITE else b""
        io = Io(kind, offset, length, self, payload=payload, **more)
        self.sequencer.submit([io])
        self.sequencer.pump()
        return io

    def take(self, *devices: int) -> None:
        """These members take everything sent to them so far."""
        sent, self.paper.writes = self.paper.writes, []
        for lane, batch in sent:
            if lane.device in devices:
                self.sequencer.taken(lane, batch)
            else:
                self.paper.writes.append((lane, batch))
        self.sequencer.pump()

    def flush(self, *devices: int) -> None:
        sent, self.paper.flushes = self.paper.flushes, []
        for lane, upto in sent:
            if lane.device in devices:
                self.sequencer.flushed(lane, upto)
            else:
                self.paper.flushes.append((lane, upto))
        self.sequencer.pump()

    def full(self, *devices: int) -> None:
        """These members have no room for what was sent to them first, which ends their streams."""
        for lane in map(self.lane, devices):
            self.sequencer.full(lane, next(iter(lane.unacked)))
            self.sequencer.lost(lane)
            self.paper.writes = [sent for sent in self.paper.writes if sent[0] is not lane]
        self.sequencer.pump()

    def reopen(self, *devices: int) -> None:
        for lane in map(self.lane, devices):
            self.sequencer.opened(lane, lane.stream + 10, lane.boot, joining=False)

    def lane(self, number: int) -> Lane:
        return self.lanes[DeviceId(number)]


def test_writes_of_one_tick_are_one_message_to_each_member() -> None:
    desk = Desk()
    ios = [Io(WRITE, n * 8192, 4096, desk, payload=bytes(4096)) for n in range(10)]
    desk.sequencer.submit(ios)
    desk.sequencer.pump()
    assert len(desk.paper.writes) == 3
    assert len({batch for _lane, batch in desk.paper.writes}) == 1
    assert len(desk.paper.writes[0][1].ops) == 10
    desk.take(0, 1)
    assert not desk.paper.answers
    desk.take(2)
    assert desk.paper.answers == ios


def test_large_writes_are_cut_and_answered_once() -> None:
    desk = Desk()
    io = desk.ask(WRITE, EXTENT_BYTES - 1000, 9 << 20)
    batches = list(dict.fromkeys(batch for _lane, batch in desk.paper.writes))
    assert sum(batch.payload_bytes for batch in batches) == 9 << 20
    assert all(batch.payload_bytes <= 2 << 20 for batch in batches)
    desk.take(0, 1)
    assert not desk.paper.answers
    desk.take(2)
    assert desk.paper.answers == [io]


def test_too_many_batches_make_writes_wait_and_share_the_next() -> None:
    desk = Desk(VolumeSettings(batches_max=2))
    for number in range(8):
        desk.ask(WRITE, number * 4096)
    assert len(desk.paper.writes) == 6
    desk.take(0, 1, 2)
    assert len(desk.paper.writes) == 3
    assert len(desk.paper.writes[0][1].ops) == 6


def test_a_flush_waits_for_all_and_covers_what_was_sent_before() -> None:
    desk = Desk()
    write = desk.ask(WRITE)
    flush = desk.ask(FLUSH, length=0)
    assert len(desk.paper.flushes) == 3
    desk.take(0, 1, 2)
    assert desk.paper.answers == [write]
    desk.flush(0, 1)
    assert desk.paper.answers == [write]
    desk.flush(2)
    assert desk.paper.answers == [write, flush]
    assert desk.sequencer.idle
    again = desk.ask(FLUSH, length=0)
    assert desk.paper.answers[-1] is again
    assert not desk.paper.flushes


def test_the_first_flush_covers_what_a_former_holder_had_answered() -> None:
    desk = Desk()
    flush = desk.ask(FLUSH, length=0)
    assert not desk.paper.answers
    desk.flush(0, 1)
    assert not desk.paper.answers
    desk.flush(2)
    assert desk.paper.answers == [flush]
    assert desk.paper.answers[-1] is not desk.ask(READ)
    second = desk.ask(FLUSH, length=0)
    assert desk.paper.answers[-1] is second


def test_a_read_that_may_have_seen_a_write_waits_for_it() -> None:
    desk = Desk()
    write = desk.ask(WRITE, 4096)
    near, far = desk.ask(READ, 4096, 512), desk.ask(READ, 1 << 20, 512)
    for message in desk.paper.reads:
        desk.sequencer.reads.answered(message, memoryview(bytes(message.length)))
    desk.sequencer.pump()
    assert desk.paper.answers == [far]
    desk.take(0, 1, 2)
    assert desk.paper.answers == [far, write, near]


def test_a_late_piece_is_asked_again_once_and_counts_once() -> None:
    """Its first message is still under way when it is looked at again."""
    desk = Desk()
    read = desk.ask(READ, EXTENT_BYTES - 512, 1024)
    first = list(desk.paper.reads)
    assert len(first) == 2
    for desk.time in (1.0, 1.1, 1.2):
        desk.sequencer.reads.hedge(0.5, 5.0)
    again = desk.paper.reads[2:]
    assert sorted(message.pieces[0][2] for message in again) == [0, 1]
    for message in desk.paper.reads:
        assert not desk.paper.answers
        desk.sequencer.reads.answered(message, memoryview(bytes(message.length)))
        desk.sequencer.pump()
    assert desk.paper.answers == [read]
    assert [len(part) for part in read.parts] == [512, 512]


def test_pieces_that_are_corrupt_on_different_members_are_both_read() -> None:
    desk = Desk()
    read = desk.ask(READ, EXTENT_BYTES - 512, 1024)
    corrupt = {(0, 0), (1, 1), (1, 2)}
    asked = []
    while desk.paper.reads:
        message = desk.paper.reads.pop(0)
        place = (message.pieces[0][2], int(message.lane.device))
        asked.append(place)
        if place in corrupt:
            desk.sequencer.reads.failed(message, Corrupt("no good bytes"))
        else:
            desk.sequencer.reads.answered(message, memoryview(bytes(message.length)))
    desk.sequencer.pump()
    assert desk.paper.answers == [read]
    assert read.error is None, asked
    assert len(asked) == len(set(asked))


def test_writes_wait_behind_a_fence_and_reads_do_not() -> None:
    desk = Desk()
    desk.sequencer.fence(0, 0b10)
    desk.ask(WRITE, 4096, 512)
    assert not desk.paper.writes
    desk.ask(WRITE, 8192, 512)
    assert len(desk.paper.writes) == 3
    desk.ask(READ, 4096, 512)
    assert len(desk.paper.reads) == 1
    desk.sequencer.unfence(0)
    desk.sequencer.pump()
    assert len(desk.paper.writes) == 6


def test_nothing_unsettled_is_served_or_declared_stable() -> None:
    desk = Desk()
    desk.sequencer.unsettled.add(1)
    desk.ask(READ, EXTENT_BYTES - 512, 1024)
    desk.ask(WRITE, EXTENT_BYTES, 512)
    desk.ask(TRIM, 0, 2 * EXTENT_BYTES)
    assert desk.paper.wanted
    assert not desk.paper.writes
    assert not desk.paper.reads
    write = desk.ask(WRITE, 0, 512)
    desk.ask(FLUSH, length=0)
    desk.take(0, 1, 2)
    desk.flush(0, 1, 2)
    assert write in desk.paper.answers
    assert desk.sequencer.stable == 0
    desk.sequencer.unsettled.clear()
    desk.sequencer.flush()
    assert desk.sequencer.stable == write.sequence


def test_nothing_is_stable_before_the_absent_member_s_marks_are_flushed() -> None:
    desk = Desk()
    write = desk.ask(WRITE)
    desk.ask(FLUSH, length=0)
    desk.take(0, 1)
    desk.sequencer.lost(desk.lane(2))
    desk.sequencer.put_out(desk.lane(2), 2)
    touches = [batch for lane, batch in desk.paper.writes if lane.device == 0]
    assert [(batch.epoch, batch.ops) for batch in touches] == [(2, [(WRITE, 0, 0, 0)])]
    desk.flush(0, 1)  # those asked before the member was put out
    assert write in desk.paper.answers
    assert desk.sequencer.stable == 0
    desk.take(0, 1)
    desk.sequencer.flush()
    desk.flush(0, 1)
    assert desk.sequencer.stable == desk.sequencer.sequence


def test_a_reopened_stream_gets_what_was_not_taken() -> None:
    desk = Desk()
    desk.ask(WRITE, 0)
    desk.take(0, 1, 2)
    desk.ask(WRITE, 4096)
    lane = desk.lane(1)
    desk.sequencer.lost(lane)
    desk.ask(WRITE, 8192)
    desk.paper.writes.clear()
    desk.sequencer.opened(lane, 9, Boot(1), joining=False)
    assert [batch.ops[0][2] for _lane, batch in desk.paper.writes] == [4096, 8192]
    assert lane.number == 2


def test_a_reborn_member_gets_what_it_had_not_flushed() -> None:
    desk = Desk()
    desk.ask(WRITE, 0)
    desk.take(0, 1, 2)
    desk.ask(FLUSH, length=0)
    desk.flush(0, 1, 2)
    desk.ask(WRITE, 4096)
    desk.take(0, 1, 2)
    lane = desk.lane(1)
    desk.sequencer.lost(lane)
    desk.sequencer.opened(lane, 9, Boot(2), joining=False)
    assert [batch.ops[0][2] for _lane, batch in desk.paper.writes] == [4096]
    assert not lane.whole
    desk.ask(FLUSH, length=0)
    desk.flush(0, 2)
    assert len(desk.paper.answers) == 3
    desk.take(1)
    desk.flush(1)
    assert lane.whole
    assert len(desk.paper.answers) == 4


def test_a_joining_member_gets_everything_and_nobody_waits_for_it() -> None:
    desk = Desk()
    lane = desk.lane(2)
    desk.sequencer.lost(lane)
    desk.sequencer.put_out(lane, 2)
    desk.sequencer.opened(lane, 9, Boot(2), joining=True)
    write = desk.ask(WRITE)
    assert {sent.device for sent, _batch in desk.paper.writes} == {0, 1, 2}
    desk.take(0, 1)
    assert desk.paper.answers == [write]
    desk.ask(READ)
    assert all(message.lane is not lane for message in desk.paper.reads)
    desk.sequencer.take_in(lane)
    assert lane.standing is Standing.LIVE
    desk.ask(WRITE)
    desk.take(0, 1)
    assert desk.paper.answers == [write]


def test_a_write_fails_for_lack_of_room_only_when_no_member_can_have_it() -> None:
    desk = Desk()
    write, behind = desk.ask(WRITE), desk.ask(WRITE, 4096)
    desk.full(0, 1)
    assert not desk.paper.answers
    desk.full(2)
    assert desk.paper.answers == [write]
    assert isinstance(write.error, Full)
    desk.reopen(0, 1, 2)
    assert [batch.ops[0][2] for _lane, batch in desk.paper.writes] == [4096] * 3
    desk.take(0, 1, 2)
    assert desk.paper.answers == [write, behind]
    assert behind.error is None


def test_a_write_on_its_way_to_a_member_again_is_not_failed_by_the_others() -> None:
    desk = Desk()
    write = desk.ask(WRITE)
    desk.full(0, 1)
    desk.reopen(0)
    desk.full(2)
    assert not desk.paper.answers
    desk.take(0)
    desk.reopen(1, 2)
    desk.full(1, 2)
    assert not desk.paper.answers
    desk.reopen(1, 2)
    desk.take(1, 2)
    assert desk.paper.answers == [write]
    assert write.error is None


def test_a_write_of_which_a_member_did_not_tell_is_not_failed_by_the_others() -> None:
    desk = Desk()
    desk.ask(WRITE)
    desk.sequencer.lost(desk.lane(0))
    desk.reopen(0)
    desk.full(0, 1, 2)
    assert not desk.paper.answers


def test_a_write_that_has_failed_goes_to_nobody_later() -> None:
    desk = Desk(VolumeSettings(window_bytes=4 << 10))
    joining = desk.lane(2)
    desk.sequencer.lost(joining)
    desk.sequencer.put_out(joining, 2)
    desk.sequencer.opened(joining, 9, Boot(2), joining=True)
    for number in range(3):
        desk.ask(WRITE, number * 4096)
        desk.take(0, 1)
    write = desk.ask(WRITE, 3 * 4096)
    assert len(joining.unacked) == 3
    assert joining.backlog
    desk.full(0, 1)
    assert isinstance(write.error, Full)
    desk.take(2)
    assert not desk.paper.writes
    assert not joining.backlog


def test_what_makes_members_equal_waits_for_room() -> None:
    desk = Desk()
    lane = desk.lane(2)
    sequence = desk.sequencer.copy([lane], [(WRITE, 0, 0, 4096)], [bytes(4096)])
    desk.full(2)
    assert not lane.clean
    desk.reopen(2)
    assert [(sent, batch.sequence) for sent, batch in desk.paper.writes] == [(lane, sequence)]


def test_losing_the_volume_fails_every_request_once() -> None:
    desk = Desk(VolumeSettings(batches_max=1))
    ios = [
        desk.ask(WRITE, 0),
        desk.ask(READ, 0, 2 << 20),
        desk.ask(FLUSH, length=0),
        desk.ask(WRITE, 1 << 20, 3 << 20),
    ]
    desk.sequencer.fail_all(Fenced("another holder"))
    assert sorted(map(id, desk.paper.answers)) == sorted(map(id, ios))
    assert all(isinstance(io.error, Fenced) for io in ios)


@pytest.mark.parametrize("standing", [Standing.OUT, Standing.JOINING])
def test_only_members_in_sync_are_put_out(standing: Standing) -> None:
    desk = Desk()
    desk.lane(0).standing = standing
    with pytest.raises(AssertionError):
        desk.sequencer.put_out(desk.lane(0), 2)
