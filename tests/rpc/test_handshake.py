"""Two sides that share a secret meet; nobody else gets in."""

import dataclasses

import msgspec
import pytest

from pinfold.model.errors import Invalid
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.frames import Hello, Message, Proof, Refusal, Welcome
from pinfold.rpc.handshake import NONCE_BYTES, Handshake, Identity, Keyring, refusal

A = Identity(node=NodeName("a"), boot=Boot(3), cluster=b"c" * 16, keyring=Keyring.of(b"s3cret"))
B = dataclasses.replace(A, node=NodeName("b"), boot=Boot(9))
_decoder = msgspec.msgpack.Decoder(Message)


def dialler(identity: Identity = A, nonce: bytes = b"1") -> Handshake:
    return Handshake(identity, nonce * NONCE_BYTES, expected=NodeName("b"))


def acceptor(identity: Identity = B, nonce: bytes = b"2") -> Handshake:
    return Handshake(identity, nonce * NONCE_BYTES, expected=None)


def meet(one: Handshake, other: Handshake) -> None:
    sides = [(other, message) for message in one.start()]
    sides += [(one, message) for message in other.start()]
    while sides:
        side, message = sides.pop(0)
        answers = side.received(_decoder.decode(message))
        sides += [(one if side is other else other, answer) for answer in answers]


def test_two_members_meet() -> None:
    one, other = dialler(), acceptor()
    meet(one, other)
    assert one.peer is not None
    assert (one.peer.node, one.peer.boot, one.peer.protocol) == ("b", 9, 3)
    assert other.peer is not None
    assert (other.peer.node, other.peer.boot, other.peer.protocol) == ("a", 3, 3)


@pytest.mark.parametrize(
    ("stranger", "reason"),
    [
        (dataclasses.replace(B, keyring=Keyring.of(b"guess")), "secret"),
        (dataclasses.replace(B, cluster=b"d" * 16), "another cluster"),
        (dataclasses.replace(B, node=NodeName("e")), "address of b"),
    ],
)
def test_a_dialler_refuses_a_stranger(stranger: Identity, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        meet(dialler(), acceptor(stranger))


def test_an_acceptor_refuses_who_cannot_prove_the_secret() -> None:
    one, other = dialler(dataclasses.replace(A, keyring=Keyring.of(b"guess"))), acceptor()
    [hello] = one.start()
    answers = [_decoder.decode(answer) for answer in other.received(_decoder.decode(hello))]
    assert [type(answer) for answer in answers] == [Hello, Proof]
    with pytest.raises(Invalid, match="a does not know the cluster secret"):
        other.received(Proof(b"\0" * 32))
    assert other.peer is None


def test_a_proof_cannot_be_reflected_or_replayed() -> None:
    one, other = dialler(), acceptor()
    [hello] = one.start()
    _, proof = (_decoder.decode(answer) for answer in other.received(_decoder.decode(hello)))
    with pytest.raises(Invalid, match="secret"):
        other.received(proof)  # its own proof back
    again = acceptor(nonce=b"3")
    again.received(_decoder.decode(hello))
    theirs, answer = (_decoder.decode(a) for a in acceptor().received(_decoder.decode(hello)))
    one.received(theirs)
    [honest] = one.received(answer)
    with pytest.raises(Invalid, match="secret"):
        again.received(_decoder.decode(honest))  # made for another nonce


def test_versions_must_overlap() -> None:
    hello = _decoder.decode(dialler().start()[0])
    assert isinstance(hello, Hello)
    newer = msgspec.structs.replace(hello, protocol_min=4, protocol_max=5)
    with pytest.raises(Invalid, match="protocols 4 to 5"):
        acceptor().received(newer)
    wider = msgspec.structs.replace(hello, protocol_max=4)
    assert len(acceptor().received(wider)) == 2
    with pytest.raises(Invalid, match="nonce"):
        acceptor().received(msgspec.structs.replace(hello, nonce=b""))
    with pytest.raises(Invalid, match="key 4"):
        acceptor().received(msgspec.structs.replace(hello, key_id=4))


@pytest.mark.parametrize("message", [Proof(b""), Welcome()])
def test_messages_out_of_order_are_refused(message: Message) -> None:
    for side in (dialler(), acceptor()):
        with pytest.raises(Invalid, match="out of order"):
            side.received(message)


def test_a_refusal_says_why() -> None:
    message = _decoder.decode(refusal(Invalid("because")))
    assert message == Refusal("because")
    with pytest.raises(Invalid, match="refused: because"):
        dialler().received(message)


def ring(current: int, *numbers: int) -> Identity:
    """A member that proves the secret `current` and knows those of these numbers too."""
    known = {number: b"secret %d" % number for number in (current, *numbers)}
    return dataclasses.replace(A, keyring=Keyring(current, known))


@pytest.mark.parametrize(
    ("dials", "accepts"), [((0,), (0, 1)), ((1, 0), (0, 1)), ((1, 0), (1,)), ((0, 1), (1, 0))]
)
def test_members_meet_while_the_secret_is_replaced(
    dials: tuple[int, ...], accepts: tuple[int, ...]
) -> None:
    one = dialler(ring(*dials))
    other = acceptor(dataclasses.replace(ring(*accepts), node=NodeName("b")))
    meet(one, other)
    assert one.peer is not None
    assert other.peer is not None
    assert one.key_id == other.key_id == dials[0]


def test_the_old_secret_alone_is_refused_once_it_is_replaced() -> None:
    with pytest.raises(Invalid, match="key 0"):
        meet(dialler(ring(0)), acceptor(dataclasses.replace(ring(1), node=NodeName("b"))))


def test_an_acceptor_cannot_choose_another_secret_than_the_dialler_proves() -> None:
    one = dialler(ring(1, 0))
    [hello] = one.start()
    other = acceptor(dataclasses.replace(ring(0, 1), node=NodeName("b")))
    answer = _decoder.decode(other.received(_decoder.decode(hello))[0])
    with pytest.raises(Invalid, match="key 0"):
        one.received(msgspec.structs.replace(answer, key_id=0))
