"""Counters: when nothing is on its way, a bucket's counters are what its listing adds up to."""

from collections.abc import Mapping, Sequence
from typing import Final

from pinfold.sim.checkers.finding import Finding

CHECKER: Final = "counters"


def check(
    counted: Mapping[str, tuple[int, int]], listed: Mapping[str, Sequence[tuple[str, int]]]
) -> list[Finding]:
    """`counted`: (objects, bytes) by bucket, as the cluster keeps them. `listed`: (name, size) of
    every object of every bucket. A bucket that only one of them knows is compared with nothing.
    """
    findings = []
    for bucket in sorted({*counted, *listed}):
        objects = listed.get(bucket, ())
        sums = len(objects), sum(size for _, size in objects)
        kept = counted.get(bucket, (0, 0))
        if kept != sums:
            text = (
                f"counted {kept[0]} objects, {kept[1]} bytes;"
                f" listed {sums[0]} objects, {sums[1]} bytes"
            )
            findings.append(Finding(checker=CHECKER, subject=bucket, explanation=text))
    return findings
