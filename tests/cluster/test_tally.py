"""A write is done at W durable acknowledgements and lost only when W is out of reach."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.cluster.blobs.tally import Verdict, WriteTally
from pinfold.model.ids import DeviceId


@given(
    copies=st.integers(1, 5),
    extra=st.integers(0, 4),
    data=st.data(),
)
def test_one_decision_at_the_quorum_or_when_it_is_out_of_reach(copies, extra, data):
    quorum = copies // 2 + 1
    devices = [DeviceId(number) for number in range(copies + extra)]
    tally = WriteTally.start(quorum, devices[:copies], iter(devices[copies:]))
    in_flight = list(devices[:copies])
    acks, verdicts = 0, []
    while in_flight:
        device = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        if data.draw(st.booleans()):
            acks += 1
            verdict = tally.on_ack(device)
            assert (verdict is Verdict.DONE) == (acks == quorum)
        else:
            verdict, handoff = tally.on_failure()
            if handoff is not None:
                in_flight.append(handoff)
            if verdict is Verdict.LOST:
                assert acks + len(in_flight) < quorum
        verdicts.append(verdict)
    assert sum(verdict is not Verdict.WAIT for verdict in verdicts) == 1
    assert (Verdict.DONE in verdicts) == (acks >= quorum)
