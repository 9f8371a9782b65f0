"""Restores missing copies: every blob that a row names is on every device the ring puts it on.

The primary of a group compares its rows with the devices (see `rounds` for when) and orders the
copies; gateways give hints of copies that a put could not make; and each node refills what its own
devices have quarantined. Whatever is lost of this (a hint, an order, the primary) the next round
makes good: nothing here need be remembered.

A copy may be made of a blob whose last name has just gone. The row is read again right before, and
the copying takes less time than freed blobs are kept, so the copy is given back with the others;
if not, it is an orphan, and the collector's. No copy is ever removed here.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Final

from pinfold.care.copies import FETCH, lacking
from pinfold.care.repairs import Named, Repair, missing_copies, placed
from pinfold.care.rounds import Rounds, Step
from pinfold.care.worker import Found
from pinfold.cluster.api import Row
from pinfold.cluster.blobs.client import HINT
from pinfold.cluster.bodies import Form, Id, Number, Short, taken
from pinfold.cluster.groups.binding import BoundGroup
from pinfold.cluster.groups.entries import decode_row
from pinfold.cluster.groups.service import GroupService
from pinfold.cluster.placement import Placement, known_node
from pinfold.device.api import Device
from pinfold.env.api import Clock
from pinfold.model.errors import PinfoldError
from pinfold.model.ids import BlobId, DeviceId, GroupId, NodeName
from pinfold.model.settings import CareSettings
from pinfold.rpc.api import Dispatcher, Peers, Reply, Request

MISSED: Final = "care.missed"
"""Told to all storage nodes: the name of one whose devices may lack copies."""

PAGE_ROWS: Final = 500
"""Rows in a page: a few milliseconds to read, and blobs for one question to each device."""

PAGE_BLOBS: Final = 2000
"""A page with more ends early; one row's blobs may exceed it."""

HINTS_MAX: Final = 4096
"""Hints kept; what is beyond is left to the next round."""

POLL_S: Final = 1.0
"""How often it is looked whether this node leads other groups than before."""

ASK_S: Final = 5.0
"""Longest answer to a question which blobs are lacking."""

_HINT: Final = Form(tuple[Id, Number, list[Short], list[Short]])
_MISSED: Final = Form(str)
_ROWS_FROM: Final = b"\x01"
"""Keys below are the groups' own."""

_SOURCES: Final = 5
"""Devices that a hint or a quarantined blob is looked for on: all copies and some handoffs."""


