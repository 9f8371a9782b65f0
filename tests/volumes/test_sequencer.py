"""The sequencer's decisions without any wire, loop or time."""

from pinfold.model.errors import Corrupt
from pinfold.model.ids import Boot
from pinfold.model.limits import BLOCK_BYTES, EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import FLUSH, READ, TRIM, WRITE, Io
from tests.volumes.desk import Desk


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
    io = desk.ask(WRITE, EXTENT_BYTES - BLOCK_BYTES, 9 << 20)
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
    desk.sequencer.fences.put(0, 0b10)
    desk.ask(WRITE, 4096)
    assert not desk.paper.writes
    desk.ask(WRITE, 8192)
    assert len(desk.paper.writes) == 3
    desk.ask(READ, 4096, 512)
    assert len(desk.paper.reads) == 1
    desk.sequencer.fences.lower(0, 0b10)
    desk.sequencer.pump()
    assert len(desk.paper.writes) == 6


def test_nothing_unsettled_is_served_or_declared_stable() -> None:
    desk = Desk()
    desk.sequencer.unsettled.add(1)
    desk.ask(READ, EXTENT_BYTES - 512, 1024)
    desk.ask(WRITE, EXTENT_BYTES)
    desk.ask(TRIM, 0, 2 * EXTENT_BYTES)
    assert desk.paper.wanted
    assert not desk.paper.writes
    assert not desk.paper.reads
    write = desk.ask(WRITE, 0)
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


def test_the_extents_that_are_dirty_are_bounded() -> None:
    desk = Desk(VolumeSettings(dirty_extents=8))
    for extent in range(3):
        desk.ask(WRITE, extent * EXTENT_BYTES)
        desk.take(0, 1, 2)
    assert not desk.paper.flushes
    for extent in range(3, 8):
        desk.ask(WRITE, extent * EXTENT_BYTES)
        desk.take(0, 1, 2)
    assert desk.paper.flushes
    held = desk.ask(WRITE, 8 * EXTENT_BYTES)
    again = desk.ask(WRITE, 7 * EXTENT_BYTES)
    desk.take(0, 1, 2)
    assert again in desk.paper.answers
    assert held not in desk.paper.answers
    desk.flush(0, 1, 2)
    assert desk.sequencer.stable
    desk.take(0, 1, 2)
    assert held in desk.paper.answers
