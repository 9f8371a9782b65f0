"""What the sequencer asks of the world: the one seam between its decisions and the wire."""

from typing import Protocol

from pinfold.model.ids import DeviceId
from pinfold.volumes.batch import Batch
from pinfold.volumes.io import Io
from pinfold.volumes.lane import Lane
from pinfold.volumes.reads import ReadMessage


class Wire(Protocol):
    """What carries out the sequencer's decisions; must not call back before it returns."""

    def send_write(self, lane: Lane, batch: Batch) -> None:
        """Send as message `lane.number` of `lane.stream`; the outcome goes to `taken`."""
        ...

    def send_read(self, message: ReadMessage) -> None:
        """Send; the outcome goes to `reads.answered` or `reads.failed`."""
        ...

    def send_flush(self, lane: Lane, upto: int) -> None:
        """Send; the outcome goes to `flushed` or the lane is reported lost."""
        ...

    def answer(self, ios: list[Io]) -> None:
        """Give requests their answers."""
        ...

    def ask_status(self, io: Io) -> None:
        """Find out which parts hold data, and answer."""
        ...

    def corrupt(self, device: DeviceId, extent: int, within: int, length: int) -> None:
        """A member has no good bytes there; another is asked meanwhile."""
        ...

    def vouch(self) -> None:
        """Answers wait for the row to trust a member under its new boot."""
        ...

    def trusted(self) -> bool:
        """Whether nobody else can have taken the volume yet: looked at before anything begins."""
        ...

    def settle(self, extent: int) -> None:
        """A request waits for this unsettled extent."""
        ...
