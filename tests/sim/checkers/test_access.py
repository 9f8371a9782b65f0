"""Access keys that work and keys that do not, as they were made, disabled and deleted."""

import pytest

from pinfold.accounts.records import State
from pinfold.sim.checkers.access import check
from pinfold.sim.checkers.history import History, KeyChange, KeyUse

STALE_S = 2.0


THERE = KeyChange(key="user u", state="active", began=-2, ended=-1, known=True)
"""Whose key it is."""


def made(state: State, began: float, *, key: str = "k", known: bool = True) -> KeyChange:
    return KeyChange(key=key, state=state, began=began, ended=began + 1, known=known)


def user(state: State, began: float, *, known: bool = True) -> KeyChange:
    return made(state, began, key="user u", known=known)


def used(began: float, *, worked: bool) -> KeyUse:
    return KeyUse(key="k", user="user u", worked=worked, began=began, ended=began + 1)


REFUSED = {
    "key that nobody made": ((), used(0, worked=True)),
    "key that works long after it was disabled": (
        (made("active", 0), made("disabled", 5)),
        used(8.5, worked=True),
    ),
    "key that works long after it was deleted": (
        (made("active", 0), made("deleted", 5)),
        used(8.5, worked=True),
    ),
    "key that does not work though it was never disabled": (
        (made("active", 0),),
        used(3.5, worked=False),
    ),
    "key that does not work again": (
        (made("active", 0), made("disabled", 5), made("active", 10)),
        used(13.5, worked=False),
    ),
    "key that works long after its user was disabled": (
        (made("active", 0), user("disabled", 5)),
        used(8.5, worked=True),
    ),
    "key made for a user disabled long before": (
        (user("disabled", 0), made("active", 5)),
        used(6.5, worked=True),
    ),
    "disabled key that works when its user is enabled": (
        (made("active", 0), made("disabled", 2), user("disabled", 3), user("active", 10)),
        used(11.5, worked=True),
    ),
    "key enabled long after its user was disabled": (
        (made("active", 0), made("disabled", 2), user("disabled", 4), made("active", 8)),
        used(9.5, worked=True),
    ),
    "key that does not work though its user was enabled long before": (
        (made("active", 0), user("disabled", 2), user("active", 4)),
        used(7.5, worked=False),
    ),
    "key made again": ((made("active", 0), made("deleted", 5), made("active", 10)), None),
}

ACCEPTED = {
    "key that works a little longer": (
        (made("active", 0), made("disabled", 5)),
        used(7.5, worked=True),
    ),
    "key made for a user disabled a moment before": (
        (user("disabled", 4), made("active", 5.5)),
        used(6.8, worked=True),
    ),
    "key enabled right after its user was disabled": (
        (made("active", 0), made("disabled", 2), user("disabled", 8), made("active", 9.2)),
        used(10.3, worked=True),
    ),
    "key whose user may have been disabled": (
        (made("active", 0), user("disabled", 2, known=False), user("active", 4)),
        used(9, worked=False),
    ),
    "key that does not work yet": ((made("active", 0),), used(2.5, worked=False)),
    "key that may have been disabled": (
        (made("active", 0), made("disabled", 5, known=False)),
        used(20, worked=False),
    ),
    "key that may not have been disabled": (
        (made("active", 0), made("disabled", 5, known=False)),
        used(20, worked=True),
    ),
    "key that may have been made again before it was deleted": (
        (made("active", 0), made("active", 4, known=False), made("deleted", 5)),
        None,
    ),
}


def findings(story: tuple[tuple[KeyChange, ...], KeyUse | None]) -> bool:
    changes, use = story
    history = History(key_changes=(THERE, *changes), key_uses=() if use is None else (use,))
    return bool(check(history, stale_s=STALE_S))


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str) -> None:
    assert findings(REFUSED[name])


@pytest.mark.parametrize("name", ACCEPTED)
def test_is_accepted(name: str) -> None:
    assert not findings(ACCEPTED[name])
