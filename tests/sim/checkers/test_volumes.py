"""Disks that must be refused, and what a disk may do."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.sim.checkers.history import Death, DiskKind, DiskOperation, History
from pinfold.sim.checkers.volumes import check


class Disk:
    """Collects requests to one volume; times are chosen by the test."""

    def __init__(self) -> None:
        self.requests: list[DiskOperation] = []
        self.deaths: list[Death] = []

    def does(
        self,
        began: float,
        ended: float,
        kind: DiskKind,
        *tokens: str,
        gateway: str = "g1",
        block: int = 0,
        fua: bool = False,
    ) -> "Disk":
        self.requests.append(
            DiskOperation(
                id=len(self.requests),
                client="guest",
                gateway=gateway,
                kind=kind,
                volume="v",
                block=block,
                tokens=tokens,
                fua=fua,
                began=began,
                ended=ended,
                outcome="ok",
            )
        )
        return self

    def maybe(self, began: float, *tokens: str, gateway: str = "g1") -> "Disk":
        """A write that was never answered."""
        self.does(began, began + 0.5, "write", *tokens, gateway=gateway)
        self.requests[-1] = replace(self.requests[-1], outcome="unknown", error="gone")
        return self

    def dies(self, at: float, gateway: str = "g1") -> "Disk":
        self.deaths.append(Death(at=at, subject=gateway))
        return self

    def cut(self, at: float, *devices: str) -> "Disk":
        for index, device in enumerate(devices):
            self.deaths.append(Death(at=at + index / 100, subject=device, power=True))
        return self

    def history(self) -> History:
        return History(disk=tuple(self.requests), deaths=tuple(self.deaths))


REFUSED = {
    "stale read": Disk().does(0, 1, "write", "a").does(2, 3, "read", ""),
    "old content from another replica": Disk()
    .does(0, 1, "write", "a")
    .does(2, 9, "write", "b")
    .does(3, 4, "read", "b")
    .does(5, 6, "read", "a"),
    "block that changes between reads": Disk()
    .maybe(0, "a")
    .does(1, 2, "read", "a")
    .does(3, 4, "read", "")
    .does(5, 6, "read", "a"),
    "content of another block": Disk()
    .does(0, 1, "write", "a0", "a1")
    .does(2, 3, "read", "a0", block=1),
    "bytes nobody wrote": Disk().does(0, 1, "read", "?garbled"),
    "lost flushed block": Disk()
    .does(0, 1, "write", "a")
    .does(2, 3, "flush")
    .dies(4)
    .cut(5, "d1", "d2", "d3")
    .does(6, 7, "read", "", gateway="g2"),
    "lost block written through": Disk()
    .does(0, 1, "write", "a", fua=True)
    .dies(4)
    .cut(5, "d1", "d2", "d3")
    .does(6, 7, "read", "", gateway="g2"),
    "write lost with its gateway": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .does(3, 4, "read", "", gateway="g2"),
    "write lost with its gateway and one device": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1")
    .cut(4, "d1")
    .does(5, 6, "read", "", gateway="g2"),
    "write lost under a living gateway": Disk()
    .does(0, 1, "write", "a")
    .cut(2, "d1", "d2", "d3")
    .does(5, 6, "read", ""),
    "older than what was flushed": Disk()
    .does(0, 1, "write", "a")
    .does(2, 3, "flush")
    .does(4, 5, "write", "b")
    .does(6, 7, "flush")
    .does(8, 9, "write", "c")
    .dies(10)
    .cut(11, "d1", "d2")
    .does(12, 13, "read", "a", gateway="g2"),
    "block that changes after a power cut": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1", "d2")
    .does(4, 5, "read", "a", gateway="g2")
    .does(6, 7, "read", "", gateway="g2"),
    "block that changes at a second power cut though it was read": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1", "d2")
    .does(4, 5, "read", "", gateway="g2")
    .dies(6, "g2")
    .cut(7, "d1", "d2")
    .does(8, 9, "read", "a", gateway="g3"),
    "write of a dead gateway that lands after the next one served": Disk()
    .maybe(0, "a")
    .dies(1)
    .does(2, 3, "read", "", gateway="g2")
    .does(4, 5, "read", "a", gateway="g2"),
    "answer of a gateway that was replaced": Disk()
    .does(0, 1, "write", "a", gateway="g2")
    .does(2, 3, "write", "b", gateway="g1")
    .does(4, 5, "read", "a", gateway="g2"),
}

ALLOWED = {
    "fall back to what another holder's loss had left": Disk()
    .does(1, 2, "write", "a")
    .cut(3, "n1", "n2")
    .does(4, 6, "write", "b", gateway="g2")
    .maybe(6.5, "c")
    .dies(6.6, "g1")
    .cut(6.6, "n1", "n2")
    .does(7.2, 7.5, "read", "b", gateway="g2")
    .cut(8, "n1", "n2")
    .dies(8, "g2")
    .does(9, 10, "flush", gateway="g3")
    .does(11, 12, "read", "a", gateway="g3"),
    "never written": Disk().does(0, 1, "read", "", ""),
    "write on its way": Disk()
    .does(0, 9, "write", "a")
    .does(1, 2, "read", "")
    .does(3, 4, "read", "a"),
    "unanswered, late": Disk().maybe(0, "a").does(2, 3, "read", "").does(4, 5, "read", "a"),
    "unanswered, torn": Disk().maybe(0, "a", "b").does(2, 3, "read", "a", ""),
    "unanswered of a dead gateway, settled": Disk()
    .maybe(0, "a")
    .dies(1)
    .does(2, 3, "read", "a", gateway="g2")
    .does(4, 5, "read", "a", gateway="g2"),
    "flushed": Disk()
    .does(0, 1, "write", "a")
    .does(2, 3, "flush")
    .dies(4)
    .cut(5, "d1", "d2", "d3")
    .does(6, 7, "read", "a", gateway="g2"),
    "not flushed, kept": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1", "d2", "d3")
    .does(4, 5, "read", "a", gateway="g2"),
    "not flushed, lost": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1", "d2", "d3")
    .does(4, 5, "read", "", gateway="g2"),
    "written while the flush was on its way, lost": Disk()
    .does(0, 3, "write", "a")
    .does(2, 4, "flush")
    .dies(5)
    .cut(6, "d1", "d2")
    .does(7, 8, "read", "", gateway="g2"),
    "any content since the flush": Disk()
    .does(0, 1, "write", "a")
    .does(2, 3, "flush")
    .does(4, 5, "write", "b")
    .does(6, 7, "write", "c")
    .dies(8)
    .cut(9, "d1", "d2")
    .does(10, 11, "read", "b", gateway="g2"),
    "lost to a gateway that was replaced while it lived": Disk()
    .does(0, 1, "write", "a")
    .cut(2, "d1", "d2")
    .does(3, 4, "read", "", gateway="g2"),
    "written again after a loss": Disk()
    .does(0, 1, "write", "a")
    .dies(2)
    .cut(3, "d1", "d2")
    .does(4, 5, "write", "b", gateway="g2")
    .does(6, 7, "read", "b", gateway="g2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    findings = check(REFUSED[name].history())
    assert findings
    assert not any(finding.undecided for finding in findings)


@pytest.mark.parametrize("name", ALLOWED)
def test_is_allowed(name: str) -> None:
    assert check(ALLOWED[name].history()) == []


def test_the_first_request_without_a_place_is_named_in_the_timeline() -> None:
    (finding,) = check(REFUSED["lost flushed block"].history())
    assert finding.subject == "v block 0"
    assert finding.explanation.splitlines() == [
        "no place for: 6.000000 .. 7.000000 guest through g2 read = zeroes",
        "before it ended the block could hold: a content that nobody saw",
        "   0.000000 .. 1.000000 guest through g1 write a = ok",
        "-> 6.000000 .. 7.000000 guest through g2 read = zeroes",
    ]


def test_a_search_that_ends_at_its_bound_is_no_pass() -> None:
    disk = Disk()
    for index in range(8):
        disk.does(0, 100, "write", str(index))
        disk.does(200 + index * 2, 201 + index * 2, "read", "0")
    (finding,) = check(disk.history(), work_max=400)
    assert finding.undecided
    assert check(disk.history()) == []


class TrueDisk:
    """One block as the promise has it: a cache in front of a platter."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = ""
        self.could_be = [""]

    def write(self, token: str) -> None:
        self.now = token
        self.could_be.append(token)

    def flush(self) -> None:
        self.could_be = [self.now]

    def lose(self) -> None:
        self.now = self.rng.choice(self.could_be)
        self.flush()  # the next holder settles it before it serves anything


