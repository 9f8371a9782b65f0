"""Ways to break a valid input: of bytes, and of values that become msgpack or JSON."""

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

_LIES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
         0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
"""What a length or an offset should not be."""

_LONGEST = 256 << 10
"""Repeats of repeats would fill the memory with the input alone."""

_FIELDS = ("B", ">H", "<H", ">I", "<I", ">Q", "<Q")

WEIRD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1,
    1 << 31,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
    1.5,
    float("nan"),
    float("inf"),
    "",
    "\x00",
    "é\U0001f980",
    b"",
    b"\x00",
    b"\xff" * 40,
    [],
    [[]],
    [None] * 20,
    {},
    {"a": 1},
)
"""Values that are not what a field wants."""

_Step = tuple[int, int, int, int]


def mutated(
    seeds: Sequence[bytes], tokens: Sequence[bytes] = (), most: int = 6
) -> SearchStrategy[bytes]:
    """A valid input with up to `most` changes, each a flip, cut, splice, repeat, lie or insert."""
    steps = st.lists(
        st.tuples(
            st.integers(0, 7),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFF),
        ),
        max_size=most,
    )

    def change(chosen: bytes, program: list[_Step]) -> bytes:
        for step in program:
            chosen = _changed(chosen, step, seeds, tokens)[:_LONGEST]
        return chosen

    return st.builds(change, st.sampled_from(list(seeds)), steps)


def _changed(data: bytes, step: _Step, seeds: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    kind, place, size, value = step
    at = place % (len(data) + 1)
    # Most ranges are short; one in four reaches as far as it likes.
    span = size % (len(data) + 1) if size & 3 == 0 else size % 16
    end = min(len(data), at + span)
    if kind == 0:
        return (
            data[:at]
            + bytes(byte ^ (1 << value % 8) for byte in data[at : at + 1])
            + data[at + 1 :]
        )
    if kind == 1:
        return data[:at] + data[end:]
    if kind == 2:
        other = seeds[value % len(seeds)]
        start = size % (len(other) + 1)
        return data[:at] + other[start : start + 1 + value % 64]
    if kind == 3:
        return data[:end] + data[at:end] * (1 + value % 3) + data[end:]
    if kind == 4:
        lie = struct.pack(
            form := _FIELDS[value % len(_FIELDS)],
            _LIES[size % len(_LIES)] & ((1 << 8 * struct.calcsize(form)) - 1),
        )
        return data[:at] + lie + data[at + len(lie) :]
    if kind == 5:
        token = tokens[value % len(tokens)] if tokens else value.to_bytes(2, "big")
        return data[:at] + token + data[at:]
    if kind == 6:
        return data[:at]
    return data[:at] + bytes((value & 0xFF,)) * (end - at) + data[end:]


def raw_or(strategy: SearchStrategy[bytes], most: int = 300) -> SearchStrategy[bytes]:
    """One input in five is any bytes at all."""
    return st.one_of(st.binary(max_size=most), *([strategy] * 4))


def twisted(valid: Any, most: int = 3) -> SearchStrategy[Any]:
    """A value of lists, mappings and scalars with up to `most` parts of it replaced or moved."""
    steps = st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 0xFFFF), st.integers(0, len(WEIRD) - 1)),
        min_size=1,
        max_size=most,
    )

    def twist(program: list[tuple[int, int, int]]) -> Any:
        value = valid
        for kind, place, weird in program:
            where = place % max(1, _count(value))
            value = _replaced(value, [where], partial(_twists, kind, WEIRD[weird]))
        return value

    return steps.map(twist)


def _count(value: Any) -> int:
    if isinstance(value, list | tuple):
        return 1 + sum(map(_count, value))
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1


def _replaced(value: Any, left: list[int], change: Callable[[Any], Any]) -> Any:
    """The value with its n-th node, counted from the root, changed."""
    if left[0] == 0:
        left[0] = -1
        return change(value)
    left[0] -= 1
    if isinstance(value, list | tuple):
        return [_replaced(one, left, change) if left[0] >= 0 else one for one in value]
    if isinstance(value, dict):
        return {
            key: _replaced(one, left, change) if left[0] >= 0 else one for key, one in value.items()
        }
    return value


def _twists(kind: int, weird: Any, old: Any) -> Any:
    if kind == 1 and isinstance(old, list | tuple):
        return list(old)[:-1]
    if kind == 2 and isinstance(old, list | tuple):
        return [*old, weird]
    if kind == 3:
        return [old, old]
    if kind == 4 and isinstance(old, int) and not isinstance(old, bool):
        return max(-(1 << 63), min((1 << 64) - 1, -old - 1))
    return weird
