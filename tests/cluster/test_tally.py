"""A write is done at W durable acknowledgements and lost only when W is out of reach."""

from hypothesis import given
from hypothesis import strategies as st

from pinfold.cluster.blobs.tally import Verdict, WriteTally
from pinfold.model.ids import DeviceId, NodeName


@given(copies=st.integers(1, 5), extra=st.integers(0, 4), nodes=st.integers(1, 9), data=st.data())
def test_one_decision_at_the_quorum_or_when_it_is_out_of_reach(copies, extra, nodes, data):
    quorum = copies // 2 + 1
    devices = [DeviceId(number) for number in range(copies + extra)]

    def node_of(device):
        return NodeName(f"n{device % nodes}")

    spread = quorum if nodes >= copies else 1
    tally = WriteTally.start(quorum, devices[:copies], iter(devices[copies:]), node_of)
    in_flight = list(devices[:copies])
    acks, verdicts = [], []

    def enough(held):
        return len(held) >= quorum and len({node_of(one) for one in held}) >= spread

    while in_flight:
        device = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        if data.draw(st.booleans()):
            before = enough(acks)
            acks.append(device)
            verdict = tally.on_ack(device)
            assert (verdict is Verdict.DONE) == (enough(acks) and not before)
        else:
            verdict, handoff = tally.on_failure(device)
            if handoff is not None:
                in_flight.append(handoff)
            if verdict is Verdict.LOST:
                assert not enough([*acks, *in_flight])
        verdicts.append(verdict)
    assert sum(verdict is not Verdict.WAIT for verdict in verdicts) == 1
    assert (Verdict.DONE in verdicts) == enough(acks)


def test_both_acknowledgements_are_not_of_one_node_where_each_copy_has_its_own():
    """Devices 1 and 11 are on the node that is left; 12 is on one that has come back."""
    a, b, c, beside_a, beside_b = map(DeviceId, (1, 2, 3, 11, 12))

    def node_of(device):
        return NodeName(f"n{device % 10}")

    tally = WriteTally.start(2, (a, b, c), iter((beside_a, beside_b)), node_of)
    assert tally.on_ack(a) is Verdict.WAIT
    assert tally.on_failure(b) == (Verdict.WAIT, beside_b)
    assert tally.on_failure(c) == (Verdict.WAIT, beside_a)
    assert tally.on_ack(beside_a) is Verdict.WAIT
    assert tally.on_ack(beside_b) is Verdict.DONE


def test_a_write_that_only_one_node_would_hold_is_lost():
    a, b, c, beside = map(DeviceId, (1, 2, 3, 11))
    tally = WriteTally.start(2, (a, b, c), iter((beside,)), lambda one: NodeName(f"n{one % 10}"))
    tally.on_ack(a)
    assert tally.on_failure(b) == (Verdict.WAIT, beside)
    tally.on_ack(beside)
    assert tally.on_failure(c) == (Verdict.LOST, None)


def test_a_ring_that_has_too_few_nodes_writes_as_long_as_enough_devices_live():
    a, b, c = map(DeviceId, (1, 2, 3))
    tally = WriteTally.start(2, (a, b, c), iter(()), lambda one: NodeName(f"n{one % 2}"))
    assert tally.on_ack(a) is Verdict.WAIT
    assert tally.on_failure(b) == (Verdict.WAIT, None)
    assert tally.on_ack(c) is Verdict.DONE, "both on one node: the ring has no third"