def true_history(seed: int, count: int) -> History:
    """What a correct disk would have said: each request happens at an instant within itself."""
    rng = random.Random(seed)
    block, life, cuts = TrueDisk(rng), 1, 0
    requests: list[DiskOperation] = []
    deaths: list[Death] = []
    life_began = 0.0
    for number in range(count):
        at = 10.0 + number
        draft = DiskOperation(
            id=number,
            client="guest",
            gateway=f"g{life}",
            kind="read",
            volume="v",
            began=max(life_began, at - rng.random() * 3),
            ended=at + rng.random() * 3,
            outcome="ok",
            tokens=(block.now,),
        )
        match rng.choice(["read", "read", "write", "write", "flush", "die"]):
            case "write":
                fua = rng.random() < 0.2
                block.write(str(number))
                if fua:
                    block.flush()
                draft = replace(draft, kind="write", tokens=(str(number),), fua=fua)
            case "flush":
                block.flush()
                draft = replace(draft, kind="flush", tokens=())
            case "die":
                life_began = at + 0.4
                deaths.append(Death(at=at, subject=f"g{life}"))
                requests = [lost(request, at) for request in requests]
                life += 1
                if rng.random() < 0.5:
                    cuts += 1
                    deaths += [Death(at=at + 0.1, subject=f"d{i}", power=True) for i in range(3)]
                    block.lose()
                else:
                    block.flush()  # the next holder settles what was dirty
                continue
        requests.append(draft)
    return History(
        disk=tuple(sorted(requests, key=lambda request: request.began)), deaths=tuple(deaths)
    )


