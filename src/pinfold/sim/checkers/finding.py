"""What a checker has to say: a promise broken, or one that it could not decide about."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong. A run passes when there is none, undecided ones included."""

    checker: str
    """Which promise: "linearizable", "listing", "counters", "volume", "convergence"."""
    subject: str
    """What it is about: a key, a bucket, a block, a group."""
    explanation: str
    """For people: what was seen, beside what was allowed."""
    undecided: bool = False
    """The search ended at its bound; the promise may hold or not."""

    def __str__(self) -> str:
        verdict = "UNDECIDED" if self.undecided else "VIOLATED"
        return f"{verdict} {self.checker} of {self.subject}\n{self.explanation}"
