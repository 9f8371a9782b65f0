"""What the sequencer does when members restart, join, break or have no room."""

import pytest

from pinfold.model.errors import Fenced, Full
from pinfold.model.ids import Boot
from pinfold.model.limits import EXTENT_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.io import FLUSH, READ, WRITE
from pinfold.volumes.lane import Standing
from tests.volumes.desk import Desk


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
    desk.sequencer.count(lane)
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


def test_a_joining_member_that_does_not_keep_up_misses_writes_and_delays_none() -> None:
    desk = Desk(VolumeSettings(window_bytes=4 << 10, retained_bytes=64 << 10))
    joining = desk.lane(2)
    desk.sequencer.lost(joining)
    desk.sequencer.put_out(joining, 2)
    desk.sequencer.opened(joining, 9, Boot(2), joining=True)
    for number in range(100):
        io = desk.ask(WRITE, number * EXTENT_BYTES)
        desk.take(0, 1)
        desk.flush(0, 1)
        assert io in desk.paper.answers
    assert not joining.backlog
    sent = {op[1] for batch in joining.unacked for op in batch.ops}
    assert sent | set(joining.missed) == set(range(100))
    assert sent.isdisjoint(joining.missed)
    desk.take(2)
    desk.ask(WRITE, 100 * EXTENT_BYTES)
    assert 100 not in joining.missed


def test_a_write_that_has_failed_goes_to_nobody_later() -> None:
    desk = Desk(VolumeSettings(window_bytes=4 << 10))
    counted = desk.lane(2)
    desk.sequencer.lost(counted)
    desk.sequencer.put_out(counted, 2)
    desk.sequencer.opened(counted, 9, Boot(2), joining=True)
    desk.sequencer.count(counted)
    counted.unacked_bytes = 1 << 20
    write = desk.ask(WRITE, 0)
    assert counted.backlog
    desk.full(0, 1)
    assert write.error is None
    desk.sequencer.lost(counted)
    desk.reopen(0)
    desk.full(0)
    assert isinstance(write.error, Full)
    assert not any(lane.backlog or lane.unacked for lane in desk.lanes.values())


def test_what_is_sent_once_a_member_is_counted_waits_for_it() -> None:
    desk = Desk()
    joining = desk.lane(2)
    desk.sequencer.lost(joining)
    desk.sequencer.put_out(joining, 2)
    desk.sequencer.opened(joining, 9, Boot(2), joining=True)
    before = desk.ask(WRITE, 0)
    desk.sequencer.count(joining)
    counted = desk.ask(WRITE, 4096)
    flush = desk.ask(FLUSH, length=0)
    desk.take(0, 1)
    desk.flush(0, 1)
    assert desk.paper.answers == [before]
    desk.take(2)
    assert desk.paper.answers == [before, counted]
    desk.flush(2)
    assert desk.paper.answers == [before, counted, flush]
    assert desk.paper.reads == []
    desk.ask(READ, 2 * EXTENT_BYTES)
    assert desk.paper.reads[0].lane is not joining


def test_nothing_waits_for_a_counted_member_that_broke() -> None:
    desk = Desk()
    joining = desk.lane(2)
    desk.sequencer.lost(joining)
    desk.sequencer.put_out(joining, 2)
    desk.sequencer.opened(joining, 9, Boot(2), joining=True)
    desk.sequencer.count(joining)
    write = desk.ask(WRITE, 4096)
    flush = desk.ask(FLUSH, length=0)
    desk.take(0, 1)
    desk.flush(0, 1)
    assert desk.paper.answers == []
    desk.sequencer.lost(joining)
    desk.sequencer.pump()
    assert desk.paper.answers == [write, flush]


def test_answers_wait_for_the_row_to_trust_a_member_that_has_restarted() -> None:
    desk = Desk()
    lane = desk.lane(1)
    first = desk.ask(WRITE, 0)
    desk.take(0, 1, 2)
    desk.sequencer.lost(lane)
    desk.sequencer.opened(lane, 9, Boot(2), joining=False)
    second = desk.ask(WRITE, 4096)
    desk.take(0, 2)
    assert not desk.paper.vouches
    desk.take(1)
    assert desk.paper.vouches
    assert desk.paper.answers == [first]
    desk.sequencer.vouched({0: 1, 1: 1, 2: 1})
    desk.sequencer.pump()
    assert desk.paper.answers == [first]
    desk.vouch()
    desk.sequencer.pump()
    assert desk.paper.answers == [first, second]


def test_what_a_member_has_flushed_needs_no_trust_in_its_memory() -> None:
    desk = Desk()
    lane = desk.lane(1)
    desk.sequencer.lost(lane)
    desk.sequencer.opened(lane, 9, Boot(2), joining=False)
    write = desk.ask(WRITE, 0)
    desk.take(0, 1, 2)
    desk.sequencer.flush()
    desk.flush(0, 1, 2)
    assert desk.paper.answers == []
    desk.sequencer.lost(lane)
    desk.sequencer.opened(lane, 10, Boot(3), joining=False)
    desk.sequencer.pump()
    assert desk.paper.answers == [write]


def test_a_flush_waits_until_everything_is_settled() -> None:
    desk = Desk()
    desk.sequencer.unsettled.add(7)
    flush = desk.ask(FLUSH, length=0)
    desk.flush(0, 1, 2)
    durable = desk.ask(WRITE, 0, fua=True)
    desk.take(0, 1, 2)
    desk.flush(0, 1, 2)
    assert desk.paper.answers == []
    desk.sequencer.settled([7])
    desk.sequencer.pump()
    assert desk.paper.answers == [flush, durable]


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
