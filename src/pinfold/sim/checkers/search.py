"""Is there an order? The search behind the checkers of single keys and single blocks.

Each step must take effect at one instant between its beginning and its end. The search walks the
beginnings and ends in order and keeps every *situation* that could be: a state, and which steps on
their way have taken effect already (Wing and Gong's search, with steps placed no earlier than
somebody's end needs them, as Lowe does, and equal situations merged). Between two moments at which
nothing is on its way only states are left, so long histories cost little more than short ones.

Two reductions keep it small, and neither loses an order:
- a step that only looks, and so takes nothing from others, is placed as soon as it can be;
- a step that need not have happened is placed only right before something that needs it.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")

WORK_MAX: Final = 20_000_000
"""Transitions tried for one key before giving up: some tens of seconds, which hardly any takes."""

DOMINANCE_FROM: Final = 4
"""Situations from which on looking for dispensable ones pays."""


@dataclass(frozen=True, slots=True, eq=False)
class Step(Generic[A]):
    """Something that takes effect at one instant after `began`."""

    action: A
    began: float
    ended: float | None
    """None: it need not have happened; it may at any time after it began, once."""
    until: float | None = None
    """For a step that need not have happened: not after this."""
    label: Hashable = None
    """Steps that need not have happened with equal labels have equal effects (None: like no
    other)."""


class Model(Protocol[S, A]):
    """What steps do. All methods are pure."""

    def after(self, state: S, action: A) -> tuple[S, ...]:
        """The states that may follow; () when it cannot happen in `state`."""
        ...

    def looks(self, action: A) -> bool:
        """Whether it leaves to all others what they could do: it is placed as soon as it can be.

        In a state in which it can happen exactly one state follows.
        """
        ...

    def overwrites(self, action: A) -> bool:
        """Whether its effect is gone for good once another step has overwritten it.

        Such a step, where it need not have happened, is tried only for what needs it at once.
        """
        ...

    def ended(self, state: S, step: Step[A]) -> S:
        """What the end of a step says about the state, beyond that it happened."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """The steps can be ordered."""


@dataclass(frozen=True, slots=True)
class Stuck(Generic[S, A]):
    """They cannot: `step` is the first (by end) with no place, `states` those it was tried in."""

    step: Step[A]
    states: tuple[S, ...]


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The bound was reached first."""

    work: int
    at: float


class _OutOfWorkError(Exception):
    pass


_BEGINS, _EXPIRES, _ENDS = range(3)
_Situation = tuple[S, frozenset[int]]


def search(
    model: Model[S, A], initial: S, steps: Sequence[Step[A]], *, work_max: int = WORK_MAX
) -> Order | Stuck[S, A] | Exhausted:
    """Whether some order of all steps that surely happened, and some of the others, is possible."""
    walk = _Walk(model, steps, work_max)
    situations: set[_Situation[S]] = {(initial, frozenset())}
    for at, what, index in _moments(steps):
        try:
            if what == _BEGINS:
                situations = walk.begin(situations, index)
                continue
            if what == _EXPIRES:
                situations = walk.expire(situations, index)
                continue
            following = walk.end(situations, index)
        except _OutOfWorkError:
            return Exhausted(work_max, at)
        if not following:
            return Stuck(steps[index], tuple(dict.fromkeys(state for state, _ in situations)))
        situations = following
    return Order()


def _moments(steps: Sequence[Step[A]]) -> list[tuple[float, int, int]]:
    moments = [(step.began, _BEGINS, index) for index, step in enumerate(steps)]
    for index, step in enumerate(steps):
        if step.ended is not None:
            moments.append((step.ended, _ENDS, index))
        elif step.until is not None:
            moments.append((max(step.until, step.began), _EXPIRES, index))
    moments.sort()
    return moments


