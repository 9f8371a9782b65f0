"""The source itself: sizes, docstrings, leftovers. What ruff cannot say or says less clearly."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "ring").rglob("*.py")])
EVERYTHING = sorted([*PRODUCT, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")])
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

FUNCTION_LINES_MAX = 70
"""More does not fit on a screen."""

MODULE_LINES_MAX = 500
"""More has more than one purpose."""

FORBIDDEN_MODULE_NAMES = frozenset({"util", "utils", "helper", "helpers", "common", "manager"})
"""Names that say nothing, so that anything ends up there."""

LEFTOVER = re.compile(r"\b(FIXME|XXX|HACK|TODO)\b")
"""Work that was put off belongs into the tracker."""

BANNER = re.compile(r"^\s*#\s*([-=#*~_])\1{3,}", re.MULTILINE)
"""A module that needs banners wants to be two modules."""

FOREIGN_PATH = re.compile(r"/(work|home|root|Users)/\w")
"""Paths of somebody's machine."""

CONFLICT = re.compile(r"^(<{7}|>{7})", re.MULTILINE)
"""Two sides of a merge that nobody decided between."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, Function):
            yield node


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_modules_and_functions_are_small(path: Path) -> None:
    content = path.read_text()
    assert len(content.splitlines()) <= MODULE_LINES_MAX
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in functions(ast.parse(content))
        if node.end_lineno is not None and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long


@pytest.mark.parametrize("path", PRODUCT, ids=name_of)
def test_modules_say_what_they_are_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), "the module has no docstring"


@pytest.mark.parametrize("path", [*EVERYTHING, *DOCUMENTS], ids=name_of)
def test_nothing_was_put_off_and_nothing_names_a_machine(path: Path) -> None:
    if path == Path(__file__):
        return
    content = path.read_text()
    assert not LEFTOVER.findall(content)
    assert not FOREIGN_PATH.findall(content)
    assert not CONFLICT.findall(content)
    if path.suffix == ".py":
        assert not BANNER.findall(content)


def test_no_module_has_a_name_that_says_nothing() -> None:
    parts = {part for path in PRODUCT for part in path.relative_to(ROOT).with_suffix("").parts}
    assert not parts & FORBIDDEN_MODULE_NAMES


def test_product_code_knows_neither_the_simulator_nor_the_tests() -> None:
    simulator = ROOT / "src" / "pinfold" / "sim"
    command = ROOT / "src" / "pinfold" / "cli" / "sim.py"
    guilty = [
        name_of(path)
        for path in PRODUCT
        if simulator not in path.parents
        and path != command
        and re.search(r"^\s*(from|import) (pinfold\.sim|tests)\b", path.read_text(), re.MULTILINE)
    ]
    assert not guilty


def test_links_in_documents_lead_somewhere() -> None:
    broken = [
        f"{name_of(document)}: {target}"
        for document in DOCUMENTS
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
        if "://" not in target and not (document.parent / target).exists()
    ]
    assert not broken
