"""How two nodes prove the cluster secret to each other. Messages in, messages out, no I/O.

    dialler   Hello(protocols, cluster, name, boot, nonce)  ->
              <-  Hello(...), Proof(mac of "accept", both hellos)             acceptor
              Proof(mac of "dial", both hellos)  ->
              <-  Welcome()

Both nonces are under both proofs, so nothing can be replayed, and the two labels keep a proof from
being reflected. Either side that is not content sends a Refusal with the reason and closes.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from pinfold.model.errors import Invalid
from pinfold.model.ids import Boot, NodeName
from pinfold.rpc.frames import Hello, Message, Proof, Refusal, Welcome, encode_message

PROTOCOL_MIN: Final = 1
PROTOCOL_MAX: Final = 3
"""Versions of the messages' meaning that this build speaks. 2: deadlines are instants of the
sender's clock, which frames tell, so that what waits on the way does not become younger. 3: payload
is followed by its checksum."""

CLOCKS_TOLD: Final = 2
"""The first protocol that does so."""

PAYLOADS_SUMMED: Final = 3
"""The first protocol that does that."""

NONCE_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Keyring:
    """The cluster's secrets by their number, while they are being replaced more than one.

    A dialler proves the `current` one and names it; an acceptor takes whichever it knows. So a new
    secret is first known everywhere, then proved, and only then is the old one forgotten.
    """

    current: int
    secrets: Mapping[int, bytes]

    @classmethod
    def of(cls, secret: bytes) -> "Keyring":
        """A first secret, alone."""
        return cls(0, {0: secret})

    def __post_init__(self) -> None:
        assert self.current in self.secrets, "the current secret is one of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this process is, and what proves it."""

    node: NodeName
    boot: Boot
    cluster: bytes
    keyring: Keyring
    protocol_max: int = PROTOCOL_MAX
    """The newest protocol it speaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerIdentity:
    """Who the other side has proved to be."""

    node: NodeName
    boot: Boot
    protocol: int


class Handshake:
    """One side of one handshake.

    `expected` is whom the dialler means to reach; None accepts any member of the cluster. An error
    raised is Invalid; `refusal` then tells the peer, unless it was the peer who refused.
    """

    def __init__(self, identity: Identity, nonce: bytes, *, expected: NodeName | None) -> None:
        self._identity = identity
        self._dials = expected is not None
        self._expected = expected
        self._hello = Hello(
            protocol_min=PROTOCOL_MIN,
            protocol_max=identity.protocol_max,
            cluster=identity.cluster,
            node=identity.node,
            boot=identity.boot,
            nonce=nonce,
            key_id=identity.keyring.current,
        )
        self._transcript = b""
        self._candidate: PeerIdentity | None = None
        self._proved = False
        self.peer: PeerIdentity | None = None
        """Set once the session is established."""

    @property
    def key_id(self) -> int:
        """Which of the cluster's secrets both sides prove."""
        return self._hello.key_id

    def start(self) -> list[bytes]:
        """What to send before anything has arrived."""
        return [encode_message(self._hello)] if self._dials else []

    def received(self, message: Message) -> list[bytes]:
        """Take the peer's next message; what to send in return."""
        match message:
            case Hello() if self._candidate is None:
                return self._on_hello(message)
            case Proof() if self._candidate is not None and not self._proved:
                return self._on_proof(message)
            case Welcome() if self._dials and self._proved and self.peer is None:
                self.peer = self._candidate
                return []
            case Refusal():
                raise Invalid(f"the peer refused: {message.reason}")
            case _:
                raise Invalid(f"handshake: {type(message).__name__} out of order")

    def _on_hello(self, hello: Hello) -> list[bytes]:
        self._candidate = self._judge(hello)
        if not self._dials:
            self._hello = msgspec.structs.replace(self._hello, key_id=hello.key_id)
        ours, theirs = encode_message(self._hello), encode_message(hello)
        self._transcript = ours + theirs if self._dials else theirs + ours
        if self._dials:
            return []
        return [ours, encode_message(Proof(self._mac(b"accept")))]

    def _judge(self, hello: Hello) -> PeerIdentity:
        newest = self._identity.protocol_max
        protocol = min(newest, hello.protocol_max)
        if protocol < max(PROTOCOL_MIN, hello.protocol_min):
            raise Invalid(
                f"node {hello.node} speaks protocols {hello.protocol_min} to {hello.protocol_max},"
                f" this node {PROTOCOL_MIN} to {newest}"
            )
        if hello.cluster != self._identity.cluster:
            raise Invalid(f"node {hello.node} belongs to another cluster")
        if hello.key_id not in self._identity.keyring.secrets or (
            self._dials and hello.key_id != self._hello.key_id
        ):
            raise Invalid(f"node {hello.node} proves key {hello.key_id}, which is not known here")
        if len(hello.nonce) != NONCE_BYTES:
            raise Invalid(f"node {hello.node} sent a nonce of {len(hello.nonce)} bytes")
        if self._expected is not None and hello.node != self._expected:
            raise Invalid(f"node {hello.node} answers at the address of {self._expected}")
        return PeerIdentity(node=NodeName(hello.node), boot=Boot(hello.boot), protocol=protocol)

    def _on_proof(self, proof: Proof) -> list[bytes]:
        assert self._candidate is not None
        label = b"accept" if self._dials else b"dial"
        if not hmac.compare_digest(proof.mac, self._mac(label)):
            raise Invalid(f"node {self._candidate.node} does not know the cluster secret")
        self._proved = True
        if self._dials:
            return [encode_message(Proof(self._mac(b"dial")))]
        self.peer = self._candidate
        return [encode_message(Welcome())]

    def _mac(self, label: bytes) -> bytes:
        secret = self._identity.keyring.secrets[self._hello.key_id]
        return hmac.digest(secret, label + b"\0" + self._transcript, "sha256")


def refusal(error: Invalid) -> bytes:
    """The message that tells a peer why it is turned away."""
    return encode_message(Refusal(error.message))