class Replicator:
    """The worker; see `worker.Worker`."""

    name = "replicator"

    def __init__(
        self,
        clock: Clock,
        peers: Peers,
        dispatcher: Dispatcher,
        groups: GroupService,
        devices: Mapping[DeviceId, Device],
        placement: Callable[[], Placement],
        storage: Callable[[], Collection[NodeName]],
        settings: CareSettings,
        wake: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._peers = peers
        self._groups = groups
        self._devices = devices
        self._placement = placement
        self._storage = storage
        self._settings = settings
        self._wake = wake
        self._rounds = Rounds(
            settle_s=settings.settle_s, round_s=settings.round_s, again_s=settings.again_s
        )
        self._hints: deque[Repair] = deque(maxlen=HINTS_MAX)
        self._quarantine_at = 0.0
        self._quarantine_after: dict[DeviceId, bytes] = {}
        self._quarantine_turn = 0
        self._returned: set[NodeName] = set()
        dispatcher.bind(HINT, self._on_hint)
        dispatcher.bind(MISSED, self._on_missed)
        peers.watch(self._on_session)

    async def find(self, room: int) -> Found[Repair]:
        """See `Worker`: hints first, then what is quarantined here, then a page of a round."""
        now = self._clock.monotonic()
        if self._hints:
            count = min(room, len(self._hints))
            return Found(jobs=[self._hints.popleft() for _ in range(count)])
        if now >= self._quarantine_at:
            self._quarantine_at = now + self._settings.quarantine_s
            return Found(jobs=self._quarantined(room))
        led = {bound.group: bound for bound in self._groups.led()}
        self._rounds.lead(led, now)
        self._note_returned(now)
        step = self._rounds.next(now)
        if step is None:
            return Found(wait_s=min(self._rounds.wait_s(now), self._quarantine_at - now, POLL_S))
        return Found(jobs=await self._compare(led[step.group], step, room))

    async def run(self, job: Repair) -> int:
        """See `Worker`: have the target fetch the blob, if its row still names it."""
        if job.named_by is not None and not await self._still_named(job.blob, *job.named_by):
            return 0
        placement = self._placement()
        sources = [
            (source, node)
            for source in job.sources
            if (node := known_node(placement, source)) is not None
        ]
        answer = await self._peers.call(
            placement.node_of(job.target),
            FETCH,
            (job.target, job.blob, sources),
            deadline=self._clock.monotonic() + self._settings.fetch_timeout_s,
        )
        return int(answer.body)

    def gave_up(self, job: Repair) -> None:
        """See `Worker`."""
        node = known_node(self._placement(), job.target)
        if node is None or job.quarantined:
            return
        if job.named_by is not None:
            self._rounds.missed(node, self._clock.monotonic(), job.named_by[0])
            return
        for other in sorted(self._storage()):  # a hint: who leads the blob's group is not known
            self._peers.tell(other, MISSED, node)

    # What happens.

    def _on_session(self, node: NodeName, up: bool, _boot: int) -> None:
        if up:
            self._returned.add(node)
            self._wake()

    def _note_returned(self, now: float) -> None:
        """Devices of nodes that were away may have missed something until now."""
        back = self._returned.intersection(self._storage())
        self._returned.clear()
        if back:
            self._rounds.returned(back, now)

    def _on_hint(self, request: Request) -> Reply:
        """A gateway could not store a copy: [blob, length, devices that have it, that lack it].

        A node that is away from here as well is compared when it is back.
        """
        blob, length, holders, missing = taken(HINT, request.body, _HINT)
        placement = self._placement()
        for target in missing:
            node = known_node(placement, DeviceId(target))
            if node is None or not self._peers.connected(node):
                continue
            repair = Repair(
                blob=BlobId(blob),
                length=length,
                target=DeviceId(target),
                sources=tuple(map(DeviceId, holders)),
                copies=len(holders),
                named_by=None,
            )
            self._hints.append(repair)
        self._wake()
        return Reply()

    def _on_missed(self, request: Request) -> Reply:
        """A copy that a hint asked for was not made on a device of this node."""
        self._rounds.missed(NodeName(taken(MISSED, request.body, _MISSED)), self._clock.monotonic())
        self._wake()
        return Reply()

    def _quarantined(self, room: int) -> list[Repair]:
        """Blobs to refill on this node's devices. Nobody need name them: a blob that is given back
        leaves the quarantine too, and one that no peer has cannot be refilled. Devices take turns
        to come first: one with more than finds room does not keep the others waiting.
        """
        placement = self._placement()
        repairs: list[Repair] = []
        devices = list(self._devices.items())
        self._quarantine_turn += 1
        first = self._quarantine_turn % max(1, len(devices))
        for device, opened in devices[first:] + devices[:first]:
            wanted = room - len(repairs)
            if not wanted:
                break
            after = self._quarantine_after.get(device, b"")
            found = opened.blobs.scan_quarantined(after, wanted)
            self._quarantine_after[device] = found[-1][0] if len(found) == wanted else b""
            for blob, length in found:
                order = dict.fromkeys((*placement.primaries(blob), *placement.handoffs(blob)))
                order.pop(device, None)
                sources = tuple(islice(order, _SOURCES))
                repairs.append(
                    Repair(
                        blob=blob,
                        length=length,
                        target=device,
                        sources=sources,
                        copies=len(placement.primaries(blob)) - 1,
                        named_by=None,
                        quarantined=True,
                    )
                )
        return repairs

    # A page of a round.

    async def _compare(self, bound: BoundGroup, step: Step, room: int) -> list[Repair]:
        """Ask the devices about one page of rows; the copies they lack.

        The page counts as looked at when all of it found room; else it is looked at again, and
        what was made meanwhile is not found again. One that never fits is left to a later round.
        """
        named, next_end = await self._page(bound, step.end)
        placement = self._placement()
        with_primaries = [(one, placement.primaries(one.blob)) for one in named]
        found: dict[DeviceId, frozenset[bytes]] = {}
        unknown: dict[DeviceId, NodeName] = {}
        for device, blobs in placed(with_primaries).items():
            node = known_node(placement, device)
            if node is None or (step.only is not None and node not in step.only):
                continue
            try:
                found[device] = frozenset(await self._lacking(node, device, blobs))
            except PinfoldError:
                unknown[device] = node
        repairs = missing_copies(with_primaries, found, unknown)
        failed = set(unknown.values())
        if len(repairs) > room == self._settings.worker.queue_max:
            beyond = (known_node(placement, repair.target) for repair in repairs[room:])
            failed.update(node for node in beyond if node is not None)
        elif len(repairs) > room:
            return repairs[:room]
        self._rounds.looked(bound.group, next_end, failed, self._clock.monotonic())
        return repairs[:room]

    async def _lacking(
        self, node: NodeName, device: DeviceId, blobs: Sequence[bytes]
    ) -> list[bytes]:
        deadline = self._clock.monotonic() + ASK_S
        return await lacking(self._peers, node, device, blobs, deadline)

    async def _page(self, bound: BoundGroup, end: bytes | None) -> tuple[list[Named], bytes | None]:
        """(what the last rows before `end` name, where the page before begins), linearizable.

        Read backwards: rows of parts stand behind their object's, so a blob that moves from one to
        the other meanwhile is met in either.
        """
        named: list[Named] = []
        next_end: bytes | None = None

        def look() -> Reply:
            nonlocal next_end
            for count, (key, value) in enumerate(bound.scan(_ROWS_FROM, end, True)):
                if count == PAGE_ROWS or len(named) >= PAGE_BLOBS:
                    break
                named.extend(_named(bound.group, key, decode_row(value)))
                next_end = key
            else:
                next_end = None
            return Reply()

        await self._read(bound, look)
        return named, next_end

    async def _still_named(self, blob: BlobId, group: GroupId, key: bytes) -> bool:
        """Whether the row names the blob now; False also when another node leads the group."""
        bound = next((one for one in self._groups.led() if one.group == group), None)
        if bound is None:
            return False
        found: list[bool] = []

        def look() -> Reply:
            value = bound.get(key)
            blobs = () if value is None else decode_row(value).blobs
            found.append(any(ref.id == blob for ref in blobs))
            return Reply()

        await self._read(bound, look)
        return found[0]

    async def _read(self, bound: BoundGroup, look: Callable[[], Reply]) -> None:
        if bound.serving is None:
            raise bound.not_primary()
        await bound.serving.read(look)


def _named(group: GroupId, key: bytes, row: Row) -> list[Named]:
    return [
        Named(
            blob=BlobId(ref.id),
            length=ref.length,
            devices=tuple(map(DeviceId, ref.devices)),
            group=group,
            row=key,
        )
        for ref in row.blobs
    ]
