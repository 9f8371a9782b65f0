"""A sequencer without any wire, loop or time: what it says is written down."""

from pinfold.model.ids import Boot, DeviceId
from pinfold.model.limits import BLOCK_BYTES
from pinfold.model.settings import VolumeSettings
from pinfold.volumes.batch import Batch
from pinfold.volumes.io import WRITE, Io
from pinfold.volumes.lane import Lane
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
        self.vouches = 0

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

    def vouch(self) -> None:
        self.vouches += 1

    def trusted(self) -> bool:
        return True

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
        self.vouch()
        self.sequencer.serving = True

    def vouch(self) -> None:
        """The row trusts every member as it is."""
        self.sequencer.vouched({lane.device: lane.boot for lane in self.lanes.values()})

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

    def answer_reads(self) -> None:
        """Members answer all that they were asked, with zeroes."""
        asked, self.paper.reads = self.paper.reads, []
        for message in asked:
            self.sequencer.reads.answered(message, memoryview(bytes(message.length)))
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
