"""What one key of a bucket is, as a state and the actions on it, for the search.

A key holds a token or nothing, and its uploads are open, completed or aborted: an upload ends in
exactly one way because it is part of the same state.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from pinfold.sim.checkers.history import IF_ABSENT, IF_PRESENT
from pinfold.sim.checkers.search import Step

UNSEEN: Final = "?unseen"
"""Stands for every value that nobody has ever seen: they need not be told apart."""


class KeyState(NamedTuple):
    """What is there, and which uploads have ended how."""

    value: str | None = None
    ended: frozenset[tuple[str, str, str]] = frozenset()
    """(upload, completed or aborted, the value that it became)."""

    def upload(self, upload: str) -> str:
        """open, completed or aborted."""
        return next((how for which, how, _ in self.ended if which == upload), "open")

    def ending(self, upload: str, how: str, value: str = "") -> frozenset[tuple[str, str, str]]:
        """The uploads once this one has ended."""
        return self.ended | {(upload, how, value)}


Does = Literal[
    "see",
    "see-some",
    "see-not",
    "put",
    "make",
    "delete",
    "complete",
    "abort",
    "fail",
    "upload-is",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What an operation does to, or says about, one key.

    see: the value is one of `values`. see-some: there is a value. see-not: the value is none of
    `values`, and there is one unless `or_nothing`. put: one of `values` is written if `condition`
    holds. make: the value is `values[0]` afterwards; before it was the same or nothing. delete:
    nothing is there afterwards; what was met `condition` or was nothing. complete, abort: of
    `upload`. fail: `condition` did not hold (on an open `upload`, if one is named). upload-is:
    `upload` is in one of the ways `values` (or else nothing was there, with `or_nothing`).
    """

    does: Does
    values: tuple[str | None, ...] = ()
    condition: str | None = None
    upload: str = ""
    or_nothing: bool = False


class KeyModel:
    """See `search.Model`."""

    def after(self, state: KeyState, action: Action) -> tuple[KeyState, ...]:
        """See `Model`."""
        match action.does:
            case "see":
                return _if(action.values[0] == state.value, state)
            case "see-some":
                return _if(state.value is not None, state)
            case "see-not":
                nothing = state.value is None
                return _if(
                    action.or_nothing if nothing else state.value not in action.values, state
                )
            case "make":
                (value,) = action.values
                return _if(state.value in (None, value), KeyState(value, state.ended))
            case "put":
                if not holds(action.condition, state.value):
                    return ()
                return tuple(KeyState(value, state.ended) for value in action.values)
            case "delete":
                fits = state.value is None or holds(action.condition, state.value)
                return _if(fits, KeyState(None, state.ended))
            case "complete":
                return _complete(state, action)
            case "abort":
                ending = state.ending(action.upload, "aborted")
                return _if(state.upload(action.upload) == "open", KeyState(state.value, ending))
            case "fail":
                is_open = not action.upload or state.upload(action.upload) == "open"
                failed = state.value is not None and not holds(action.condition, state.value)
                return _if(is_open and failed, state)
            case "upload-is":
                nothing = action.or_nothing and state.value is None
                return _if(nothing or state.upload(action.upload) in action.values, state)

    def looks(self, action: Action) -> bool:
        """See `Model`."""
        return action.does in ("see", "see-some", "see-not", "fail", "upload-is")

    def overwrites(self, action: Action) -> bool:
        """See `Model`; uploads that ended stay ended."""
        return action.does in ("put", "delete")

    def ended(self, state: KeyState, step: Step[Action]) -> KeyState:
        """See `Model`; nothing more is known of keys."""
        return state


def holds(condition: str | None, value: str | None) -> bool:
    """Whether a condition holds for what is there."""
    if condition is None:
        return True
    if condition == IF_ABSENT:
        return value is None
    if condition == IF_PRESENT:
        return value is not None
    return value == condition


def _complete(state: KeyState, action: Action) -> tuple[KeyState, ...]:
    """An open upload becomes the value; a completed one whose object is current answers again."""
    (value,) = action.values
    assert value is not None, "a completed upload is something"
    if state.upload(action.upload) == "open":
        return _if(
            holds(action.condition, state.value),
            KeyState(value, state.ending(action.upload, "completed", value)),
        )
    again = (action.upload, "completed", value) in state.ended
    return _if(again and state.value == value, state)


def _if(possible: bool, state: KeyState) -> tuple[KeyState, ...]:
    return (state,) if possible else ()
