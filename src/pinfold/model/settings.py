"""Settings an operator may tune: frozen values with defaults, units and reasons.

Read once by the node layer and passed down as the part needed. `for_tests()` makes limits bite.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from pinfold.model.limits import GIB, KIB, MIB, PART_BYTES_MIN

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
SecondsOrZero = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(gt=0, le=1 << 40)]
BytesOrZero = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Count = Annotated[int, msgspec.Meta(gt=0, le=1 << 20)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0, le=1 << 20)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
"""What a file may say; a day, a terabyte and a million are beyond any sense."""


class BlobSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How replicated blobs are written and read."""

    put_timeout_s: Seconds = 10.0
    """A put that has not reached W devices by then is Unavailable."""
    read_timeout_s: Seconds = 10.0
    """A read that nobody could answer by then is Unavailable."""
    retry_pause_s: Seconds = 0.1
    """Between attempts to reach W devices: the time a restarted node needs to be dialled."""
    hedge_s: Seconds = 0.25
    """A device slower than this is not waited for alone: the next is asked too."""
    behind_bytes: Bytes = 64 << 20
    """Large blobs that are answered and still under way to their last device; over it the oldest
    of these copies are given up, so that a slow device costs a copy and not memory."""
    free_delay_s: SecondsOrZero = 900.0
    """A blob that no row names any more is kept this long for clients that still download it."""
    free_delay_short_s: SecondsOrZero = 60.0
    """The same while space is short: a slow download may then fail, a write need not."""
    free_look_s: Seconds = 5.0
    """Pause between two looks for blobs to give back while none is due: deletes are not urgent."""
    free_retry_s: Seconds = 300.0
    """Blobs that some device did not give back are tried again after this."""
    space_short_share: Share = 0.1
    """Space is short when payloads may take less than this part of a device of the node: its
    reserve does not count."""

    def free_delay(self, free_shares: Iterable[float]) -> float:
        """How long to keep a blob, given which part of each device is free."""
        short = min(free_shares, default=1.0) < self.space_short_share
        return min(self.free_delay_s, self.free_delay_short_s) if short else self.free_delay_s

    def quorum(self, copies: int) -> int:
        """W of N copies: 2 of 3, 3 of 5."""
        return copies // 2 + 1


class ObjectSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a front end moves objects' bytes."""

    segment_bytes: Bytes = 16 << 20
    """An object is cut into blobs of this size; at most SEGMENT_BYTES, which tests shrink."""
    write_memory_bytes: Bytes = 64 << 20
    """Bytes of uploads that all requests of the process hold together; at least one segment."""
    read_memory_bytes: Bytes = 64 << 20
    """Bytes read ahead of slow clients by all requests together; at least two read chunks."""
    read_chunk_bytes: Bytes = 1 << 20
    """Read from a blob at a time: enough that a round trip hides behind the one before."""
    memory_waiting_max: CountOrZero = 1024
    """Requests that may wait for memory; more are Busy."""
    memory_timeout_s: Seconds = 20.0
    """A request that got no memory by then is Busy: clients wait about a minute for an answer."""
    write_patience_s: Seconds = 2.0
    """An upload that has filled its memory for longer while others wait for some stores what has
    come so far and queues again: a slow client cannot keep the others out."""
    bucket_cache_s: SecondsOrZero = 5.0
    """How long another gateway's change of a bucket's owner or ACL may go unseen. What a bucket
    holds and whether it exists is never answered from the cache alone."""
    bucket_cache_max: Count = 10_000
    """Buckets remembered, about 500 bytes each."""
    route_cache_max: Count = 10_000
    """Shards remembered with the names at which they begin and end, about 500 bytes each; 2.5 KiB
    with names of 1,024 bytes. What of them has moved is read again."""
    shard_rows_max: Count = 250_000
    """A bucket's shard with more objects is split: about 100 MiB of rows, which a member that lags
    far behind copies in some ten seconds."""
    shard_changes_per_s_max: Annotated[float, msgspec.Meta(gt=0, le=1 << 20)] = 4_000.0
    """A shard that this process alone changes more often is split: half of what a group does.
    Below, moving its rows would cost more than two groups gain."""
    split_range_rows: Annotated[int, msgspec.Meta(gt=0, le=1_000)] = 500
    """Rows that a shard gives to its child at a time; meanwhile requests for their names wait."""
    split_interval_s: Seconds = 5.0
    """How often shards that were written are looked at, and splits that were left lying."""
    part_bytes_min: Bytes = PART_BYTES_MIN
    """Parts of an upload but the last have as much: S3's own limit, which tests shrink."""


class AccountSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long what is known of access keys is believed."""

    cache_s: Annotated[float, msgspec.Meta(ge=0, le=5)] = 4.0
    """What was deleted or disabled may work this much longer at other gateways: 5 s at most."""
    negative_cache_s: SecondsOrZero = 1.0
    """A key that was unknown is looked up again after this."""
    cache_max: Count = 10_000
    """Keys that work, unknown keys and users remembered, each; about 500 bytes an entry."""
    unknown_reads_per_s: Count = 100
    """Look-ups of keys that have not worked here before; more are answered Busy (SlowDown)."""


class S3Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The S3 front end."""

    region: str = "us-east-1"
    """The region that requests must be signed for and that new buckets say they are in."""
    other_regions: tuple[str, ...] = ("default",)
    """LocationConstraint values accepted besides the region's own name."""
    domain: str = ""
    """If set, `BUCKET.domain` in Host names the bucket; otherwise it is the path's first part."""
    body_timeout_s: Seconds = 60.0
    """A client that sends or takes no byte for so long is dropped: it holds memory."""
    header_bytes_max: Bytes = 16 << 10
    """Longest request line and longest header; S3's own limit is 8 KiB of headers."""
    connections_max: Count = 4096
    """Connections at once; for a further one the oldest ends that has not asked anything yet, else
    the oldest without a request under way. Each costs about 25 KB."""
    requests_in_flight_max: CountOrZero = 1024
    """More requests at once are answered 503 SlowDown."""
    stall_patience_s: Seconds = 5.0
    """While others wait for what it holds, a client that in this time takes less than an eighth of
    a chunk of its download is dropped; uploads are left alone for as long."""
    upload_bytes_per_s_min: Bytes = 16 << 10
    """At `requests_in_flight_max` the slowest upload below this rate is dropped for a new request,
    so that slow clients do not fill all places."""
    read_buffer_bytes: Bytes = 256 << 10
    """Bytes of a request's body taken from its socket before they are asked for."""
    document_memory_bytes: Annotated[int, msgspec.Meta(ge=2 << 20)] = 32 << 20
    """XML bodies of 16 KiB and more that all requests hold together; at least the largest one."""
    objects: ObjectSettings = ObjectSettings()
    accounts: AccountSettings = AccountSettings()


class VolumeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a volume's holder treats its devices and its lease."""

    copies: Count = 3
    """Devices that hold each extent."""
    min_in_sync: Count = 2
    """Members below which writes wait instead of completing."""
    silence_s: Seconds = 1.5
    """A device that has not answered a write by then is claimed again: above any stall of a busy
    machine, below what a guest notices."""
    recover_s: Seconds = 1.0
    """Time a failed device has to answer a claim before it is put out of sync."""
    last_copy_s: Seconds = 30.0
    """The same for the only device that is known to have every write a dead holder answered: a
    machine that restarts its processes is back by then, and a dead disk does not stop volumes."""
    claim_s: Seconds = 2.0
    """Deadline of one claim: it includes a flush."""
    flush_s: Seconds = 5.0
    """Deadline of a flush: a saturated disk takes its time."""
    retry_s: Seconds = 0.1
    """Pause between attempts to reach a failed device."""
    rejoin_s: Seconds = 1.0
    """Pause between attempts to bring back a device that is out of sync."""
    hedge_s: Seconds = 0.3
    """A read that a device has not answered by then is asked elsewhere."""
    retained_bytes: Bytes = 64 << 20
    """Unflushed writes the holder keeps to resend; half of it starts a flush, all of it waits."""
    retained_s: SecondsOrZero = 5.0
    """Oldest unflushed write before a flush is started."""
    dirty_extents: Annotated[int, msgspec.Meta(ge=2, le=1 << 16)] = 1024
    """Extents (4 MiB each) written and not yet declared stable: what a takeover has to compare,
    some seconds' worth. Half of them start a flush, all of them let writes elsewhere wait."""
    window_bytes: Bytes = 16 << 20
    """Writes sent and not yet taken by all members: about 10 ms of 10 Gbit/s."""
    batches_max: Count = 4
    """Write messages in flight per volume; more requests wait and share the next one."""
    beat_s: Seconds = 2.0
    """How often the holder confirms its row."""
    trust_s: Seconds = 8.0
    """A holder that could not confirm its row for this long stops serving."""
    takeover_s: Seconds = 12.0
    """Silence after which another gateway may take the volume: above trust_s by any clock drift."""
    linger_s: SecondsOrZero = 5.0
    """How long the lease is kept when the last connection has gone."""
    tend_round_s: Seconds = 60.0
    """How often volumes that nobody holds are looked at, and devices for what deleted ones left."""
    tend_stall_s: Seconds = 30.0
    """A volume that is tended and gets no nearer to being whole is left for a later round."""
    piece_bytes: Bytes = 1 << 20
    """Copied behind one fence, in whole blocks and a whole part of an extent: a guest's write to
    them waits about a millisecond per copy. At most a device's largest record."""
    copy_bytes_per_s: Bytes = 200 << 20
    """Pace of resynchronisation, so that guests keep most of the devices."""

    @staticmethod
    def for_tests() -> "VolumeSettings":
        """Small enough that every limit bites within a few requests."""
        return VolumeSettings(
            retained_bytes=256 << 10, window_bytes=64 << 10, batches_max=2, retained_s=0.5
        )


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a node one background worker takes; under load it takes less by itself."""

    bytes_per_s: Bytes = 64 << 20
    """Payload moved: what a disk gives beside its clients, and 1 TB in under five hours."""
    operations_per_s: Count = 200
    """Jobs, and steps of looking for them."""
    look_share: Annotated[float, msgspec.Meta(ge=0.0001, le=1)] = 0.02
    """Of the time, how much is spent on looking for work: each step costs some milliseconds of a
    primary and of this node, so a million rows take ten minutes when nothing else is to do."""
    jobs_at_once: Count = 4
    """Jobs under way: enough to hide round trips and flushes."""
    queue_max: Count = 4096
    """Jobs found and not done, about 1 KiB each; the rest is found when there is room."""
    tries_max: Count = 5
    """Tries of a job before it is left for a later round."""
    backoff_s: Seconds = 1.0
    """Pause after a first failure; it doubles up to a minute."""


class CareSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How copies are kept complete and orphans collected."""

    worker: WorkerSettings = WorkerSettings()
    settle_s: SecondsOrZero = 5.0
    """A device that has returned, or a group that has a new primary, is given so long before its
    blobs are compared: nodes that restart together then cost one look."""
    round_s: Seconds = 86_400.0
    """Every named blob is looked for on each of its devices so often, whatever happened."""
    again_s: Seconds = 30.0
    """A device that could not be asked, or is full, is asked again after this; it doubles up to an
    hour."""
    quarantine_s: Seconds = 30.0
    """How often a node looks for blobs that its devices have quarantined."""
    fetch_timeout_s: Seconds = 30.0
    """Longest copying of one blob. Below `blobs.free_delay_short_s`: a copy begun while a row named
    the blob is then made before the blob is given back, and given back with the others."""
    orphan_grace_s: Annotated[float, msgspec.Meta(gt=0, le=30 * 86_400)] = 72 * 3600.0
    """A blob younger than this is never taken for an orphan: 24 h in which it may be named, and
    twice the 12 h by which a clock may be wrong."""
    orphan_recheck_s: Seconds = 3600.0
    """A blob is collected when two looks at all rows so far apart have found no name of it."""
    orphan_round_s: Seconds = 6 * 3600.0
    """How often all rows are looked at while nothing is suspected."""


class NbdSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one NBD front end takes on."""

    connections_max: Count = 1024
    """Connections served at once; for a further one the oldest that is in its handshake ends. When
    all have a volume, the further one is closed."""
    connection_bytes: Bytes = 64 << 20
    """Payload of one connection's unanswered requests: two of the largest the protocol allows."""
    total_bytes: Bytes = 512 << 20
    """Payload of all connections' requests, from before a large write is received until the client
    has taken the reply. Besides it each connection has a receive buffer of 256 KiB."""
    stall_patience_s: Seconds = 10.0
    """A client that sends less than an eighth of a large write in this time, or takes less than an
    eighth of its replies, while others wait for the memory, is dropped: far above a lost packet's
    delay, below a guest's 30 s."""
    handshake_s: Seconds = 30.0
    """Time a client has to finish the handshake."""


class DeviceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one device keeps its files, and how much it takes on before it says Busy or Full."""

    index_engine: Literal["lmdb", "ordered"] = "lmdb"
    """`lmdb`, or `ordered`: an index held in memory beside a log, for worlds without mmap."""
    index_map_bytes: Bytes = 1 * GIB
    """LMDB's first map size; it doubles when it is full."""
    segment_bytes: Bytes = 16 * MIB
    """A journal file. Twice the largest record at least (see `record_bytes`)."""
    batch_bytes: Bytes = 4 * MIB
    """Most that one write and flush of the journal carries."""
    inline_bytes: Bytes = 256 * KIB
    """So much of the journal is written by the loop itself: in 50 us (4 KiB: 2.6 us), which is less
    than a thread takes to hear of it, and beside a flush that is under way there."""
    kick_bytes: Bytes = 1 * MIB
    """Appends that nobody waits for are written, and writes flushed, once so many have gathered."""
    journal_retain_bytes: BytesOrZero = 64 * MIB
    """Applied journal kept so that a restarted device can still supply recent log entries."""
    unapplied_bytes: Bytes = 128 * MIB
    """Journal not yet applied, which is also held in memory: beyond it writes are Busy."""
    apply_bytes: Bytes = 16 * MIB
    """So much unapplied starts the applier at once, before `apply_interval_s` has passed."""
    apply_interval_s: Seconds = 0.5
    """Longest wait of a change for the applier: long enough that neighbours merge."""
    log_tail_bytes: Bytes = 64 * MIB
    """Log entries of all groups held in memory; applied ones beyond it are trimmed."""
    pack_bytes: Bytes = 1 * GIB
    """A pack is sealed at this size. 1 TB of packs is then 1,000 files."""
    compact_interval_s: Seconds = 60.0
    """How often packs are looked for of which less than a quarter is in use, to be emptied."""
    open_packs: Count = 256
    """Pack files held open, below the usual limit of 1,024 descriptors."""
    read_lanes: Count = 4
    """Threads that read what is not in the page cache: the device's read queue depth."""
    reserve_bytes: BytesOrZero = 512 * MIB
    """Free space below which blobs and extents are refused (Full). At half of it rows that grow
    are, and deletes go on down to an eighth: what they free comes back within about a minute."""

    @property
    def record_bytes(self) -> int:
        """Largest payload of one journal record."""
        return self.segment_bytes // 2

    @classmethod
    def for_tests(cls) -> "DeviceSettings":
        """Small enough that segments wrap, packs roll and limits are reached in a short test."""
        return cls(
            index_engine="ordered",
            index_map_bytes=64 * KIB,
            segment_bytes=256 * KIB,
            batch_bytes=64 * KIB,
            inline_bytes=16 * KIB,
            kick_bytes=32 * KIB,
            journal_retain_bytes=512 * KIB,
            unapplied_bytes=2 * MIB,
            apply_bytes=128 * KIB,
            apply_interval_s=0.02,
            log_tail_bytes=128 * KIB,
            pack_bytes=1 * MIB,
            open_packs=2,
            read_lanes=2,
            reserve_bytes=1 * MIB,
        )
