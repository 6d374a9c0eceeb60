"""Files of the package and of its tests are short, imports have no cycles, and no module imports a test."""

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
TESTS = [*(ROOT / "tests").rglob("*.py")]
LONGEST = 350  # lines


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the imports at the import of a module: not those in functions, nor for type checkers."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, (ast.Import, ast.ImportFrom)):
            yield one
        elif isinstance(one, ast.If) and "TYPE_CHECKING" in ast.unparse(one.test):
            continue
        elif not isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from imports(one)


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a module imports at its import."""
    found = set()
    for one in imports(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in one.names]
        if isinstance(one, ast.ImportFrom):
            inside = [f"{one.module}.{name}" for name in names]
            names = [name if name in MODULES else str(one.module) for name in inside]
        found |= {*names}
    return found & MODULES.keys()


def test_no_modules_import_each_other():
    TopologicalSorter({name: imports_of(path) for name, path in MODULES.items()}).prepare()


def test_no_file_imports_from_a_test_file():
    found = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in [*TESTS, *(ROOT / "benchmarks").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        if any(part.startswith("test_") for part in name.split("."))
    }
    assert found == set()


@pytest.mark.parametrize("path", [*MODULES.values(), *TESTS], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_message_advises_to_install_an_extra(path):
    """With it, pip would install the transformers 4 that optimum-onnx requires in place of transformers 5."""
    assert "optimum-htp[" not in path.read_text(encoding="utf-8")
