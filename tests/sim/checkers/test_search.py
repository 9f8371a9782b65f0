"""The search against every permutation, on histories small enough for that."""

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from pinfold.sim.checkers.history import IF_ABSENT, IF_PRESENT
from pinfold.sim.checkers.register import Action, KeyModel, KeyState
from pinfold.sim.checkers.search import Exhausted, Order, Step, Stuck, search

VALUES = st.sampled_from(["1", "2", "3"])
CONDITIONS = st.sampled_from([None, None, IF_ABSENT, IF_PRESENT, "1", "2"])
UPLOADS = st.sampled_from(["u", "v"])

ACTIONS = st.one_of(
    st.builds(Action, does=st.just("see"), values=st.tuples(st.one_of(st.none(), VALUES))),
    st.just(Action(does="see-some")),
    st.builds(
        Action,
        does=st.just("put"),
        values=st.lists(VALUES, min_size=1, max_size=2, unique=True).map(tuple),
        condition=CONDITIONS,
    ),
    st.builds(Action, does=st.just("delete"), condition=st.sampled_from([None, "1", "2"])),
    st.builds(
        Action,
        does=st.just("complete"),
        values=st.tuples(VALUES),
        condition=CONDITIONS,
        upload=UPLOADS,
    ),
    st.builds(Action, does=st.just("abort"), upload=UPLOADS),
    st.builds(Action, does=st.just("fail"), condition=st.sampled_from([IF_ABSENT, "1", "2"])),
    st.builds(
        Action,
        does=st.just("upload-is"),
        upload=UPLOADS,
        values=st.sampled_from([("open",), ("completed", "aborted")]),
    ),
)


@st.composite
def histories(draw: st.DrawFn, size_max: int = 5) -> list[Step[Action]]:
    actions = draw(st.lists(ACTIONS, min_size=1, max_size=size_max))
    moments = draw(st.permutations(range(3 * len(actions))))
    steps = []
    for index, action in enumerate(actions):
        began, ended, until = sorted(moments[3 * index : 3 * index + 3])
        how = draw(st.sampled_from(["sure", "sure", "sure", "loose", "until"]))
        steps.append(
            Step(
                action,
                float(began),
                float(ended) if how == "sure" else None,
                until=float(until) if how == "until" else None,
                label=action if how != "sure" else None,
            )
        )
    return steps


def naive(model: KeyModel, initial: KeyState, steps: Sequence[Step[Action]]) -> bool:
    """Whether any order of all sure steps and any choice of the others is possible."""
    sure = [step for step in steps if step.ended is not None]
    loose = [step for step in steps if step.ended is None]
    return any(
        possible(model, initial, order)
        for count in range(len(loose) + 1)
        for chosen in itertools.combinations(loose, count)
        for order in itertools.permutations([*sure, *chosen])
    )


def possible(model: KeyModel, initial: KeyState, order: Sequence[Step[Action]]) -> bool:
    latest = -1.0
    states = {initial}
    for step in order:
        latest = max(latest, step.began)
        limit = step.ended if step.ended is not None else step.until
        if limit is not None and latest > limit:
            return False
        states = {after for state in states for after in model.after(state, step.action)}
    return bool(states)


@settings(max_examples=600)
@given(histories())
def test_the_search_agrees_with_trying_every_order(steps: list[Step[Action]]) -> None:
    model = KeyModel()
    result = search(model, KeyState(), steps)
    assert isinstance(result, Order | Stuck)
    assert isinstance(result, Order) == naive(model, KeyState(), steps)


@settings(max_examples=300)
@given(histories())
def test_a_bound_never_turns_one_verdict_into_the_other(steps: list[Step[Action]]) -> None:
    model = KeyModel()
    bounded = search(model, KeyState(), steps, work_max=12)
    if not isinstance(bounded, Exhausted):
        assert type(bounded) is type(search(model, KeyState(), steps))


def test_long_histories_with_many_unknown_writes_take_little_work() -> None:
    """Four clients, 8,000 calls on one key, one write in ten of unknown outcome."""
    steps: list[Step[Action]] = []
    for index in range(2_000):
        at = index * 10.0
        put = Action(does="put", values=(str(index),))
        unknown = Action(does="put", values=("?",))
        ended = None if index % 10 == 0 else at + 6
        steps.append(Step(put if ended else unknown, at, ended, label=None if ended else unknown))
        steps.append(Step(Action(does="put", values=("x",)), at + 1, at + 5))
        steps.append(Step(Action(does="put", values=("y",)), at + 2, at + 4))
        steps.append(Step(Action(does="see", values=("y",)), at + 3, at + 9))
    assert isinstance(search(KeyModel(), KeyState(), steps, work_max=300_000), Order)
