"""The handshake machine: what each option is answered, and that no bytes break it."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from pinfold.nbd import protocol as nbd
from pinfold.nbd.handshake import (
    Action,
    Close,
    ExportFacts,
    Handshake,
    ListExports,
    Lookup,
    Send,
    Transmit,
    greeting,
    transmission_flags,
)
from pinfold.volumes.row import Told

FACTS = ExportFacts(name="disk", told=Told(b"", 1 << 30), description="a disk")


def option(number: int, body: bytes = b"") -> bytes:
    return nbd.OPTION.pack(nbd.OPTION_MAGIC, number, len(body)) + body


def info_body(name: str, *wanted: int) -> bytes:
    encoded = name.encode()
    return (
        struct.pack(">I", len(encoded))
        + encoded
        + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)
    )


def started(flags: int = 3) -> Handshake:
    handshake = Handshake()
    assert handshake.receive(nbd.CLIENT_FLAGS.pack(flags)) == []
    return handshake


def replies(actions: list[Action]) -> list[tuple[int, int, bytes]]:
    """(option, kind, body) of every option reply sent."""
    found = []
    data = b"".join(action.data for action in actions if isinstance(action, Send))
    while data:
        magic, number, kind, length = nbd.OPTION_REPLY.unpack_from(data)
        assert magic == nbd.REPLY_MAGIC
        found.append((number, kind, data[20 : 20 + length]))
        data = data[20 + length :]
    return found


def kinds(actions: list[Action]) -> list[int]:
    return [kind for _option, kind, _body in replies(actions)]


def test_the_greeting_offers_fixed_newstyle_without_zeroes() -> None:
    assert greeting() == b"NBDMAGICIHAVEOPT\x00\x03"


def test_unknown_client_flags_end_the_session() -> None:
    assert Handshake().receive(nbd.CLIENT_FLAGS.pack(4)) == [Close()]


def test_go_describes_the_export_and_enters_the_transmission() -> None:
    handshake = started()
    assert handshake.receive(option(nbd.OPT_STRUCTURED_REPLY))
    body = info_body("disk", nbd.INFO_NAME, nbd.INFO_DESCRIPTION, nbd.INFO_BLOCK_SIZE)
    assert handshake.receive(option(nbd.OPT_GO, body) + b"next") == [Lookup("disk")]
    actions = handshake.resolved(FACTS)
    assert actions[-1] == Transmit(FACTS, True, False, b"next")
    infos = [body for _option, kind, body in replies(actions) if kind == nbd.REP_INFO]
    assert struct.pack(">HQH", 0, 1 << 30, transmission_flags(FACTS, structured=True)) in infos
    assert struct.pack(">HIII", nbd.INFO_BLOCK_SIZE, 1, 4096, 32 << 20) in infos
    assert struct.pack(">H", nbd.INFO_NAME) + b"disk" in infos
    assert struct.pack(">H", nbd.INFO_DESCRIPTION) + b"a disk" in infos
    assert kinds(actions)[-1] == nbd.REP_ACK


def test_info_leaves_the_client_haggling() -> None:
    handshake = started()
    assert handshake.receive(option(nbd.OPT_INFO, info_body("disk"))) == [Lookup("disk")]
    assert nbd.REP_ACK in kinds(handshake.resolved(FACTS))
    assert handshake.receive(option(nbd.OPT_ABORT))[-1] == Close()


def test_an_unknown_export_is_unknown_and_the_session_goes_on() -> None:
    handshake = started()
    handshake.receive(option(nbd.OPT_GO, info_body("other")))
    assert kinds(handshake.resolved(None)) == [nbd.REP_ERR_UNKNOWN]
    assert handshake.receive(option(nbd.OPT_LIST)) == [ListExports()]
    assert kinds(handshake.listed(["a", "b"])) == [nbd.REP_SERVER, nbd.REP_SERVER, nbd.REP_ACK]


def test_shutting_down_says_so() -> None:
    handshake = started()
    handshake.receive(option(nbd.OPT_GO, info_body("disk")))
    assert kinds(handshake.resolved(None, shutdown=True)) == [nbd.REP_ERR_SHUTDOWN]


def test_export_name_answers_without_a_reply_header() -> None:
    for flags, zeroes in ((3, 0), (1, 124), (0, 124)):
        handshake = started(flags)
        handshake.receive(option(nbd.OPT_EXPORT_NAME, b"disk"))
        sent, transmit = handshake.resolved(FACTS)
        assert isinstance(sent, Send)
        head = nbd.EXPORT_NAME_REPLY.pack(1 << 30, transmission_flags(FACTS, structured=False))
        assert sent.data == head + bytes(zeroes)
        assert transmit == Transmit(FACTS, False, False, b"")


def test_export_name_of_nothing_can_only_end_the_session() -> None:
    handshake = started()
    handshake.receive(option(nbd.OPT_EXPORT_NAME, b"other"))
    assert handshake.resolved(None) == [Close()]


def test_what_is_not_done_is_refused_by_its_own_code() -> None:
    handshake = started()
    assert kinds(handshake.receive(option(nbd.OPT_STARTTLS))) == [nbd.REP_ERR_POLICY]
    for number in (4, 11, 99):
        assert kinds(handshake.receive(option(number, b"xyz"))) == [nbd.REP_ERR_UNSUP]
    for number in (nbd.OPT_LIST, nbd.OPT_STRUCTURED_REPLY):
        assert kinds(handshake.receive(option(number, b"x"))) == [nbd.REP_ERR_INVALID]


def test_malformed_lengths_are_invalid() -> None:
    good = info_body("disk", 1, 2)
    for body in (b"", good[:-1], good + b"x", struct.pack(">IH", 0xFFFFFFFF, 0), good[:6]):
        assert kinds(started().receive(option(nbd.OPT_GO, body))) == [nbd.REP_ERR_INVALID]
    bad_text = struct.pack(">I", 2) + b"\xff\xff" + struct.pack(">H", 0)
    assert kinds(started().receive(option(nbd.OPT_INFO, bad_text))) == [nbd.REP_ERR_INVALID]


def test_an_option_too_long_is_skipped_in_constant_memory() -> None:
    handshake = started()
    length = nbd.OPTION_BYTES + 1
    head = nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_INFO, length)
    assert kinds(handshake.receive(head)) == [nbd.REP_ERR_TOO_BIG]
    for _ in range(length):
        assert handshake.receive(b"x") == []
    assert handshake.receive(option(nbd.OPT_LIST)) == [ListExports()]
    insane = nbd.OPTION.pack(nbd.OPTION_MAGIC, nbd.OPT_INFO, 1 << 31)
    assert started().receive(insane) == [Close()]


def test_a_wrong_magic_ends_the_session() -> None:
    assert started().receive(nbd.OPTION.pack(7, nbd.OPT_LIST, 0)) == [Close()]


def test_whole_replies_are_offered_only_with_structured_ones() -> None:
    offered = []
    for negotiate in (False, True):
        handshake = started()
        if negotiate:
            handshake.receive(option(nbd.OPT_STRUCTURED_REPLY))
        handshake.receive(option(nbd.OPT_GO, info_body("disk")))
        actions = handshake.resolved(FACTS)
        (info,) = [
            body
            for _option, kind, body in replies(actions)
            if kind == nbd.REP_INFO and body[:2] == bytes(2)
        ]
        offered.append(bool(struct.unpack(">HQH", info)[2] & nbd.SEND_DF))
    assert offered == [False, True]


def test_read_only_exports_offer_no_writes() -> None:
    facts = ExportFacts(name="s", told=Told(b"", 1), description="", read_only=True)
    flags = transmission_flags(facts, structured=True)
    assert flags & nbd.READ_ONLY
    assert not flags & (nbd.SEND_TRIM | nbd.SEND_WRITE_ZEROES)


def meta_body(name: str, *queries: str) -> bytes:
    strings = [name.encode(), *(query.encode() for query in queries)]
    head, *rest = [struct.pack(">I", len(text)) + text for text in strings]
    return head + struct.pack(">I", len(queries)) + b"".join(rest)


def test_the_allocation_context_is_listed_and_selected() -> None:
    handshake = started()
    name = nbd.ALLOCATION_CONTEXT
    for queries, found in (((), 1), ((name,), 1), (("base:",), 1), (("qemu:",), 0)):
        handshake.receive(option(nbd.OPT_LIST_META_CONTEXT, meta_body("disk", *queries)))
        answered = replies(handshake.resolved(FACTS))
        assert [kind for _option, kind, _body in answered] == [nbd.REP_META_CONTEXT] * found + [
            nbd.REP_ACK
        ]
    early = handshake.receive(option(nbd.OPT_SET_META_CONTEXT, meta_body("disk", name)))
    assert kinds(early) == [nbd.REP_ERR_INVALID]
    handshake.receive(option(nbd.OPT_STRUCTURED_REPLY))
    handshake.receive(option(nbd.OPT_SET_META_CONTEXT, meta_body("disk", "x:y", name)))
    (_option, kind, body), _ack = replies(handshake.resolved(FACTS))
    assert kind == nbd.REP_META_CONTEXT
    assert body == struct.pack(">I", nbd.ALLOCATION_ID) + name.encode()
    handshake.receive(option(nbd.OPT_GO, info_body("disk")))
    assert handshake.resolved(FACTS)[-1] == Transmit(FACTS, True, True, b"")


def test_contexts_of_another_export_or_an_unknown_one_count_for_nothing() -> None:
    handshake = started()
    handshake.receive(option(nbd.OPT_STRUCTURED_REPLY))
    body = meta_body("other", nbd.ALLOCATION_CONTEXT)
    handshake.receive(option(nbd.OPT_SET_META_CONTEXT, body))
    other = ExportFacts(name="other", told=Told(b"", 1), description="")
    handshake.resolved(other)
    handshake.receive(option(nbd.OPT_GO, info_body("disk")))
    assert handshake.resolved(FACTS)[-1] == Transmit(FACTS, True, False, b"")
    unknown = started()
    unknown.receive(option(nbd.OPT_LIST_META_CONTEXT, body))
    assert kinds(unknown.resolved(None)) == [nbd.REP_ERR_UNKNOWN]


def test_malformed_context_options_are_invalid() -> None:
    good = meta_body("disk", "a", "b")
    for body in (b"", good[:-1], good + b"x", good[:5], meta_body("disk", "a")[:8]):
        actions = started().receive(option(nbd.OPT_LIST_META_CONTEXT, body))
        assert kinds(actions) == [nbd.REP_ERR_INVALID]


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(st.integers(0, 12), st.binary(max_size=20)).map(lambda t: option(*t)),
            st.just(option(nbd.OPT_GO, info_body("disk"))),
            st.just(option(nbd.OPT_INFO, info_body("x", 3))),
        ),
        max_size=6,
    ),
    st.randoms(use_true_random=False),
)
def test_any_cutting_of_the_bytes_gives_the_same_answers(pieces: list[bytes], rng) -> None:  # type: ignore[no-untyped-def]
    stream = nbd.CLIENT_FLAGS.pack(3) + b"".join(pieces)
    assert _talk([stream]) == _talk(_cut(stream, rng))


def _cut(stream: bytes, rng) -> list[bytes]:  # type: ignore[no-untyped-def]
    cuts = sorted(rng.randint(0, len(stream)) for _ in range(4))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def _talk(chunks: list[bytes]) -> tuple[bytes, list[Action], bytes]:
    handshake = Handshake()
    sent = b""
    decisions: list[Action] = []
    rest = b""
    for chunk in chunks:
        if decisions and isinstance(decisions[-1], Transmit):
            rest += chunk
            continue
        queue = handshake.receive(chunk)
        while queue:
            action = queue.pop(0)
            match action:
                case Send(data):
                    sent += data
                case Lookup(name):
                    queue += handshake.resolved(FACTS if name == "disk" else None)
                case ListExports():
                    queue += handshake.listed(["disk"])
                case Transmit(facts, structured, allocation, more):
                    decisions.append(Transmit(facts, structured, allocation, b""))
                    rest += more
                case Close():
                    decisions.append(action)
    return sent, decisions, rest
