from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinfold.sim.checkers.convergence import Blob, Inspection, Member, Volume, check

DEVICES = st.sampled_from(["d1", "d2", "d3"])
MEMBERS = st.builds(
    Member,
    last_op=st.integers(1, 2),
    applied_op=st.integers(1, 2),
    digest=st.sampled_from([b"x", b"y"]),
)


def at_rest(
    *,
    groups: Mapping[str, Mapping[str, Member]] | None = None,
    blobs: Mapping[str, Blob] | None = None,
    strays: Mapping[str, Mapping[str, int]] | None = None,
    volumes: Mapping[str, Volume] | None = None,
) -> Inspection:
    return Inspection(
        now_ms=100_000,
        grace_ms=10_000,
        groups=groups or {},
        blobs=blobs or {},
        strays=strays or {},
        volumes=volumes or {},
    )


def member(op: int, *, applied: int | None = None, digest: bytes = b"x") -> Member:
    return Member(last_op=op, applied_op=op if applied is None else applied, digest=digest)


ZEROES, OTHER = 1, 2
NOT_CONVERGED = {
    "member behind": at_rest(groups={"0": {"d1": member(5), "d2": member(4)}}),
    "member that has not applied": at_rest(groups={"0": {"d1": member(5, applied=4)}}),
    "members with different rows": at_rest(
        groups={"0": {"d1": member(5), "d2": member(5, digest=b"y")}}
    ),
    "members behind with different rows": at_rest(
        groups={"0": {"d1": member(5), "d2": member(4), "d3": member(4, digest=b"y")}}
    ),
    "blob with one copy": at_rest(blobs={"b": Blob(copies=3, holders=frozenset({"d1"}))}),
    "blob without copies": at_rest(blobs={"b": Blob(copies=3, holders=frozenset())}),
    "orphan past its grace": at_rest(strays={"d1": {"b": 80_000}}),
    "device out of sync": at_rest(volumes={"v": Volume(out=frozenset({"d1"}))}),
    "dirty device": at_rest(volumes={"v": Volume(dirty=frozenset({"d1"}))}),
    "members in sync that differ": at_rest(
        volumes={"v": Volume(extents={0: {"d1": ZEROES, "d2": OTHER}})}
    ),
}


@pytest.mark.parametrize("name", NOT_CONVERGED)
def test_is_not_converged(name: str) -> None:
    assert check(NOT_CONVERGED[name])


def test_a_whole_cluster_is() -> None:
    whole = at_rest(
        groups={"0": {"d1": member(5), "d2": member(5)}, "1": {}},
        blobs={"b": Blob(copies=2, holders=frozenset({"d1", "d2", "d3"}))},
        strays={"d1": {"young": 95_000}, "d2": {}},
        volumes={"v": Volume(extents={0: {"d1": OTHER, "d2": OTHER}})},
    )
    assert check(whole) == []


def test_findings_say_who_lacks_what() -> None:
    findings = check(
        at_rest(
            groups={"7": {"d1": member(5), "d2": member(4)}},
            blobs={f"b{n}": Blob(copies=3, holders=frozenset({"d2", "d1"})) for n in range(7)},
            strays={"d3": {"lost": 70_000}},
        )
    )
    assert [(finding.subject, finding.explanation) for finding in findings] == [
        ("group 7", "of 5 ops: d2 has op 4, applied 4"),
        (
            "blobs with 2 copies",
            "b0 on d1, d2; b1 on d1, d2; b2 on d1, d2; b3 on d1, d2; b4 on d1, d2 and 2 more",
        ),
        ("device d3", "holds blobs that no row names: lost of 30.0 s ago"),
    ]


@given(st.dictionaries(DEVICES, MEMBERS, min_size=1))
def test_groups_pass_only_when_all_members_are_the_same(members: dict[str, Member]) -> None:
    ops = {op for one in members.values() for op in (one.last_op, one.applied_op)}
    same = len(ops) == 1 and len({one.digest for one in members.values()}) == 1
    assert (check(at_rest(groups={"0": members})) == []) == same


@given(st.dictionaries(DEVICES, st.sampled_from([ZEROES, OTHER])), st.frozensets(DEVICES))
def test_only_members_in_sync_must_be_equal(checks: dict[str, int], out: frozenset[str]) -> None:
    findings = check(at_rest(volumes={"v": Volume(out=out, extents={0: checks})}))
    differ = len({check for device, check in checks.items() if device not in out}) > 1
    assert any("differ" in finding.explanation for finding in findings) == differ
