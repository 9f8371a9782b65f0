"""What clients did and what they were told: the evidence that the checkers judge.

A `Recorder` is told of every call when it begins and when it ends; `history()` freezes it. Instants
are strictly increasing in the order of recording, so "ended before the other began" is exact even
where virtual time stood still. Values are *tokens*: short strings that stand for contents, written
once each; a reader turns the bytes it got back into the token (or into `garbled`).

    recorder = Recorder(world.loop.time)
    call = recorder.begin("c1", "put", bucket="b", name="n", value="c1.17", condition=IF_ABSENT)
    try:
        await put(...)
    except PinfoldError as error:
        call.raised(error)
    else:
        call.done()

A call that never ends (its client died) may still take effect: it counts as unknown.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from pinfold.accounts.records import State
from pinfold.model import errors

Kind = Literal[
    "put",
    "get",
    "head",
    "delete",
    "copy",
    "rewrite",
    "open",
    "part",
    "list-parts",
    "complete",
    "abort",
    "create-bucket",
    "delete-bucket",
    "list-buckets",
]

Outcome = Literal["ok", "refused", "unknown"]
"""ok: it happened. refused: it surely had no effect. unknown: it may take effect at any time after
it began, also after the client gave up, once or never."""

IF_ABSENT: Final = "if-none-match:*"
"""The condition that nothing is there."""

IF_PRESENT: Final = "if-match:*"
"""The condition that something is there. Any other condition is a token: if that is there."""

GARBLED: Final = "?garbled"
"""The token of bytes that nobody wrote: no reader may ever see it."""

READS: Final = ("get", "head")
"""Kinds that have read None when nothing was there."""

HARMLESS: Final = (
    errors.NotFound,
    errors.Conflict,
    errors.Busy,
    errors.Full,
    errors.Invalid,
    errors.Unsupported,
)
"""Errors that promise that nothing was changed; after any other the change may yet happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call on one object (or bucket, then `name` is empty)."""

    id: int
    """Place in the order of beginning."""
    client: str
    kind: Kind
    bucket: str
    name: str = ""
    value: str | None = None
    """Written by put, copy, part and complete; read by get, head and list-parts (None: nothing
    there). A copy's is what its answer said was copied, an open's the upload's id, and a
    list-buckets' the user if the bucket was among those shown."""
    condition: str | None = None
    """Of put, get, copy, complete (on the target) and delete: IF_ABSENT, IF_PRESENT or a token."""
    source: tuple[str, str] | None = None
    """(bucket, name) that a copy reads."""
    upload: str = ""
    """Of part, list-parts, complete and abort. Uploads are open when their id becomes known."""
    part: int = 0
    """The number that a part is given, or that list-parts tells of."""
    parts: tuple[tuple[int, str], ...] = ()
    """Numbers and tokens of the parts that a complete names."""
    user: str = ""
    """Who signed it."""
    gateway: str = ""
    """Whom it was asked of."""
    asked: str | None = None
    """The value as it was asked for, where the answer told another: a complete's may."""
    began: float
    ended: float | None = None
    outcome: Outcome = "unknown"
    error: str = ""
    """Code of the error when refused: `not-found` and `conflict` say something about the key."""

    @property
    def key(self) -> tuple[str, str]:
        """(bucket, name)."""
        return self.bucket, self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing that was answered."""

    id: int
    client: str
    bucket: str
    prefix: str = ""
    delimiter: str = ""
    after: str = ""
    """Only names and prefixes above this one (the last of the page before, or start-after)."""
    limit: int = 1000
    user: str = ""
    """Who signed it."""
    names: tuple[tuple[str, str | None], ...] = ()
    """(name, token that its ETag stands for, or None if that was not looked at), as shown."""
    prefixes: tuple[str, ...] = ()
    truncated: bool = False
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadsPage:
    """All open uploads of a bucket, or of some names in it, as one or several pages showed them."""

    client: str
    bucket: str
    prefix: str = ""
    after: str = ""
    """Only of names above this one."""
    uploads: tuple[tuple[str, str], ...]
    """(upload, name)."""
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """An access key or a user was made another. A key works while it and its user are active."""

    key: str
    """The access key, or the user as `KeyUse.user` names it."""
    state: State
    began: float
    ended: float
    known: bool
    """Else it may take effect at any time after it began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyUse:
    """A request was signed with an access key, and answered or refused."""

    key: str
    user: str
    """Whose it is."""
    worked: bool
    began: float
    ended: float


