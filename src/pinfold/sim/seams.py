"""The product's own seams inside of a simulated process, with somebody who looks: see `events`."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from pinfold.cluster.api import BlobRef, Blobs, Change, Changed, Rows
from pinfold.cluster.bodies import taken
from pinfold.cluster.groups.operations import CHANGE, CHANGE_FORM
from pinfold.env.api import Buffer
from pinfold.model.errors import Busy, Conflict, NotPrimary, PinfoldError, Unavailable
from pinfold.rpc.api import HandlerResult, Request
from pinfold.rpc.dispatch import Operations
from pinfold.sim.audit.auditor import Auditor
from pinfold.sim.audit.effects import Effects
from pinfold.sim.events import Events
from pinfold.volumes.row import VolumeRow, decode_volume, key_of

_change_decoder = msgspec.msgpack.Decoder(Change)

_VOLUME = key_of("")[:1]

_KINDS = {
    b"a": "note",
    b"b": "bucket",
    b"m": "map",
    b"o": "name",
    b"r": "received",
    b"x": "bound",
    b"y": "moved",
}
"""What rows of `objects.keys` are about, by the first byte of their keys."""


def _kind(key: bytes) -> str:
    return _KINDS.get(key[:1], key[:1].hex())


class Seams(Operations):
    """Operations that tell which of them is asked of a process: `rpc extent.claim`.

    How changes of rows that were sent before are refused is judged, whether their sender says so
    or not: see `Effects.refused_again`.
    """

    def __init__(self, events: Events, effects: Effects, node: str) -> None:
        super().__init__()
        self._events = events
        self._effects = effects
        self._node = node

    def run(self, request: Request, now: float) -> HandlerResult | PinfoldError:
        """See `Operations.run`."""
        result = super().run(request, now)
        self._events.tell(f"rpc {request.operation}", self._node)
        if request.operation == CHANGE and isinstance(result, asyncio.Future):
            self._note(request, result)
        return result

    def _note(self, request: Request, result: "asyncio.Future[Any]") -> None:
        _, _, again = taken(CHANGE, request.body, CHANGE_FORM)
        op_id = _change_decoder.decode(request.payload).op_id
        again |= self._effects.attempted(op_id)
        result.add_done_callback(partial(self._changed, op_id, again))

    def _changed(self, op_id: bytes, again: bool, done: "asyncio.Future[Any]") -> None:
        error = None if done.cancelled() else done.exception()
        if isinstance(error, NotPrimary | Busy):
            self._effects.not_taken(op_id)
        elif isinstance(error, Conflict) and again:
            self._effects.refused_again(op_id)


class SeenRows:
    """`Rows` that tell what a gateway changes: `rows <kind>`, and `... done` when it has.

    Of a volume's row the kind says what happens to the volume.
    """

    def __init__(self, inner: Rows, events: Events, effects: Effects, node: str) -> None:
        self._inner = inner
        self._events = events
        self._effects = effects
        self._node = node
        self._volumes: dict[bytes, VolumeRow] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def change(self, place: bytes, change: Change, **options: Any) -> Changed:
        """See `Rows.change`."""
        kinds = self._kinds(change)
        for kind in kinds:
            self._events.tell(f"rows {kind}", self._node)
        try:
            changed = await self._inner.change(place, change, **options)
        except (Unavailable, asyncio.CancelledError):  # nobody knows
            self._effects.unknown(blob.id for _, row in change.puts for blob in row.blobs)
            raise
        except PinfoldError:
            self._effects.refused(change.op_id)
            raise
        self._effects.answered(change.op_id, changed.version)
        for kind in kinds:
            self._events.tell(f"rows {kind} done", self._node)
        return changed

    def _kinds(self, change: Change) -> list[str]:
        kinds = []
        for key, row in change.puts:
            if key[:1] == _VOLUME:
                kinds.append(self._volume(key, decode_volume(row.body)))
            else:
                kinds.append(f"put {_kind(key)}")
        return kinds + [f"delete {_kind(key)}" for key in change.deletes]

    def _volume(self, key: bytes, row: VolumeRow) -> str:
        before = self._volumes.get(key, row)
        self._volumes[key] = row
        if len(row.out) > len(before.out):
            return "volume put out"
        if len(row.out) < len(before.out):
            return "volume taken in"
        if row.token != before.token:
            return "volume held"
        return "volume given back" if row.holder is None else "volume confirmed"


class SeenBlobs:
    """`Blobs` that tell what is said to be stored."""

    def __init__(self, inner: Blobs, auditor: Auditor) -> None:
        self._inner = inner
        self._auditor = auditor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def put(self, payload: Sequence[Buffer]) -> BlobRef:
        """See `Blobs.put`."""
        ref = await self._inner.put(payload)
        self._auditor.stored(ref)
        return ref

    async def discard(self, refs: Sequence[BlobRef]) -> None:
        """See `Blobs.discard`."""
        self._auditor.effects.discarded(ref.id for ref in refs)
        await self._inner.discard(refs)
