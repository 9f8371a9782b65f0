"""Too many connections: silent ones make room, oldest first; working ones stay."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.env.crowd import Crowd


def test_a_flood_of_silent_connections_pushes_out_its_own() -> None:
    crowd: Crowd[str] = Crowd(3)
    assert [crowd.enter(name) for name in ("client", "a", "b")] == [None] * 3
    crowd.prove("client")
    assert crowd.enter("c") == "a"
    crowd.leave("a")
    assert crowd.enter("d") == "b"
    crowd.leave("b")
    assert crowd.proved() == ["client"]
    assert crowd.turned_out == 2


def test_when_all_are_at_work_the_newcomer_goes() -> None:
    crowd: Crowd[int] = Crowd(2)
    for number in (1, 2):
        assert crowd.enter(number) is None
        crowd.prove(number)
    assert crowd.enter(3) == 3


@given(st.lists(st.tuples(st.sampled_from(["enter", "prove", "leave"]), st.integers(0, 9))))
def test_never_more_than_the_limit_and_never_a_working_one_pushed_out(
    steps: list[tuple[str, int]],
) -> None:
    crowd: Crowd[int] = Crowd(4)
    inside: set[int] = set()
    proved: set[int] = set()
    for step, number in steps:
        if step == "enter" and number not in inside:
            inside.add(number)
            goes = crowd.enter(number)
            if goes is not None:
                assert goes not in proved
                crowd.leave(goes)
                inside.discard(goes)
        elif step == "prove" and number in inside:
            crowd.prove(number)
            proved.add(number)
        elif step == "leave":
            crowd.leave(number)
            inside.discard(number)
            proved.discard(number)
        assert len(crowd) == len(inside) <= 4
        assert set(crowd.proved()) == proved