DiskKind = Literal["read", "write", "flush"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOperation:
    """One request to a volume, through one life of a gateway."""

    id: int
    client: str
    gateway: str
    """Names the process, not the node: another after a restart."""
    kind: DiskKind
    volume: str
    block: int = 0
    """The first block, in units of the workload's block size."""
    tokens: tuple[str, ...] = ()
    """What each block was given, or read as. The token of zeroes is the empty string."""
    fua: bool = False
    began: float
    ended: float | None = None
    outcome: Outcome = "unknown"
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """A process ended. With `power` its device kept only what was flushed, and some of the rest."""

    at: float
    subject: str
    """A gateway's life as in `DiskOperation.gateway`, or a device."""
    power: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Something was wrong with a node, or with everything: see `sim.weather`."""

    subject: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Everything that was recorded, in the order of beginning."""

    operations: tuple[Operation, ...] = ()
    pages: tuple[Page, ...] = ()
    uploads_pages: tuple[UploadsPage, ...] = ()
    key_changes: tuple[KeyChange, ...] = ()
    key_uses: tuple[KeyUse, ...] = ()
    disk: tuple[DiskOperation, ...] = ()
    deaths: tuple[Death, ...] = ()
    disturbances: tuple[Disturbance, ...] = ()


class Call:
    """An operation on its way: say once how it ended."""

    def __init__(self, recorder: "Recorder", slot: list["Operation"]) -> None:
        self._recorder = recorder
        self._slot = slot

    @property
    def operation(self) -> Operation:
        """As known so far."""
        return self._slot[0]

    def asked_of(self, gateway: str) -> None:
        """It is sent to this gateway."""
        self._slot[0] = replace(self._slot[0], gateway=gateway)

    def done(self, *, value: str | None = None) -> None:
        """It succeeded. `value`: what was read or copied; None keeps what was written."""
        operation = self._end("ok")
        if value is not None:
            operation = replace(operation, value=value, asked=operation.value)
        self._slot[0] = operation
        self._recorder.tell(operation)

    def raised(self, error: BaseException) -> None:
        """It failed; the error's class decides whether it may have happened.

        A get or head of nothing (NotFound) has succeeded: it read None.
        """
        if isinstance(error, errors.NotFound) and self.operation.kind in READS:
            self.done()
            return
        operation = self._end("refused" if isinstance(error, HARMLESS) else "unknown")
        self._slot[0] = replace(operation, error=getattr(error, "code", type(error).__name__))

    def refused(self, code: str) -> None:
        """It surely had no effect; `code` as in `model.errors`."""
        self._slot[0] = replace(self._end("refused"), error=code)

    def lost(self, code: str = "") -> None:
        """Nobody knows whether it happened or will."""
        self._slot[0] = replace(self._end("unknown"), error=code)

    def _end(self, outcome: Outcome) -> Operation:
        assert self._slot[0].ended is None, "ended twice"
        return replace(self._slot[0], ended=self._recorder.instant(), outcome=outcome)


class DiskCall:
    """A request to a volume on its way."""

    def __init__(self, recorder: "Recorder", slot: list["DiskOperation"]) -> None:
        self._recorder = recorder
        self._slot = slot

    def done(self, *, tokens: Sequence[str] | None = None) -> None:
        """It succeeded. `tokens`: what a read found, one for each block."""
        request = self._end("ok")
        self._slot[0] = request if tokens is None else replace(request, tokens=tuple(tokens))
        self._recorder.tell(self._slot[0])

    def lost(self, code: str = "") -> None:
        """It failed or was never answered: a write may have happened, wholly or in part."""
        self._slot[0] = replace(self._end("unknown"), error=code)

    def refused(self, code: str) -> None:
        """It surely had no effect (the volume was never opened, the request was invalid)."""
        self._slot[0] = replace(self._end("refused"), error=code)

    def _end(self, outcome: Outcome) -> DiskOperation:
        assert self._slot[0].ended is None, "ended twice"
        return replace(self._slot[0], ended=self._recorder.instant(), outcome=outcome)


@dataclass(slots=True)
class Recorder:
    """Collects a history; `now` tells the time, in seconds."""

    now: Callable[[], float]
    listeners: list[Callable[[Operation | DiskOperation], None]] = field(default_factory=list)
    """Called with whatever has just succeeded: for faults that strike at such an instant."""
    _operations: list[list[Operation]] = field(default_factory=list)
    _pages: list[Page] = field(default_factory=list)
    _uploads_pages: list[UploadsPage] = field(default_factory=list)
    _key_changes: list[KeyChange] = field(default_factory=list)
    _key_uses: list[KeyUse] = field(default_factory=list)
    _disk: list[list[DiskOperation]] = field(default_factory=list)
    _deaths: list[Death] = field(default_factory=list)
    _disturbances: list[Disturbance] = field(default_factory=list)
    _last: float = -math.inf

    def instant(self) -> float:
        """Now, but later than every instant given out before."""
        self._last = max(self.now(), math.nextafter(self._last, math.inf))
        return self._last

    def tell(self, ended: Operation | DiskOperation) -> None:
        """Something has succeeded just now."""
        for listener in list(self.listeners):
            listener(ended)

    def begin(
        self,
        client: str,
        kind: Kind,
        *,
        bucket: str,
        name: str = "",
        value: str | None = None,
        condition: str | None = None,
        source: tuple[str, str] | None = None,
        upload: str = "",
        part: int = 0,
        parts: tuple[tuple[int, str], ...] = (),
        user: str = "",
    ) -> Call:
        """A client is about to send a request; see `Operation` for what goes with which kind."""
        operation = Operation(
            id=len(self._operations),
            client=client,
            kind=kind,
            bucket=bucket,
            name=name,
            value=value,
            condition=condition,
            source=source,
            upload=upload,
            part=part,
            parts=parts,
            user=user,
            began=self.instant(),
        )
        slot = [operation]
        self._operations.append(slot)
        return Call(self, slot)

    def page(
        self,
        client: str,
        *,
        bucket: str,
        began: float,
        names: Sequence[tuple[str, str | None]],
        prefixes: Sequence[str] = (),
        prefix: str = "",
        delimiter: str = "",
        after: str = "",
        limit: int = 1000,
        truncated: bool = False,
        user: str = "",
    ) -> None:
        """A page was answered just now; `began` is the `instant()` taken before it was asked for.

        A page that was never answered says nothing and is not recorded.
        """
        self._pages.append(
            Page(
                id=len(self._pages),
                client=client,
                bucket=bucket,
                prefix=prefix,
                delimiter=delimiter,
                after=after,
                limit=limit,
                user=user,
                names=tuple(names),
                prefixes=tuple(prefixes),
                truncated=truncated,
                began=began,
                ended=self.instant(),
            )
        )

    def uploads_page(
        self,
        client: str,
        *,
        bucket: str,
        began: float,
        uploads: Sequence[tuple[str, str]],
        prefix: str = "",
        after: str = "",
    ) -> None:
        """All open uploads of a bucket were told just now; `began` as for `page`."""
        page = UploadsPage(
            client=client,
            bucket=bucket,
            prefix=prefix,
            after=after,
            uploads=tuple(uploads),
            began=began,
            ended=self.instant(),
        )
        self._uploads_pages.append(page)

    def key_changed(self, key: str, state: State, *, began: float, known: bool) -> None:
        """A change of a key or user was answered just now, or its answer was lost."""
        ended = self.instant()
        change = KeyChange(key=key, state=state, began=began, ended=ended, known=known)
        self._key_changes.append(change)

    def key_used(self, key: str, *, user: str, worked: bool, began: float) -> None:
        """A request signed with an access key was answered, or refused for its key, just now."""
        use = KeyUse(key=key, user=user, worked=worked, began=began, ended=self.instant())
        self._key_uses.append(use)

    def begin_disk(
        self,
        client: str,
        kind: DiskKind,
        *,
        gateway: str,
        volume: str,
        block: int = 0,
        tokens: Sequence[str] = (),
        fua: bool = False,
    ) -> DiskCall:
        """A client is about to send a request to a volume."""
        request = DiskOperation(
            id=len(self._disk),
            client=client,
            gateway=gateway,
            kind=kind,
            volume=volume,
            block=block,
            tokens=tuple(tokens),
            fua=fua,
            began=self.instant(),
        )
        slot = [request]
        self._disk.append(slot)
        return DiskCall(self, slot)

    def died(self, subject: str, *, power: bool = False) -> None:
        """A gateway's process or a device's node ended just now."""
        self._deaths.append(Death(at=self.instant(), subject=subject, power=power))

    def disturbed(self, disturbance: Disturbance) -> None:
        """Something was wrong for a while."""
        self._disturbances.append(disturbance)

    def history(self) -> History:
        """All so far. Calls still on their way are unknown."""
        return History(
            operations=tuple(slot[0] for slot in self._operations),
            pages=tuple(self._pages),
            uploads_pages=tuple(self._uploads_pages),
            key_changes=tuple(self._key_changes),
            key_uses=tuple(self._key_uses),
            disk=tuple(slot[0] for slot in self._disk),
            deaths=tuple(self._deaths),
            disturbances=tuple(self._disturbances),
        )
