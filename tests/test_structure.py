"""The package is one that a maintainer finds a way through: short files, and no circles of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "optimum_htp"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}
LONGEST = 350  # lines


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when a module is imported."""
    for one in body:
        if isinstance(one, ast.If):
            yield from statements(one.orelse if "TYPE_CHECKING" in ast.unparse(one.test) else one.body)
        elif isinstance(one, ast.Try):
            yield from statements(one.body)
        else:
            yield one


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a module imports when it is imported."""
    found = set()
    for one in statements(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(one, ast.ImportFrom) and one.module is not None:
            named = (f"{one.module}.{alias.name}" for alias in one.names)
            found |= {name if name in MODULES else one.module for name in named}
    return found & MODULES.keys()


def test_no_modules_import_each_other():
    TopologicalSorter({name: imports_of(path) for name, path in MODULES.items()}).prepare()


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_file_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
