"""Splitting a shard while it serves: the steps, why they are safe, and who may take them.

A shard gives the upper part of its names to a new one, its *child*, in small ranges from the top
down. Parent and child live in different groups and nothing is ever changed in two groups at once;
instead every step is one change of one group, checked against what the step was decided by. So a
step taken twice, late, or by several at once happens once, and whoever finds a split lying goes on
with it: all that is known about it is in these rows.

    bucket row      the split: parent, child, how much to give; rewritten whenever the map changes
    bucket's map    a row for each shard, in the bucket row's group: where it begins and ends
    parent's bound  the first name that the parent takes no writes of; which split is closed
    parent's moved  the first name that the parent answers no reads of
    child's received  the range being given, how far it is copied, how many objects were given

Let `end` be where the map says that the parent ends. One range is given in these steps:

    seal    bound := the first name of the range: its writes are refused from here on
    copy    page by page, the range's rows are put into the child together with `received`
    hide    moved := bound: its reads are refused from here on
    open    the map says that the child begins, and the parent ends, at the range's first name
    clean   the range's rows leave the parent, and their blobs are *not* freed

and then the next range, until the child has enough: the split is closed, and leaves the bucket row.
Names of the range wait between seal and open, a dozen round trips; all others are served meanwhile.
Copying everything first and sealing at the end would make a whole half wait for a comparison of
all its rows.

Why no acknowledged write is lost, doubled or read after it was replaced:

1.  `bound`, `moved` and `end` only ever go down, bound <= moved <= end, and each by a change that
    checks the version read before. (A bucket's deletion may seal the bound further; lifting that
    restores the limit it found.)
2.  A write below `bound` is in the parent before any range above it is copied, because writes check
    the bound in log order and the copy reads after the seal. From then on the range's rows in the
    parent stand still until `clean`, which deletes only what lies at or above `end`.
3.  The child takes no write of a name before the map says it is the child's, since nobody routes
    there. A copy checks the version of `received`, read before the rows were: a copier who was
    overtaken changes nothing, so no row comes back after the child has opened and deleted it.
4.  The parent answers no read of a name after the child may have taken a write of it: hide comes
    before open, and a read checks `moved` in the instant in which it sees the row. A map of any age
    is therefore harmless: the parent refuses, and whoever asked reads the map again.
5.  Rows keep their tags, sizes, blobs and payloads. Versions and stamps are each group's own: what
    is compared by version is read and changed in one shard, and records carry their times.
6.  A blob is named by the parent until the child names it too, and freed by whoever deletes the
    child's row: never by clean.
7.  Counted rows enter the child's counter with the copy and leave the parent's with clean. In
    between they count twice; when no split is under way counters equal sums.
8.  Nothing of a split comes after it. Before a split ends the parent's bound is *closed* for it,
    by a change that checks the bound read before, and only while nothing is sealed that has not
    opened. So a worker who was late to seal, because others had found nothing to give and ended the
    split meanwhile, changes nothing: a limit of his would be lifted by nobody. The same closing
    keeps a split from ending while others are copying, which would leave a child that no map knows,
    with rows that name the parent's blobs.

A bucket that is being deleted (see `buckets`) needs every shard of the map to be empty, rows left
for clean included, and its row unchanged since the map was read: an open in between changes it.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from pinfold.cluster.api import Change, Check, Page, Row, Rows
from pinfold.env.api import Env
from pinfold.model.errors import Conflict
from pinfold.model.ids import OpId
from pinfold.objects import keys
from pinfold.objects.ranges import (
    carried,
    first_of_range,
    first_place,
    given_away,
    sealed_behind,
)
from pinfold.objects.records import (
    BoundRecord,
    BucketRecord,
    ReceivedRecord,
    SplitRecord,
    decode,
    encode,
)
from pinfold.objects.shardmap import shard_of, shard_row
from pinfold.objects.shards import Shard, bound_of, bound_row, unchanged

RANGE_ROWS_MAX: Final = 1000
"""Rows looked at to choose a range: one page."""

COPY_ROWS_MAX: Final = 250
"""Rows in one copy: with keys of 1,024 zero bytes and a page's 3 MiB still below CHANGE_BYTES."""

