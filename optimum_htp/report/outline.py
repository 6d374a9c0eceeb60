"""The module tree as text, one line per module, like torchinfo."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from optimum_htp.hierarchy.summary import ModuleSummary
from optimum_htp.hierarchy.tree import ROOT
from optimum_htp.report.texts import printable

__all__ = ["aligned", "inner_name", "is_mixed", "outline", "size_text", "weights_text"]

_OPERATORS: Final = 4  # named per module; the others are counted
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def outline(modules: Mapping[str, ModuleSummary], *, depth: int | None = None, times: bool = False) -> Iterator[str]:
    """Yield the lines of a table: module and class, nodes, parameters, size, operators.

    If some weights are not float32, the table also has their data types and the bytes saved. `depth` is the number of
    levels below the root; None shows all. The numbers include all modules inside.
    """
    mixed = is_mixed(modules[ROOT].weights)
    heads = ("module", "nodes", "parameters", "size", *(("weights", "saved") if mixed else ()))
    rows = [(*heads, *(("time",) if times else ()), "operators")]
    total = modules[ROOT].microseconds
    for name, holder, level in _walk(modules, depth):
        one = modules[name]
        label = f"{'  ' * level}{inner_name(name, holder) or '(model)'}"
        kind = f" {one.class_name}" if one.class_name else ""
        time = (f"{one.microseconds / 1e3:.3f} ms {one.microseconds / total if total else 0:6.1%}",) if times else ()
        rows.append(
            (
                printable(label + kind),
                f"{one.nodes:,}",
                f"{one.parameters:,}",
                size_text(one.bytes),
                *((weights_text(one.weights), size_text(one.saved_bytes)) if mixed else ()),
                *time,
                _named(one.operators),
            )
        )
    yield from aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the rows of a table as aligned lines: first and last column left-aligned, others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:], strict=True)]
        yield "  ".join((row[0].ljust(widths[0]), *cells, row[-1])).rstrip()


def is_mixed(weights: Mapping[str, int]) -> bool:
    """Whether any weights, given as bytes by data type, have another data type than float32."""
    return bool(weights.keys() - {"float32"})


def weights_text(weights: Mapping[str, int]) -> str:
    """Return the data types of weights, the one with the most bytes first: `int8, float32`."""
    return ", ".join(sorted(weights, key=lambda kind: -weights[kind]))


def inner_name(name: str, holder: str) -> str:
    """Return a module's name relative to the module around it: `layer.0`."""
    return name[len(holder) + 1 :] if holder else name


def _walk(modules: Mapping[str, ModuleSummary], depth: int | None) -> Iterator[tuple[str, str, int]]:
    """Yield each module with the module around it and its level, depth first."""
    waiting = [(ROOT, ROOT, 0)]
    while waiting:
        name, holder, level = waiting.pop()
        yield name, holder, level
        if depth is None or level < depth:
            waiting += [(child, name, level + 1) for child in reversed(modules[name].children)]


def _named(operators: Counter[str]) -> str:
    common = operators.most_common(_OPERATORS)
    others = sum(operators.values()) - sum(count for _, count in common)
    return ", ".join(
        [*(f"{printable(name)} {count}" for name, count in common), *([f"others {others}"] if others else [])]
    )


def size_text(size: float) -> str:
    """Return a number of bytes with a suitable unit: `86.1 MiB`."""
    for unit in _UNITS:
        if abs(size) < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
