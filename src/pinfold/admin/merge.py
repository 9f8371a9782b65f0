"""Join the Prometheus texts of many processes into one, each sample labelled with its node.

Pure. The text format wants all samples of a metric together under one HELP and TYPE, whichever
process they came from; a process that reports the same metric with another type loses to the first.
"""

import re
from collections.abc import Mapping
from typing import Final

_SAMPLE: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*({.*})? ")
"""A name, labels, a value. What else a process says is left out: it may be broken."""


def merge(texts: Mapping[str, str]) -> str:
    """One exposition out of {node: exposition}; node order is kept within a metric."""
    families: dict[str, _Family] = {}
    for node, text in texts.items():
        _take(families, f'node="{_escape(node)}"', text)
    lines = [line for family in families.values() for line in family.lines()]
    return "".join(f"{line}\n" for line in lines)


class _Family:
    """The samples of one metric and its comments."""

    __slots__ = ("comments", "samples")

    def __init__(self) -> None:
        self.comments: dict[str, str] = {}
        self.samples: list[str] = []

    def lines(self) -> list[str]:
        return [*self.comments.values(), *self.samples]


def _take(families: dict[str, _Family], label: str, text: str) -> None:
    current = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            _, kind, current, *_rest = line.split(" ", 3)
            families.setdefault(current, _Family()).comments.setdefault(kind, line)
        elif _SAMPLE.match(line):
            name = line[: _name_end(line)]
            # _total, _bucket, _sum, _count, _created samples stand below their family's comments
            family = current if current and name.startswith(current) else name
            families.setdefault(family, _Family()).samples.append(_labelled(line, label))


def _labelled(line: str, label: str) -> str:
    end = _name_end(line)
    if line[end] == "{":
        comma = "" if line[end + 1] == "}" else ","
        return f"{line[:end]}{{{label}{comma}{line[end + 1 :]}"
    return f"{line[:end]}{{{label}}}{line[end:]}"


def _name_end(line: str) -> int:
    """Where a sample's metric name ends: at its labels or its value."""
    brace, space = line.find("{"), line.find(" ")
    return brace if 0 < brace < space else space


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
