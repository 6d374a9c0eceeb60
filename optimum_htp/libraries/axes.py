"""Names of a graph's axes: Optimum evaluates those of outputs as Python where it binds inputs and outputs (CUDA)."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from optimum_htp.errors import InvalidOnnxFileError

__all__ = ["refuse_code_in_axes"]

_ARITHMETIC: Final = (
    ast.Expression,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.Call,
    ast.Name,
    ast.Load,
    ast.Constant,
)
# What exporters write, in any case: the functions of a symbolic shape.
_FUNCTIONS: Final = frozenset({"abs", "ceil", "ceildiv", "ceiling", "floor", "floordiv", "max", "min", "mod", "trunc"})


def refuse_code_in_axes(shapes: Mapping[str, Sequence[object] | None], path: Path | str) -> None:
    """Refuse a graph whose axes have names that would run code.

    Args:
        shapes: The shape of each output, by its name.
        path: Its file, for the message.

    Raises:
        InvalidOnnxFileError: One has.
    """
    for output, shape in shapes.items():
        for name in shape or ():
            if isinstance(name, str) and not _is_harmless(name):
                raise InvalidOnnxFileError(
                    f"{path} is not used: an axis of its output {output} is called {name!r}, which Optimum runs as "
                    "Python. Use another file."
                )


def _is_harmless(name: str) -> bool:
    """Whether evaluating a name calls nothing but arithmetic, whichever of its words are replaced by numbers."""
    if "**" in name or "<<" in name:  # a short name for a number without end
        return False
    if "(" not in name:  # nothing can be called
        return True
    try:
        nodes = list(ast.walk(ast.parse(name, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return all(
        isinstance(node, _ARITHMETIC)
        and not (isinstance(node, ast.Constant) and not isinstance(node.value, (int, float)))
        and not (isinstance(node, ast.Call) and not _is_known(node))
        for node in nodes
    )


def _is_known(call: ast.Call) -> bool:
    return isinstance(call.func, ast.Name) and call.func.id.lower() in _FUNCTIONS and not call.keywords
