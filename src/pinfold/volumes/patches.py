"""Writes of parts of blocks, made whole: devices take whole blocks only.

The rest of a block is read first, from whichever member has it, so that a copy that is rotten on
one device is written anew there, and all devices get the same bytes. Until it is
over no other write to any block of the request is begun: those that come wait in a queue for one of
these blocks, so that a crowd of them costs no more than each does alone.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pinfold.model.limits import BLOCK_BYTES
from pinfold.volumes.fences import Fences
from pinfold.volumes.io import READ, WRITE, Io, Owner
from pinfold.volumes.spans import blocks, split

_BLOCK_MASK: Final = BLOCK_BYTES - 1


class _Patch:
    """One request that begins or ends within a block.

    It owns what is made of it: first reads of these blocks, then writes of whole ones.
    """

    def __init__(self, io: Io) -> None:
        self.io = io
        self.begun = self.withdrawn = False
        first, last = io.offset & ~_BLOCK_MASK, (io.offset + io.length) & ~_BLOCK_MASK
        self.edges = [first] if first < io.offset or first == last else []
        """Where the blocks begin that are covered in part."""
        if first != last < io.offset + io.length:
            self.edges.append(last)
        self.places = [
            (extent, blocks(within, length))
            for extent, within, length in split(io.offset, io.length)
        ]
        """Every block of it, by extent: none may change until it is over."""
        self.found: list[Io] = []
        self.steps: dict[Io, None] = {}
        """What is being done for it and has not ended."""

    def finished(self, ios: list[Io]) -> None:
        """See `Owner`; the sequencer gives these answers to `Patches.sift` itself."""
        raise AssertionError(f"{len(ios)} steps of a patch left the sequencer")

    def reads(self) -> list[Io]:
        """Of the blocks that are covered in part."""
        self.found = [Io(READ, at, BLOCK_BYTES, self) for at in self.edges]
        self.steps = dict.fromkeys(self.found)
        return self.found

    def writes(self) -> list[Io]:
        """Of whole blocks, now that they are read. One that trimming would not change, and of
        which no flush is asked, is left alone.
        """
        io = self.io
        self.begun = True
        old = {read.offset: b"".join(read.parts) for read in self.found}
        start, end = io.offset & ~_BLOCK_MASK, -(-(io.offset + io.length) // BLOCK_BYTES)
        end *= BLOCK_BYTES
        if io.kind == WRITE:
            head = old.get(start, b"")[: io.offset - start]
            tail = old.get(end - BLOCK_BYTES, b"")[io.offset + io.length - (end - BLOCK_BYTES) :]
            content = b"".join((head, io.payload, tail))
            writes = [Io(WRITE, start, end - start, self, payload=content, fua=io.fua)]
        else:
            writes = []
            for at, block in old.items():
                low = max(io.offset - at, 0)
                high = min(io.offset + io.length - at, BLOCK_BYTES)
                new = block[:low] + bytes(high - low) + block[high:]
                if new != block or io.fua:  # what is there already need not be flushed
                    writes.append(Io(WRITE, at, BLOCK_BYTES, self, payload=new, fua=io.fua))
            start += BLOCK_BYTES * (start in old)
            end -= BLOCK_BYTES * (end - BLOCK_BYTES in old)
            if start < end:
                writes.append(Io(io.kind, start, end - start, self, fua=io.fua))
        self.steps = dict.fromkeys(writes)
        return writes


class Patches:
    """Every request that is being made whole, and those that wait for one; false without any."""

    def __init__(self, read: Callable[[Io], None]) -> None:
        self._read = read
        self._patches: dict[_Patch, None] = {}
        self._blocks = Fences()
        self._ready: list[Io] = []
        self._moved = False
        self._followers: dict[int, dict[int, deque[Io]]] = {}
        """By extent and block: requests that wait for a patch of it, in order."""
        self.freed: dict[tuple[int, int], None] = {}
        """Blocks whose patch has ended and which have followers."""

    def begin(self, io: Io) -> None:
        """Take a request that covers blocks in part, none of which is being patched."""
        patch = _Patch(io)
        for extent, mask in patch.places:
            self._blocks.put(extent, mask)
        self._patches[patch] = None
        for read in patch.reads():
            self._read(read)

    def keep(self, io: Io, pieces: Sequence[tuple[int, int, int]]) -> bool:
        """Take a write that has to wait for a patch it is not part of; whether it has to."""
        if isinstance(io.owner, _Patch):
            return False
        for extent, within, length in pieces:
            if held := self._blocks.holds(extent, blocks(within, length)):
                block = (held & -held).bit_length() - 1
                self._followers.setdefault(extent, {}).setdefault(block, deque()).append(io)
                return True
        return False

    def follower(self) -> Io | None:
        """The next request whose wait is over, one by one: it may hold its block again."""
        while self.freed:
            extent, block = place = next(iter(self.freed))
            queue = self._followers.get(extent, {}).get(block)
            if queue and not self._blocks.holds(extent, 1 << block):
                return self._pop(extent, block, queue)
            del self.freed[place]
        return None

    def _pop(self, extent: int, block: int, queue: deque[Io]) -> Io:
        io = queue.popleft()
        if not queue:
            del self._followers[extent][block]
            if not self._followers[extent]:
                del self._followers[extent]
        return io

    def sift(self, answers: list[Io]) -> list[Io]:
        """Of requests that have ended, those that are not steps, and those that steps complete."""
        others = []
        for io in answers:
            if isinstance(io.owner, _Patch):
                others += self._step(io.owner, io)
            else:
                others.append(io)
        return others

    def take_ready(self) -> list[Io] | None:
        """Writes of whole blocks, to be begun before anything that waits.

        None when no patch has got any further: what waits for one need not be tried again.
        """
        moved, self._moved = self._moved, False
        ready, self._ready = self._ready, []
        return ready if moved else None

    def withdraw(self, owner: Owner) -> list[Io]:
        """The owner has gone: its requests, of which nothing more is begun."""
        gone = [patch for patch in self._patches if patch.io.owner is owner and not patch.begun]
        for patch in gone:
            patch.withdrawn = True
        self._ready = [io for io in self._ready if io.owner not in gone]
        return [patch.io for patch in gone] + self._without(owner)

    def _without(self, owner: Owner) -> list[Io]:
        gone: list[Io] = []
        for extent, queues in list(self._followers.items()):
            for block, queue in list(queues.items()):
                gone += [io for io in queue if io.owner is owner]
                left = deque(io for io in queue if io.owner is not owner)
                if left:
                    queues[block] = left
                else:
                    del queues[block]
            if not queues:
                del self._followers[extent]
        return gone

    def drain(self) -> list[Io]:
        """Every request that waits for a patch, when there is no hope."""
        queues = [queue for by_block in self._followers.values() for queue in by_block.values()]
        self._followers = {}
        return [io for queue in queues for io in queue]

    def __bool__(self) -> bool:
        return bool(self._patches or self._followers)

    def _step(self, patch: _Patch, io: Io) -> list[Io]:
        """A step has ended; the request, when that was the last one."""
        patch.io.error = patch.io.error or io.error
        del patch.steps[io]
        if patch.steps:
            return []
        self._moved = True
        if io.kind == READ and patch.io.error is None and not patch.withdrawn:
            self._ready += patch.writes()
            if patch.steps:
                return []
        del self._patches[patch]
        for extent, mask in patch.places:
            self._blocks.lower(extent, mask)
            for block in self._followers.get(extent, ()):
                if mask >> block & 1:
                    self.freed[extent, block] = None
        return [] if patch.withdrawn else [patch.io]
