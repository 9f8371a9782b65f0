"""Access keys: one that works is one that somebody made and nobody has ended, seconds ago at most.

A gateway may believe what it read for a while, so a use shows what a key was at some instant from
`stale_s` before it to its end. It learns of a key and of its user at different instants: a key made
for a user who was disabled a moment ago may still work. What was deleted is never there again.
"""

from collections.abc import Iterator, Sequence

from pinfold.sim.checkers.finding import Finding
from pinfold.sim.checkers.history import History, KeyChange, KeyUse

CHECKER = "access"


def check(history: History, *, stale_s: float) -> list[Finding]:
    """Findings about keys that were accepted or refused, or made, as they should not have been."""
    by_key: dict[str, list[KeyChange]] = {}
    for change in history.key_changes:
        by_key.setdefault(change.key, []).append(change)
    findings = [
        Finding(checker=CHECKER, subject=key, explanation=problem)
        for key, changes in by_key.items()
        for problem in _made_again(changes)
    ]
    for use in history.key_uses:
        changes = [by_key.get(name, []) for name in (use.key, use.user)]
        key, user = (_possible(some, use.began - stale_s, use.ended) for some in changes)
        if use.worked not in {one and other for one in key for other in user}:
            what = "accepted" if use.worked else "refused"
            text = f"{what} at {use.began:.6f} .. {use.ended:.6f}\n" + _told(changes, use)
            findings.append(Finding(checker=CHECKER, subject=use.key, explanation=text))
    return findings


def _possible(changes: Sequence[KeyChange], since: float, until: float) -> set[bool]:
    """Whether a key or user may have been active, or not, at instants of this time."""
    before = [one for one in changes if one.known and one.ended <= since]
    if any(one.state == "deleted" for one in before):
        return {False}
    active = {bool(before) and before[-1].state == "active"}
    for change in changes:
        ended_before = change.known and change.ended <= since
        if change.began < until and not ended_before:
            active.add(change.state == "active")
    return active


def _made_again(changes: Sequence[KeyChange]) -> Iterator[str]:
    ended = next((one for one in changes if one.known and one.state == "deleted"), None)
    for change in changes:
        if ended and change.known and change.began > ended.ended and change.state != "deleted":
            yield f"deleted at {ended.ended:.6f}, and made {change.state} at {change.ended:.6f}"


def _told(changes: Sequence[Sequence[KeyChange]], use: KeyUse) -> str:
    return "\n".join(
        f"   {one.began:.6f} .. {one.ended:.6f} {one.key} {one.state}"
        + ("" if one.known else " (unknown)")
        for some in changes
        for one in some
        if one.began < use.ended
    )
