"""A volume behaves as a disk: which contents each block may have, and when.

Judged block by block, with the search of the other checker:

- a write that was answered is what reads find until the block is written again;
- one that was not answered may take effect at any time, once or never, until the block is served
  through another gateway although the one it was sent to is dead: tokens have fenced it then;
- what was flushed (FLUSH that began after the write was answered, or FUA) survives everything;
- what was answered but not flushed survives the death of any process, and power cuts too as long
  as its holder lives or fewer than `min_in_sync` devices had one. Past that a block may fall back
  to any content since its last flushed one;
- whichever it fell back to, once the block has been served it stays so: it is settled and flushed.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import Death, DiskOperation, History
from pinfold.sim.checkers.register import UNSEEN
from pinfold.sim.checkers.search import WORK_MAX, Exhausted, Step, Stuck, search

CHECKER: Final = "volume"

ZEROES: Final = ""
"""The token of a block that was never written, or zeroed, or trimmed."""

LINES: Final = 24
"""Most lines of one block's timeline."""


class BlockState(NamedTuple):
    """What a block holds and what it may fall back to."""

    now: str = ZEROES
    older: frozenset[str] = frozenset((ZEROES,))
    """Its last flushed content and what was written over it, up to the last loss."""
    newer: frozenset[str] = frozenset()
    """Written since then and not flushed."""
    fallen_to: tuple[str, float] | None = None
    """What a loss left, and when; None once that is settled."""
    fenced: frozenset[str] = frozenset()
    """Dead gateways whose writes cannot take effect any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAction:
    """What a request, or a loss, does to one block."""

    does: Literal["read", "write", "flush", "lose"]
    token: str = ZEROES
    fua: bool = False
    at: float = 0.0
    """When, of a loss."""
    lost: frozenset[str] = frozenset()
    """What a loss may take away: others are kept by a holder that lives, or are flushed."""
    gateway: str = ""
    """Of a write that was not answered: it cannot happen once this is fenced."""
    fences: frozenset[str] = frozenset()
    """Of what was served: gateways that were dead when it was asked for."""


@dataclass(frozen=True, slots=True)
class BlockModel:
    """See `search.Model`."""

    losses: bool
    """Whether any loss is among the steps: it can bring an overwritten content back."""

    def after(self, state: BlockState, action: BlockAction) -> tuple[BlockState, ...]:
        """See `Model`."""
        if action.fences - state.fenced:
            state = state._replace(fenced=state.fenced | action.fences)
        now = frozenset((state.now,))
        token = frozenset((action.token,))
        match action.does:
            case "read":
                return (state,) if state.now == action.token else ()
            case "flush":
                return (state._replace(older=now, newer=frozenset(), fallen_to=None),)
            case "write" if action.gateway in state.fenced:
                return ()
            case "write" if action.fua:
                state = state._replace(older=token, newer=frozenset(), fallen_to=None)
                return (state._replace(now=action.token),)
            case "write":
                return (state._replace(now=action.token, newer=state.newer | token),)
            case "lose" if state.now not in action.lost:
                return (state,)
            case "lose":
                could_be = state.older | state.newer
                return tuple(
                    BlockState(left, could_be, frozenset(), (left, action.at), state.fenced)
                    for left in sorted(could_be)
                )

    def looks(self, action: BlockAction) -> bool:
        """See `Model`.

        A read fences gateways, but their writes can only come before it or never.
        """
        return action.does == "read"

    def overwrites(self, action: BlockAction) -> bool:
        """See `Model`."""
        return action.does == "write" and not self.losses

    def ended(self, state: BlockState, step: Step[BlockAction]) -> BlockState:
        """A block that was served after a loss is settled as it was found."""
        if state.fallen_to is None or step.action.does not in ("read", "write"):
            return state
        token, at = state.fallen_to
        if step.began < at:
            return state
        return state._replace(older=frozenset((token,)), fallen_to=None)


def check(history: History, *, min_in_sync: int = 2, work_max: int = WORK_MAX) -> list[Finding]:
    """One finding for each block that read as it cannot have been, or was left open."""
    findings = []
    by_volume: dict[str, list[DiskOperation]] = defaultdict(list)
    for request in history.disk:
        if request.outcome != "refused":
            by_volume[request.volume].append(request)
    for volume, requests in sorted(by_volume.items()):
        flushes = [r for r in requests if r.kind == "flush" and r.outcome == "ok"]
        for block, touching in sorted(_by_block(requests).items()):
            story = _Block(block, touching, flushes, history.deaths, min_in_sync)
            finding = _judge(f"{volume} block {block}", story, work_max)
            if finding is not None:
                findings.append(finding)
    return findings


def _by_block(requests: Sequence[DiskOperation]) -> Mapping[int, list[DiskOperation]]:
    by_block: dict[int, list[DiskOperation]] = defaultdict(list)
    for request in requests:
        for index in range(len(request.tokens)):
            by_block[request.block + index].append(request)
    return by_block


def _judge(subject: str, story: "_Block", work_max: int) -> Finding | None:
    steps, sources = story.steps()
    model = BlockModel(any(isinstance(source, _Loss) for source in sources))
    result = search(model, BlockState(), steps, work_max=work_max)
    if isinstance(result, Stuck):
        culprit = sources[steps.index(result.step)]
        assert isinstance(culprit, DiskOperation), "a loss is always possible"
        held = sorted({_content(state.now) for state in result.states})
        text = "\n".join(
            (
                f"no place for: {story.describe(culprit)}",
                f"before it ended the block could hold: {', '.join(held)}",
                *story.timeline(sources, culprit),
            )
        )
        return Finding(checker=CHECKER, subject=subject, explanation=text)
    if isinstance(result, Exhausted):
        text = f"gave up at {result.at:.6f} after {result.work} steps of search"
        return Finding(checker=CHECKER, subject=subject, explanation=text, undecided=True)
    return None


@dataclass(frozen=True, slots=True)
class _Loss:
    """From now on what was not flushed may be gone."""

    began: float


@dataclass(slots=True)
class _Block:
    """One block's requests, and what happened around them."""

    block: int
    touching: Sequence[DiskOperation]
    flushes: Sequence[DiskOperation]
    deaths: Sequence[Death]
    min_in_sync: int

    def steps(self) -> tuple[list[Step[BlockAction]], list[DiskOperation | _Loss]]:
        """What the search orders, and where each step comes from."""
        steps: list[Step[BlockAction]] = []
        sources: list[DiskOperation | _Loss] = []
        seen = {self.token(r) for r in self.touching if r.kind == "read" and r.outcome == "ok"}
        for request in self.touching:
            if request.outcome == "ok":
                steps.append(Step(self._action(request, seen), request.began, request.ended))
            elif request.kind == "write":
                action = replace(self._action(request, seen), fua=False, gateway=request.gateway)
                steps.append(Step(action, request.began, None, label=action))
            else:
                continue
            sources.append(request)
        losses = self._losses()
        for flush in self.flushes if losses else ():  # without losses they say nothing
            steps.append(Step(BlockAction(does="flush"), flush.began, flush.ended))
            sources.append(flush)
        for at, lost in losses.items():
            tokens = frozenset(token if token in seen else UNSEEN for token in lost)
            steps.append(Step(BlockAction(does="lose", at=at, lost=tokens), at, at))
            sources.append(_Loss(at))
        return steps, sources

    def token(self, request: DiskOperation) -> str:
        """What a request wrote to or read from this block."""
        return request.tokens[self.block - request.block]

    def _action(self, request: DiskOperation, seen: set[str]) -> BlockAction:
        token = self.token(request)
        fences = frozenset(
            other.gateway
            for other in self.touching
            if other.outcome == "unknown" and other.gateway != request.gateway
            for death in self.deaths
            if death.subject == other.gateway and other.began < death.at < request.began
        )
        if request.kind == "read":
            return BlockAction(does="read", token=token, fences=fences)
        token = token if token in seen else UNSEEN
        return BlockAction(does="write", token=token, fua=request.fua, fences=fences)

    def _losses(self) -> dict[float, set[str]]:
        """When writes of this block may be lost for want of a flush, and which."""
        losses: dict[float, set[str]] = defaultdict(set)
        for write in self.touching:
            if write.kind != "write":
                continue
            since = write.ended if write.outcome == "ok" and write.ended else write.began
            gone = self._gone_at(write, since)
            if gone is None:
                continue
            durable = self._durable_at(write)
            cut: set[str] = set()
            for death in self.deaths:
                if not death.power or death.at < since:
                    continue
                cut.add(death.subject)
                at = max(gone, death.at)
                if durable is not None and at > durable:
                    break
                if len(cut) >= self.min_in_sync:
                    losses[at].add(self.token(write))
        return dict(sorted(losses.items()))

    def _gone_at(self, write: DiskOperation, since: float) -> float | None:
        """When the gateway that keeps an answered write for sending it again was no more it."""
        gone = [d.at for d in self.deaths if d.subject == write.gateway and d.at > since]
        gone += [
            max(other.began, since)
            for other in (*self.touching, *self.flushes)
            if other.gateway != write.gateway
            and other.outcome == "ok"
            and other.ended is not None
            and other.ended > since
        ]
        return min(gone, default=None)

    def _durable_at(self, write: DiskOperation) -> float | None:
        if write.outcome != "ok" or write.ended is None:
            return None
        if write.fua:
            return write.ended
        return min(
            (f.ended for f in self.flushes if f.ended is not None and f.began > write.ended),
            default=None,
        )

    def describe(self, source: DiskOperation | _Loss) -> str:
        """One request, or a loss, on one line."""
        if isinstance(source, _Loss):
            return f"{source.began:.6f} power cuts: what was not flushed may be gone"
        end = f"{source.ended:.6f}" if source.ended is not None else "never"
        parts = [f"{source.began:.6f} .. {end}", source.client, "through", source.gateway]
        parts.append(source.kind)
        if source.kind == "write":
            parts.append(_content(self.token(source)))
        if source.fua:
            parts.append("fua")
        result = source.outcome + (f" ({source.error})" if source.error else "")
        if source.kind == "read" and source.outcome == "ok":
            result = _content(self.token(source))
        return " ".join((*parts, "=", result))

    def timeline(
        self, sources: Sequence[DiskOperation | _Loss], culprit: DiskOperation
    ) -> list[str]:
        """The block's story up to the culprit, which has an arrow."""
        assert culprit.ended is not None
        ordered = sorted(sources, key=lambda source: source.began)
        ordered = [source for source in ordered if source.began <= culprit.ended]
        left_out = max(0, len(ordered) - LINES)
        lines = [f"  ({left_out} earlier ones are left out)"] if left_out else []
        for source in ordered[left_out:]:
            lines.append(f"{'->' if source is culprit else '  '} {self.describe(source)}")
        return lines


def _content(token: str) -> str:
    if token == ZEROES:
        return "zeroes"
    return "a content that nobody saw" if token == UNSEEN else token
