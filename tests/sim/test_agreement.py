"""What several devices show together of a group: one log, applied alike, committed by a quorum."""

from dataclasses import dataclass, field

import msgspec

from pinfold.cluster.api import BlobRef, Row
from pinfold.cluster.groups.configuration import GENERATION_SHIFT, Configuration
from pinfold.cluster.groups.entries import (
    EMPTY_BODY,
    RESULTS_RANGE,
    VERSION_SHIFT,
    StoredResults,
    configuration_body,
    decode_body,
    encode_body,
    encode_results,
    encode_row,
    free_writes,
    results_key,
)
from pinfold.cluster.groups.messages import Standing, Voted, encode_voted
from pinfold.cluster.map import DeviceEntry
from pinfold.device.api import Entry, LogState
from pinfold.model.ids import BlobId, DeviceId, DeviceUuid, GroupId
from pinfold.objects import keys
from pinfold.objects.records import BoundRecord, BucketRecord, SplitRecord, encode
from pinfold.objects.shards import bound_row
from pinfold.sim.account import Account
from pinfold.sim.audit.agreement import Agreement, Member
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.audit.effects import Effects
from pinfold.sim.events import Events

GROUP = GroupId(3)
FIRST = Configuration(members=(DeviceId(0), DeviceId(1), DeviceId(2)))
BLOB = BlobId(b"b" * 16)
OP_ID = b"o" * 16
KEEP_S = 10.0
ROW = b"\0x"
"""One of the group's own: of no other row is it looked at what it says."""
RED = encode_body([(ROW, b"red")])
BLUE = encode_body([(ROW, b"blue")])


@dataclass
class Log:
    """A log and its rows, as much as is looked at."""

    view: int = 1
    rows: dict[bytes, bytes] = field(default_factory=dict)

    def groups(self):
        return []

    def state(self, _group):
        return LogState(self.view, encode_voted(Voted(Standing.MEMBER, 7, 0, FIRST)), 1, 0, 0, 0, 0)

    def scan(self, _group, _start, _end):
        return iter(sorted(self.rows.items()))


class Bench:
    def __init__(self):
        self.accused = []
        self.now = 0.0
        self.effects = Effects(self.accused.append, lambda: self.now, KEEP_S)
        self.agreement = Agreement(self.accused.append, self.effects)
        self.agreement.devices = {bytes([n]) * 16: DeviceId(n) for n in range(4)}
        self.logs = [Log() for _ in range(4)]
        self.members = [
            Member(self.agreement, bytes([n]) * 16, log, log) for n, log in enumerate(self.logs)
        ]

    def append(self, entry, *on):
        for n in on:
            self.members[n].appended(GROUP, [entry])

    def flush(self, entry, *on):
        self.append(entry, *on)
        for n in on:
            self.members[n].durable(GROUP, [entry])

    def apply(self, entry, n=0):
        writes = decode_body(entry.body)
        self.logs[n].view = max(self.logs[n].view, entry.view)
        self.members[n].applied(GROUP, entry.op, writes)
        for key, value in writes:
            if value is None:
                self.logs[n].rows.pop(key, None)
            else:
                self.logs[n].rows[key] = value

    def commit(self, op, *writes):
        entry = Entry(op, 1, encode_body(writes))
        self.flush(entry, 0, 1)
        self.apply(entry)


def test_an_entry_on_a_quorum_is_committed_and_everybody_applies_it():
    bench = Bench()
    bench.flush(Entry(1, 1, RED), 0, 2)
    for n in range(3):
        bench.apply(Entry(1, 1, RED), n)
    assert not bench.accused


def test_an_entry_that_is_not_flushed_on_a_quorum_is_not_committed():
    bench = Bench()
    bench.flush(Entry(1, 1, RED), 0)
    bench.append(Entry(1, 1, RED), 1)
    bench.apply(Entry(1, 1, RED))
    assert "op 1 is taken for committed" in bench.accused[0]


def test_an_entry_of_an_earlier_view_waits_for_one_of_the_present_view():
    bench = Bench()
    bench.flush(Entry(1, 1, RED), 0, 1)
    bench.flush(Entry(2, 5, EMPTY_BODY), 0)
    bench.logs[0].view = 5
    bench.apply(Entry(1, 1, RED))
    assert "view 5" in bench.accused[0]