EVERYTHING: Final = 1 << 60
"""As `SplitRecord.rows`: only the name says when it is enough."""


class Step(Enum):
    """What a split needs next."""

    CLEAN = "clean"
    SEAL = "seal"
    COPY = "copy"
    HIDE = "hide"
    OPEN = "open"
    CLOSE = "close"
    FINISH = "finish"


class Overtaken(Conflict):
    """Somebody else has taken this step, or the bucket is being deleted: look again later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A split as its rows show it."""

    name: str
    bucket: Row
    record: BucketRecord
    split: SplitRecord
    parent: Shard
    child: Shard | None
    """As the map shows it; None before its first range opens."""
    bound: Row | None
    moved: Row | None
    received: Row | None
    leftovers: bool
    """Whether the parent still has rows at or above its end."""

    @property
    def given(self) -> ReceivedRecord | None:
        """What the child has been given."""
        return decode(ReceivedRecord, self.received.body) if self.received else None


def next_step(state: State) -> Step:
    """The step that a split needs next. Overtaken when some of the rows are ahead of others."""
    bound = bound_of(state.bound)
    limit = bound.limit or None
    end, given = state.parent.end, state.given
    if limit in (None, end):  # none: it has never given anything, whatever lies above it
        if given is not None and (end is None or given.floor < end):
            raise Overtaken("a range has been sealed and is being given already")
        if state.leftovers:
            return Step.CLEAN
        if bound.closed == state.split.child:
            return Step.FINISH
        return Step.CLOSE if _enough(state.split, end, given) else Step.SEAL
    assert limit is not None
    if given is not None and given.floor < limit:
        raise Overtaken("a lower range is being given already")
    if given is None or given.floor != limit or given.through:
        return Step.COPY
    return Step.OPEN if bound_of(state.moved).limit == limit else Step.HIDE


def _enough(split: SplitRecord, end: bytes | None, given: ReceivedRecord | None) -> bool:
    if end is None or given is None:
        return False
    return end <= split.until or given.rows >= split.rows