def lost(request: DiskOperation, at: float) -> DiskOperation:
    """What was on its way when the gateway died was never answered."""
    if request.ended is None or request.ended < at:
        return request
    return replace(request, ended=None, outcome="unknown")


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.integers(1, 50))
def test_a_correct_disk_is_never_accused(seed: int, count: int) -> None:
    assert check(true_history(seed, count)) == []


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.data())
def test_a_read_of_what_was_flushed_away_is_always_refused(seed: int, data: st.DataObject) -> None:
    """The naive rule: a content is gone for good once a later write was flushed, one by one."""
    history = true_history(seed, 25)
    flushes = [r for r in history.disk if r.kind == "flush" and r.outcome == "ok"]
    writes = [r for r in history.disk if r.kind == "write" and r.outcome == "ok"]
    reads = [r for r in history.disk if r.kind == "read" and r.outcome == "ok"]
    triples = [
        (read, old)
        for flush in flushes
        for new in writes
        if new.ended is not None and new.ended < flush.began
        if not any(new.ended < death.at < flush.began for death in history.deaths)
        for old in writes
        if old.ended is not None and old.ended < new.began
        for read in reads
        if flush.ended is not None and read.began > flush.ended
    ]
    if not triples:
        return
    read, old = data.draw(st.sampled_from(triples))
    wrong = tuple(replace(r, tokens=old.tokens) if r is read else r for r in history.disk)
    assert check(replace(history, disk=wrong))
