import pytest

from pinfold.model.errors import Conflict, DeadlineExceeded, NotFound, Unavailable
from pinfold.sim.checkers.history import Recorder


def stopped_clock() -> float:
    return 7.0


def test_instants_grow_also_while_the_clock_stands_still() -> None:
    recorder = Recorder(stopped_clock)
    first = recorder.begin("c", "put", bucket="b", name="n", value="1")
    first.done()
    second = recorder.begin("c", "get", bucket="b", name="n")
    second.done(value="1")
    put, get = recorder.history().operations
    assert put.ended is not None
    assert put.began < put.ended < get.began


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (Conflict("x"), "refused", "conflict"),
        (Unavailable("x"), "unknown", "unavailable"),
        (DeadlineExceeded("x"), "unknown", "deadline"),
        (ConnectionResetError("x"), "unknown", "ConnectionResetError"),
    ],
)
def test_only_errors_that_promise_so_count_as_harmless(
    error: Exception, outcome: str, code: str
) -> None:
    recorder = Recorder(stopped_clock)
    recorder.begin("c", "put", bucket="b", name="n", value="1").raised(error)
    (put,) = recorder.history().operations
    assert (put.outcome, put.error) == (outcome, code)


def test_reading_nothing_is_a_read_that_succeeded() -> None:
    recorder = Recorder(stopped_clock)
    recorder.begin("c", "get", bucket="b", name="n").raised(NotFound("x"))
    (get,) = recorder.history().operations
    assert (get.outcome, get.value) == ("ok", None)


def test_a_call_that_never_ended_is_unknown() -> None:
    recorder = Recorder(stopped_clock)
    recorder.begin("c", "put", bucket="b", name="n", value="1")
    recorder.begin_disk("c", "write", gateway="g", volume="v", tokens=("t",))
    history = recorder.history()
    assert history.operations[0].outcome == history.disk[0].outcome == "unknown"
    assert history.operations[0].ended is None


def test_nothing_ends_twice() -> None:
    call = Recorder(stopped_clock).begin("c", "put", bucket="b", name="n", value="1")
    call.lost()
    with pytest.raises(AssertionError):
        call.done()