class _Walk(Generic[S, A]):
    """The walk's surroundings: what is on its way, and how much work is left."""

    def __init__(self, model: Model[S, A], steps: Sequence[Step[A]], work_max: int) -> None:
        self._model = model
        self._steps = steps
        self._work = work_max
        self._looking: dict[int, A] = {}
        """Sure steps on their way that only look."""
        self._sure: dict[int, A] = {}
        """Sure steps on their way that may change the state."""
        self._loose: dict[int, A] = {}
        """Steps that need not have happened."""
        self._alike: dict[Hashable, list[int]] = {}
        """The same, by what they do: of equal ones only the next is ever tried."""

    def begin(self, situations: set[_Situation[S]], index: int) -> set[_Situation[S]]:
        step = self._steps[index]
        looks = self._model.looks(step.action)
        if step.ended is None:
            if not looks:
                self._loose[index] = step.action
                self._alike.setdefault(_kind(step, index), []).append(index)
            return situations
        if not looks:
            self._sure[index] = step.action
            return situations
        self._looking[index] = step.action
        return {self._with_looks(*situation) for situation in situations}

    def end(self, situations: set[_Situation[S]], index: int) -> set[_Situation[S]]:
        step = self._steps[index]
        following = {
            (self._model.ended(state, step), placed - {index})
            for situation in situations
            for state, placed in (
                (situation,) if index in situation[1] else self._ways_to(situation, index)
            )
        }
        self._looking.pop(index, None)
        self._sure.pop(index, None)
        return self._undominated(following)

    def expire(self, situations: set[_Situation[S]], index: int) -> set[_Situation[S]]:
        if index not in self._loose:
            return situations
        following = {(state, placed - {index}) for state, placed in situations}
        for situation in situations:
            if index not in situation[1]:
                following.update(
                    (state, placed - {index}) for state, placed in self._ways_to(situation, index)
                )
        del self._loose[index]
        self._alike[_kind(self._steps[index], index)].remove(index)
        return self._undominated(following)

    def _ways_to(self, situation: _Situation[S], goal: int) -> Iterator[_Situation[S]]:
        """Every situation just after `goal` took effect, with what had to come before it."""
        # The third part is the state before a step that need not have happened, when nothing has
        # needed that step yet: what comes next must be impossible there.
        stack: list[tuple[S, frozenset[int], S | None]] = [(*situation, None)]
        seen = {stack[0]}
        while stack:
            state, placed, dispensable_in = stack.pop()
            for index, action in self._candidates(placed):
                if dispensable_in is not None and self._after(dispensable_in, action):
                    continue
                for following in self._after(state, action):
                    following, now = self._with_looks(following, placed | {index})
                    if goal in now:
                        yield following, now
                        continue
                    loose = (
                        index in self._loose
                        and self._model.overwrites(action)
                        and len(now) == len(placed) + 1
                    )
                    node = (following, now, state if loose else None)
                    if node not in seen:
                        seen.add(node)
                        stack.append(node)

    def _candidates(self, placed: frozenset[int]) -> Iterator[tuple[int, A]]:
        for index, action in self._sure.items():
            if index not in placed:
                yield index, action
        for alike in self._alike.values():
            for index in alike:
                if index not in placed:
                    yield index, self._loose[index]
                    break

    def _with_looks(self, state: S, placed: frozenset[int]) -> _Situation[S]:
        for index, action in self._looking.items():
            if index not in placed:
                after = self._after(state, action)
                if after:
                    (state,) = after
                    placed |= {index}
        return state, placed

    def _undominated(self, situations: set[_Situation[S]]) -> set[_Situation[S]]:
        """Leave out situations that have spent more than another which is otherwise the same."""
        if len(situations) < DOMINANCE_FROM:
            return situations
        alike: dict[tuple[S, frozenset[int]], list[frozenset[int]]] = {}
        for state, placed in situations:
            spent = frozenset(index for index in placed if index in self._loose)
            alike.setdefault((state, placed - spent), []).append(spent)
        kept = set()
        for (state, sure), spendings in alike.items():
            spendings.sort(key=len)
            least: list[frozenset[int]] = []
            for spent in spendings:
                if not any(less <= spent for less in least):
                    least.append(spent)
                    kept.add((state, sure | spent))
        return kept

    def _after(self, state: S, action: A) -> tuple[S, ...]:
        self._work -= 1
        if self._work < 0:
            raise _OutOfWorkError
        return self._model.after(state, action)


def _kind(step: Step[A], index: int) -> Hashable:
    return index if step.label is None else (step.label, step.until)
