"""Names of a graph's axes.

Optimum evaluates the names of output axes as Python when it binds inputs and outputs (CUDA).
"""

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
# Exporters write these functions of symbolic shapes.
_FUNCTIONS: Final = frozenset({"abs", "ceil", "ceildiv", "ceiling", "floor", "floordiv", "max", "min", "mod", "trunc"})


def refuse_code_in_axes(shapes: Mapping[str, Sequence[object] | None], path: Path | str) -> None:
    """Reject a graph whose axes have names that would run code.

    Args:
        shapes: The shape of each output, by its name.
        path: The file, for the message.

    Raises:
        InvalidOnnxFileError: An axis has such a name.
    """
    for output, shape in shapes.items():
        for name in shape or ():
            if isinstance(name, str) and not _is_harmless(name):
                raise InvalidOnnxFileError(
                    f"{path} is rejected: an axis of its output {output} is named {name!r}, which Optimum would run "
                    "as Python. Use another file."
                )


def _is_harmless(name: str) -> bool:
    """Whether the evaluation of a name calls arithmetic only, even if some of its words are replaced by numbers."""
    if "**" in name or "<<" in name:  # A short name can be a number of any size.
        return False
    if "(" not in name:  # Nothing can be called.
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