class Mover:
    """Takes the steps. Any number may be at work on one split."""

    def __init__(self, env: Env, rows: Rows, range_rows: int) -> None:
        self._rng = env.rng
        self._rows = rows
        self._range_rows = min(range_rows, RANGE_ROWS_MAX)
        self._copy_rows = min(COPY_ROWS_MAX, -(-self._range_rows // 2))

    async def begin(self, parent: Shard, *, until: bytes, rows: int) -> bool:
        """Decide that a shard is split; False when it or its bucket is gone, changing or splitting.

        `until` and `rows` as in `SplitRecord`.
        """
        found = await self._bucket(parent.bucket)
        if found is None or found[1].split is not None or found[1].deleting:
            return False
        row, record = found
        child = keys.new_shard_id(self._rng)
        split = SplitRecord(parent.id, parent.first, child, until, rows)
        try:
            current = await self._mapped(parent.bucket, found, parent.first)
            if current is None or current.id != parent.id:
                return False
            await self._rewrite(parent.bucket, row, msgspec.structs.replace(record, split=split))
        except Conflict:
            return False
        return True

    async def step(self, name: str) -> Step | None:
        """Take the next step of a bucket's split; None when there is none. Overtaken."""
        state = await self.look(name)
        return None if state is None else await self.take(state)

    async def take(self, state: State) -> Step:
        """Take the step that a split needed when it was looked at. Overtaken."""
        step = next_step(state)
        try:
            await self._take(step, state)
        except Overtaken:
            raise
        except Conflict as conflict:
            raise Overtaken(conflict.message) from None
        return step

    async def clean(self, parent: Shard) -> None:
        """Delete the rows that a shard has given away; it ends where some map says or below."""
        if parent.end is None:
            return
        for begin, end in given_away(parent):
            start: bytes | None = begin
            while start is not None:
                page = await self._rows.scan(parent.place, start, end, RANGE_ROWS_MAX)
                if page.items:
                    change = Change(
                        self._op_id(),
                        delete_ranges=((start, page.next_start or end),),
                        counter=keys.counter_key(parent.id),
                        keep_blobs=True,
                    )
                    await self._rows.change(parent.place, change)
                start = page.next_start

    async def _take(self, step: Step, state: State) -> None:
        match step:
            case Step.CLEAN:
                await self.clean(state.parent)
            case Step.SEAL:
                await self._seal(state)
            case Step.COPY:
                await self._copy(state)
            case Step.HIDE:
                await self._hide(state)
            case Step.OPEN:
                await self._open(state)
            case Step.CLOSE:
                await self._close(state)
            case Step.FINISH:
                await self._finish(state)

    async def look(self, name: str) -> State | None:
        """A bucket's split; None when there is none. Overtaken.

        The bucket's row is read first, with its map: all else runs ahead of it, if at all. The
        others are read at once, so some may be older than others: `next_step` and the versions that
        steps check see to that.
        """
        found = await self._bucket(name)
        if found is None or found[1].split is None:
            return None
        split = found[1].split
        assert split is not None
        try:
            parent = await self._mapped(name, found, split.first)
            assert parent is not None
            assert parent.id == split.parent, "the map has what its bucket's row says"
            return await self._look(name, found, split, parent)
        except Conflict as conflict:
            raise Overtaken(conflict.message) from None

    async def _look(
        self, name: str, found: tuple[Row, BucketRecord], split: SplitRecord, parent: Shard
    ) -> State:
        bound, moved, received = await self._together(
            (parent.place, keys.bound_key(parent.id)),
            (parent.place, keys.moved_key(parent.id)),
            (keys.shard_place(split.child), keys.received_key(split.child)),
        )
        leftovers, behind = False, None
        if parent.end is not None:
            behind = await self._mapped(name, found, parent.end)
            if bound_of(bound).limit == parent.end:
                leftovers = await self._any(parent, given_away(parent))
        return State(
            name=name,
            bucket=found[0],
            record=found[1],
            split=split,
            parent=parent,
            child=behind if behind is not None and behind.id == split.child else None,
            bound=bound,
            moved=moved,
            received=received,
            leftovers=leftovers,
        )

    async def _together(self, *rows: tuple[bytes, bytes]) -> list[Row | None]:
        """Rows by place and key, read at once; the first failure is the caller's."""
        try:
            async with asyncio.TaskGroup() as reads:
                tasks = [reads.create_task(self._rows.get(place, key)) for place, key in rows]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _any(self, parent: Shard, ranges: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether there is a row in any of some ranges of keys."""
        for start, end in ranges:
            if (await self._rows.scan(parent.place, start, end, 1)).items:
                return True
        return False

    async def _seal(self, state: State) -> None:
        """Choose a range at the parent's end and refuse its writes; or see that there is none."""
        parent, split = state.parent, state.split
        if bound_of(state.bound).deleting:
            raise Overtaken("the bucket is being deleted")
        missing = split.rows - (state.given.rows if state.given else 0)
        last: list[Page] = []
        for section in keys.SECTIONS:
            wanted = self._range_rows
            if section == keys.OBJECTS:
                wanted = max(1, min(missing, wanted))
            start, end = parent.key_range(section)
            last.append(await self._rows.scan(parent.place, start, end, wanted, reverse=True))
        first = first_of_range(last, parent, split)
        if first is None:
            await self._close(state)
            return
        key = keys.bound_key(parent.id)
        change = Change(
            self._op_id(),
            checks=(unchanged(key, state.bound),),
            puts=((key, bound_row(parent.id, BoundRecord(first))),),
        )
        await self._rows.change(parent.place, change)

    async def _copy(self, state: State) -> None:
        """The rest of the sealed range, page by page; a page that is there stays if this ends."""
        floor, given = bound_of(state.bound).limit, state.given
        started = given is not None and given.floor == floor
        through: bytes = given.through if given and started else first_place(floor)
        rows = given.rows if given else 0
        before = unchanged(keys.received_key(state.split.child), state.received)
        while through:
            through, counted, version = await self._copy_page(state, floor, through, rows, before)
            rows += counted
            before = Check("version", before.key, number=version)

    async def _copy_page(
        self, state: State, floor: bytes, start: bytes, rows: int, before: Check
    ) -> tuple[bytes, int, int]:
        """(place of the next page or empty, objects in this one, version of `received`)."""
        parent, child = state.parent, state.split.child
        _, end = parent.key_range(start[:1])
        page = await self._rows.scan(
            parent.place, keys.in_shard(parent.id, start), end, self._copy_rows, payloads=True
        )
        found = [(key, row) for key, row in page.items if row is not None]
        counted = sum(row.size >= 0 for _, row in found)
        through = b""
        if page.next_start is not None:
            through = keys.unsharded(page.next_start)
        else:
            for begin, behind in sealed_behind(parent, floor, start[:1]):
                if await self._any(parent, ((begin, behind),)):
                    through = keys.unsharded(begin)
                    break
        note = Row(encode(ReceivedRecord(floor, through, rows + counted)))
        copies = [
            (keys.in_shard(child, keys.unsharded(key)), carried(key, row)) for key, row in found
        ]
        change = Change(
            self._op_id(),
            checks=(before,),
            puts=(*copies, (before.key, note)),
            counter=keys.counter_key(child),
            carried=True,
        )
        changed = await self._rows.change(keys.shard_place(child), change)
        return through, counted, changed.version

    async def _hide(self, state: State) -> None:
        parent = state.parent
        limit = BoundRecord(bound_of(state.bound).limit)
        key = keys.moved_key(parent.id)
        if state.moved is not None and bound_of(state.moved).limit < limit.limit:
            raise Overtaken("a lower range is hidden already")
        change = Change(
            self._op_id(),
            checks=(unchanged(key, state.moved),),
            puts=((key, bound_row(parent.id, limit)),),
        )
        await self._rows.change(parent.place, change)

    async def _open(self, state: State) -> None:
        """Move the border in the map; the bucket's row is written, so that it is known to have."""
        parent, child = state.parent, state.child
        limit, life = bound_of(state.bound).limit, state.record.life
        grown = Shard(state.name, state.split.child, limit, child.end if child else parent.end)
        shrunk = msgspec.structs.replace(parent, end=limit)
        await self._rewrite(
            state.name,
            state.bucket,
            state.record,
            puts=(shard_row(shrunk, life), shard_row(grown, life)),
            deletes=(shard_row(child, life)[0],) if child else (),
        )

    async def _close(self, state: State) -> None:
        """See to it that nobody seals a range for this split any more."""
        parent, key = state.parent, keys.bound_key(state.parent.id)
        closed = msgspec.structs.replace(bound_of(state.bound), closed=state.split.child)
        change = Change(
            self._op_id(),
            checks=(unchanged(key, state.bound),),
            puts=((key, bound_row(parent.id, closed)),),
        )
        await self._rows.change(parent.place, change)

    async def _finish(self, state: State) -> None:
        record = msgspec.structs.replace(state.record, split=None)
        await self._rewrite(state.name, state.bucket, record)

    async def _bucket(self, name: str) -> tuple[Row, BucketRecord] | None:
        bucket = name.encode()
        row = await self._rows.get(keys.bucket_place(bucket), keys.bucket_key(bucket))
        return None if row is None else (row, decode(BucketRecord, row.body))

    async def _mapped(
        self, name: str, found: tuple[Row, BucketRecord], first: bytes
    ) -> Shard | None:
        """The shard that begins at a name while the bucket's row is as it was found; Conflict."""
        row, record = found
        bucket = name.encode()
        key = keys.map_key(record.life, keys.prefix_position(first))
        unread = Check("version", keys.bucket_key(bucket), number=row.version)
        of_shard = await self._rows.get(keys.bucket_place(bucket), key, checks=(unread,))
        return None if of_shard is None else shard_of(name, record.life, key, of_shard)

    async def _rewrite(
        self,
        name: str,
        old: Row,
        record: BucketRecord,
        *,
        puts: tuple[tuple[bytes, Row], ...] = (),
        deletes: tuple[bytes, ...] = (),
    ) -> None:
        """Replace the bucket's row that was read, and rows of its map with it. Conflict."""
        key = keys.bucket_key(name.encode())
        change = Change(
            self._op_id(),
            checks=(Check("version", key, number=old.version),),
            puts=((key, Row(encode(record))), *puts),
            deletes=deletes,
        )
        await self._rows.change(keys.bucket_place(name.encode()), change)

    def _op_id(self) -> OpId:
        return OpId(self._rng.randbytes(16))