def test_an_entry_of_an_earlier_view_is_committed_with_one_of_the_present_view():
    bench = Bench()
    bench.flush(Entry(1, 1, RED), 0, 1)
    bench.flush(Entry(2, 5, EMPTY_BODY), 0, 2)
    bench.logs[0].view = 5
    bench.apply(Entry(1, 1, RED))
    assert not bench.accused


def test_the_newest_configuration_in_the_log_says_who_decides():
    bench = Bench()
    joint = Configuration(number=1, members=FIRST.members, joining=(DeviceId(0), DeviceId(3)))
    entry = Entry(1, 1, configuration_body(joint))
    bench.flush(entry, 0, 1)
    bench.apply(entry)
    assert "op 1 is taken for committed" in bench.accused[0]


def test_a_view_has_one_entry_at_an_op():
    bench = Bench()
    bench.append(Entry(1, 1, RED), 0)
    bench.append(Entry(1, 2, BLUE), 1)
    assert not bench.accused
    bench.append(Entry(1, 1, BLUE), 2)
    assert "two entries at op 1 of view 1" in bench.accused[0]


def test_everybody_applies_the_same():
    bench = Bench()
    bench.flush(Entry(1, 1, RED), 0, 1)
    bench.apply(Entry(1, 1, RED), 0)
    bench.apply(Entry(1, 2, BLUE), 1)
    assert "at op 1 is not what others did" in bench.accused[0]


def test_a_copy_shows_the_rows_of_its_op_once_it_has_been_replayed():
    bench = Bench()
    for op, body in ((1, RED), (2, BLUE)):
        bench.flush(Entry(op, 1, body), 0, 1)
        bench.apply(Entry(op, 1, body))
    bench.members[2].copied(GROUP, last=True)
    bench.logs[2].rows = {b"other": b"x"}
    bench.apply(Entry(1, 1, RED), 2)
    assert not bench.accused
    bench.logs[2].rows = {ROW: b"red"}
    bench.members[2].applied(GROUP, 2, decode_body(BLUE))
    assert f"its row {ROW!r} is not that of op 2" in bench.accused[0]


def test_a_forced_group_is_not_judged():
    bench = Bench()
    forced = Configuration(number=1 << GENERATION_SHIFT, members=(DeviceId(0),))
    bench.append(Entry(1, 1, configuration_body(forced)), 0)
    bench.append(Entry(1, 1, RED), 1)
    bench.apply(Entry(1, 1, RED), 1)
    assert not bench.accused


def results(op, *done, refused=()):
    stored = StoredResults(0, b"".join(done), dict.fromkeys(refused, 0))
    assert RESULTS_RANGE[0] <= results_key(op) < RESULTS_RANGE[1]
    return results_key(op), encode_results(stored)


def test_a_change_is_made_once():
    bench = Bench()
    bench.commit(1, results(1, OP_ID))
    bench.effects.answered(OP_ID, 1 << VERSION_SHIFT)
    assert not bench.accused
    bench.commit(2, results(2, OP_ID))
    assert "is made twice" in bench.accused[0]


def test_a_change_is_answered_when_a_committed_entry_makes_it():
    bench = Bench()
    bench.effects.answered(OP_ID, 1 << VERSION_SHIFT)
    assert "no committed entry makes it" in bench.accused[0]


def test_a_change_is_not_made_once_its_caller_has_heard_that_it_is_not():
    bench = Bench()
    bench.effects.refused(OP_ID)
    bench.commit(1, results(1, OP_ID))
    assert "is made, which an answer had refused" in bench.accused[0]


def test_a_change_that_an_entry_refused_is_not_made():
    bench = Bench()
    bench.commit(1, results(1, refused=(OP_ID,)))
    bench.effects.refused(OP_ID)
    assert not bench.accused
    bench.commit(2, results(2, OP_ID))
    assert "is made, which an entry had refused" in bench.accused[0]


def test_a_change_that_is_made_is_not_refused():
    bench = Bench()
    bench.commit(1, results(1, OP_ID))
    bench.effects.refused(OP_ID)
    assert "was made, and then an answer refused it" in bench.accused[0]


def test_a_change_that_was_sent_before_is_refused_by_an_entry():
    bench = Bench()
    bench.commit(1, results(1, refused=(OP_ID,)))
    bench.effects.refused_again(OP_ID)
    assert not bench.accused
    bench.effects.refused_again(b"p" * 16)
    assert "was sent before, and no entry refuses it" in bench.accused[0]


