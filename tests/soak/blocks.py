"""Block load with a model: per block, the values that a read may show.

One connection, one request at a time. An answered write is what a read shows, flushed or not, also
after everything was killed at once: the machine goes on. A write without an answer may or may not
have happened, until a read tells: what a block showed once it shows until it is written again.
"""

import random
import time
from collections.abc import Callable

from tests.soak.tally import Tally
from tests.wire_clients import NbdClient, NbdError

BLOCK = 4096
VOLUME_BYTES = 64 << 20
BLOCKS = VOLUME_BYTES // BLOCK
RUN_MAX = 16
"""Blocks in one write."""


def block_of(number: int, value: int) -> bytes:
    """What a block holds after write number `value`; zeroes before any."""
    if not value:
        return bytes(BLOCK)
    return b"%08d %015d;" % (number, value) * (BLOCK // 25) + bytes(BLOCK % 25)


class BlockWorker:
    """One client of one volume."""

    def __init__(
        self,
        volume: str,
        connect: Callable[[], NbdClient],
        tally: Tally,
        seed: int,
    ) -> None:
        self._volume = volume
        self._connect = connect
        self._tally = tally
        self._rng = random.Random(seed)
        self._client: NbdClient | None = None
        self._allowed: dict[int, set[int]] = {}
        """Values that a block may show; blocks not in it hold zeroes."""
        self._value = 0

    def step(self) -> None:
        """One request, or an attempt to connect."""
        try:
            if self._client is None:
                self._client = self._connect()
            (request,) = self._rng.choices([self._write, self._read, self._flush], [5, 3, 1])
            request(self._client)
        except NbdError as error:
            self._tally.violated(f"{self._volume}: a request was answered with error {error}")
        except OSError as error:
            self._tally.failed("disk", type(error).__name__)
            self.close()
            time.sleep(0.05)

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def verify(self) -> None:
        """Read every block that was ever written."""
        client = self._connect()
        try:
            for number in sorted(self._allowed):
                self._look(number, client.read(number * BLOCK, BLOCK))
                self._tally.succeeded("disks", "disk block verified")
        except (OSError, NbdError) as error:
            self._tally.violated(f"{self._volume}: cannot be read after the healing: {error!r}")
        finally:
            client.close()

    def _write(self, client: NbdClient) -> None:
        first = self._rng.randrange(BLOCKS)
        count = min(self._rng.choice((1, 1, 1, 2, RUN_MAX)), BLOCKS - first)
        self._value += 1
        value, numbers = self._value, range(first, first + count)
        for number in numbers:
            before = self._allowed.setdefault(number, {0})
            self._allowed[number] = before | {value}
        client.write(first * BLOCK, b"".join(block_of(number, value) for number in numbers))
        for number in numbers:
            self._allowed[number] = {value}
        self._tally.succeeded("disks", "disk write")

    def _flush(self, client: NbdClient) -> None:
        client.flush()
        self._tally.succeeded("disks", "disk flush")

    def _read(self, client: NbdClient) -> None:
        if self._allowed and self._rng.random() < 0.9:
            number = self._rng.choice(list(self._allowed))
        else:
            number = self._rng.randrange(BLOCKS)
        self._look(number, client.read(number * BLOCK, BLOCK))
        self._tally.succeeded("disks", "disk read")

    def _look(self, number: int, found: bytes) -> None:
        allowed = self._allowed.get(number, {0})
        shown = next((value for value in allowed if found == block_of(number, value)), None)
        if shown is None:
            self._tally.violated(
                f"{self._volume}: block {number} may hold {sorted(allowed)}, shows {found[:24]!r}"
            )
        elif number in self._allowed:
            self._allowed[number] = {shown}
        self._tally.verified(len(found))
