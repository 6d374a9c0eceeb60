"""The constants of an installed module, read from its source, because importing it would import PyTorch (3 s).

The source is that of the installed version, so values are never out of date. A value that is not built from literals,
other constants and collections is left out, and the caller imports the module instead.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.forking import ForkSafeLock

__all__ = ["constants", "import_target", "module_file", "parsed", "value_of"]

_COLLECTIONS: Final = {
    "OrderedDict": dict,
    "dict": dict,
    "frozenset": frozenset,
    "list": list,
    "set": set,
    "tuple": tuple,
}
_LAZY_MAPPING: Final = "_LazyAutoMapping"  # transformers: model types to configs, and to classes.
_HAS_TORCH: Final = "is_torch_available"
_IS_AVAILABLE: Final = re.compile(r"is_(\w+)_available")  # transformers' checks for packages.
_IS_VERSION: Final = re.compile(r"is_(\w+)_version")  # Optimum's checks, with an operator and a version.

# CPython 3.11 counts the depth of the syntax trees of all threads together, and raises SystemError on a difference:
# https://github.com/python/cpython/issues/106905
_PARSING: Final = ForkSafeLock()


class _NotConstantError(Exception):
    """Only running the module can produce the value."""


@dataclass(frozen=True)
class _Imported:
    """A constant of another module, read on first use: most are not needed, and some are long."""

    file: Path
    name: str

    def value(self) -> Any:
        try:
            value = _collected(self.file)[self.name]
        except (KeyError, OSError, SyntaxError, ValueError) as error:
            raise _NotConstantError from error
        return value.value() if isinstance(value, _Imported) else value


def module_file(name: str) -> Path | None:
    """Return the source file of an installed module, without importing it; None without one."""
    top, *others = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(location, *others)
        for file in (path.with_suffix(".py") if others else path / "__init__.py", path / "__init__.py"):
            if file.is_file():
                return file
    return None


@functools.lru_cache(maxsize=32)
def parsed(file: Path) -> ast.Module:
    """Return a source file's syntax tree.

    Raises:
        OSError, SyntaxError, ValueError: It cannot be read.
    """
    source = file.read_bytes()
    with _PARSING.held():
        return ast.parse(source)


@functools.lru_cache(maxsize=32)
def constants(file: Path) -> Mapping[str, Any]:
    """Return the constants in a source file by name; those of a class are a mapping.

    Raises:
        OSError, SyntaxError, ValueError: It cannot be read.
    """
    return {name: value for name, value in _collected(file).items() if not isinstance(value, _Imported)}


@functools.lru_cache(maxsize=32)
def _collected(file: Path) -> Mapping[str, Any]:
    """Return the constants of a source file, including those that it imports."""
    found: dict[str, Any] = {}
    _collect(parsed(file).body, found, {}, file)
    return found


def import_target(node: ast.ImportFrom, file: Path) -> Path | None:
    """Return the source file of a relative import; None for another import, or if the file is missing."""
    if not node.level:
        return None
    folder = file.parents[node.level - 1]
    path = folder.joinpath(*(node.module or "").split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def value_of(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """Return the value of an expression; None if only running it can produce the value."""
    try:
        return _value(node, names)
    except _NotConstantError:
        return None


def _collect(body: Iterable[ast.stmt], found: dict[str, Any], outer: Mapping[str, Any], file: Path) -> None:
    """Add the constants that statements define, in order, as Python does."""
    for node in body:
        names = {**outer, **found} if outer else found
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            _add(node.targets[0].id, node.value, found, names)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            _add(node.target.id, node.value, found, names)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            _update(node.value, found, names)
        elif isinstance(node, ast.ImportFrom) and (target := import_target(node, file)) is not None:
            wanted = [alias for alias in node.names if alias.name.isupper()]
            found.update({alias.asname or alias.name: _Imported(target, alias.name) for alias in wanted})
        elif isinstance(node, ast.ClassDef):
            members: dict[str, Any] = {}
            for base in reversed(node.bases):
                if isinstance(base, ast.Name) and isinstance(inherited := names.get(base.id), dict):
                    members.update(inherited)
            _collect(node.body, members, names, file)
            found[node.name] = members
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            _collect(node.orelse, found, outer, file)
        elif isinstance(node, ast.If) and _asks_for_torch(node.test) and importlib.util.find_spec("torch") is not None:
            _collect(node.body, found, outer, file)


def _add(name: str, node: ast.expr, found: dict[str, Any], names: Mapping[str, Any]) -> None:
    try:
        found[name] = _value(node, names)
    except _NotConstantError:
        if not _decorates(node, name):
            found.pop(name, None)


def _decorates(node: ast.expr, name: str) -> bool:
    """Whether a call only decorates the class that it is applied to, so the class keeps its members."""
    return isinstance(node, ast.Call) and any(isinstance(each, ast.Name) and each.id == name for each in node.args)


def _update(call: ast.Call, found: dict[str, Any], names: Mapping[str, Any]) -> None:
    function = call.func
    if not (
        isinstance(function, ast.Attribute) and function.attr == "update" and isinstance(function.value, ast.Name)
    ):
        return
    if function.value.id in found:
        try:
            found[function.value.id] = _value(function.value, names) | dict(_value(call.args[0], names))
        except (_NotConstantError, IndexError, TypeError, ValueError):
            del found[function.value.id]  # A part of it is unknown.


def _asks_for_torch(test: ast.expr) -> bool:
    return isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == _HAS_TORCH


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id in names:
        value = names[node.id]
        return value.value() if isinstance(value, _Imported) else value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        items = [item for element in node.elts for item in _items(element, names)]
        return tuple(items) if isinstance(node, ast.Tuple) else set(items) if isinstance(node, ast.Set) else items
    if isinstance(node, ast.Dict):
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            result.update(_value(value, names) if key is None else {_value(key, names): _value(value, names)})
        return result
    if isinstance(node, ast.Call):
        return _made(node, names)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _holds(node.test) else node.orelse, names)
    raise _NotConstantError


def _holds(test: ast.expr) -> bool:
    """Whether a condition on packages or their versions is true: `is_tokenizers_available() and not …`."""
    if isinstance(test, ast.BoolOp):
        return (all if isinstance(test.op, ast.And) else any)([_holds(value) for value in test.values])
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return not _holds(test.operand)
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and not test.keywords:
        given = [argument.value for argument in test.args if isinstance(argument, ast.Constant)]
        if not test.args and (match := _IS_AVAILABLE.fullmatch(test.func.id)) is not None:
            return importlib.util.find_spec(match[1]) is not None
        if len(given) == 2 and (match := _IS_VERSION.fullmatch(test.func.id)) is not None:
            return _is_version(match[1], *map(str, given))
    raise _NotConstantError


def _is_version(package: str, operation: str, reference: str) -> bool:
    """Compare an installed version as Optimum does: by its release number only."""
    import importlib.metadata

    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        installed = Version(Version(importlib.metadata.version(package)).base_version)
        return SpecifierSet(f"{operation}{reference}").contains(installed)
    except (importlib.metadata.PackageNotFoundError, InvalidSpecifier, InvalidVersion):
        raise _NotConstantError from None


def _items(element: ast.expr, names: Mapping[str, Any]) -> Iterable[Any]:
    if not isinstance(element, ast.Starred):
        return (_value(element, names),)
    items: Iterable[Any] = _value(element.value, names)
    return items


def _made(call: ast.Call, names: Mapping[str, Any]) -> Any:
    """Return the collection that a call creates."""
    function = call.func.value if isinstance(call.func, ast.Subscript) else call.func
    name = function.id if isinstance(function, ast.Name) else ""
    if name == _LAZY_MAPPING and len(call.args) == 2:
        return _value(call.args[1], names)
    if isinstance(function, ast.Attribute) and function.attr == "items" and not call.args:
        mapping = _value(function.value, names)
        if isinstance(mapping, dict):
            return [*mapping.items()]
    if name not in _COLLECTIONS:
        raise _NotConstantError
    made = _COLLECTIONS[name](*(_value(argument, names) for argument in call.args))
    for keyword in call.keywords:
        value = _value(keyword.value, names)
        made.update(value if keyword.arg is None else {keyword.arg: value})
    return made