def test_a_change_was_sent_before_unless_nobody_took_it():
    effects = Bench().effects
    assert not effects.attempted(OP_ID)
    effects.not_taken(OP_ID)
    assert not effects.attempted(OP_ID)
    assert effects.attempted(OP_ID)
    assert not effects.attempted(b"p" * 16)


def bucket(life, split=None):
    record = BucketRecord("o", 0, "r", "private", life, split)
    return keys.bucket_key(b"bucket"), encode_row(Row(encode(record)))


def test_a_split_ends_once_it_is_closed():
    bench = Bench()
    parent, child = b"p" * 16, b"c" * 16
    split = SplitRecord(parent, b"", child, b"m", 5)
    closed = encode_row(bound_row(parent, BoundRecord(closed=child)))
    bench.commit(1, bucket(parent, split))
    bench.commit(2, (keys.bound_key(parent), closed))
    bench.commit(3, bucket(parent))
    bench.commit(4, bucket(parent, msgspec.structs.replace(split, child=b"d" * 16)))
    bench.commit(5, bucket(b"l" * 16))
    assert not bench.accused
    bench.commit(6, bucket(parent, msgspec.structs.replace(split, child=b"e" * 16)))
    bench.commit(7, bucket(parent))
    assert "ends and is not closed" in bench.accused[0]


def naming(*blobs):
    refs = tuple(BlobRef(blob, 5, (0, 1)) for blob in blobs)
    return b"k", encode_row(Row(b"", blobs=refs))


def dropping(op, blob):
    return free_writes(op << VERSION_SHIFT, [BlobRef(blob, 5, (0, 1))])


def test_a_blob_that_a_row_names_is_not_given_back():
    bench = Bench()
    bench.effects.deleted([BLOB])
    other = BlobId(b"c" * 16)
    bench.commit(1, naming(other))
    assert not bench.accused
    bench.effects.deleted([other])
    assert "is given back, and a row names it" in bench.accused[0]


def test_a_blob_that_a_row_may_name_is_not_discarded():
    bench = Bench()
    bench.effects.unknown([BLOB])
    bench.effects.discarded([b"c" * 16])
    assert not bench.accused
    bench.effects.discarded([BLOB])
    assert "is discarded, and a row may name it" in bench.accused[0]


def test_a_dropped_blob_is_kept_for_its_readers():
    bench = Bench()
    bench.commit(1, naming(BLOB))
    bench.commit(2, naming(), *dropping(2, BLOB))
    bench.now = KEEP_S
    bench.effects.deleted([BLOB])
    assert not bench.accused
    bench.now = KEEP_S / 2
    bench.effects.deleted([BLOB])
    assert "is given back 5.000 s after it was dropped" in bench.accused[0]


def test_a_dropped_blob_is_not_named_again():
    bench = Bench()
    bench.commit(1, naming(BLOB))
    bench.commit(2, naming(), *dropping(2, BLOB))
    bench.commit(3, naming(BLOB))
    assert "which was dropped" in bench.accused[0]


def test_a_blob_that_was_given_back_is_not_named():
    bench = Bench()
    bench.effects.deleted([BLOB])
    bench.commit(1, naming(BLOB))
    assert "which was given back" in bench.accused[0]


def test_a_blob_is_stored_where_its_answer_says_and_on_two_nodes():
    account = Account(lambda: 0.0)
    auditor = Auditor(account, Events())
    uuids = [DeviceUuid(bytes([n]) * 16) for n in range(3)]
    auditor.know(
        tuple(
            DeviceEntry(id=n, uuid=uuid, node=f"n{n // 2}", path=f"d{n}", zone="z")
            for n, uuid in enumerate(uuids)
        )
    )
    for uuid in uuids:
        auditor.of(uuid).blobs.placeless[BLOB] = None
    auditor.stored(BlobRef(BLOB, 5, (1, 2)))
    assert not account.violations
    auditor.stored(BlobRef(BLOB, 5, (0, 1)))
    assert "of one node" in account.violations[0].what
    auditor.of(uuids[2]).blobs.placeless.clear()
    auditor.stored(BlobRef(BLOB, 5, (1, 2)))
    assert "is said to be on device 2" in account.violations[1].what
