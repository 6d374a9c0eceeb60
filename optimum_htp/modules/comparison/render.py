"""A comparison for users: the module tree as text lines, as Markdown, and as the report's HTML page with colours."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.hierarchy.tree import ROOT, ancestors
from optimum_htp.modules.comparison.records import Comparison, ModuleComparison
from optimum_htp.report.document import report_document
from optimum_htp.report.html import as_html
from optimum_htp.report.markdown import as_cell
from optimum_htp.report.outline import aligned
from optimum_htp.report.texts import json_text, printable
from optimum_htp.report.write import check_report_path, write_text

__all__ = ["lines", "verdict", "write_comparison"]

_SHOWN: Final = 8  # Items of a list in a sentence.
_FIRST: Final = "first beyond the tolerance"
_MOST: Final = "adds most to the difference"
_HEAD: Final = ("module", "max abs", "max rel", "cosine", "")


def verdict(comparison: Comparison) -> Iterator[str]:
    """Yield the results of a comparison as sentences."""
    first, most = comparison.first, comparison.most
    worst = max((value.distance.absolute for module in comparison.modules for value in module.values), default=0.0)
    if not comparison.exceeds:
        yield (
            f"{comparison.compared} values compared, none beyond atol {comparison.atol:g} + rtol {comparison.rtol:g} "
            f"(largest difference {worst:.3g})"
        )
    if problems := [f"{name} {problem}" for name, problem in comparison.problems.items()]:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        yield f"not comparable: {', '.join(problems[:_SHOWN])}{more}"
    if first is not None:
        yield f"{_FIRST}: {_named(first)}"
    if most is not None:
        yield f"{_MOST}: {_named(most)}"
    kinds = Counter(weight.kind for module in comparison.modules for weight in module.weights)
    yield "weights: " + (", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "none compared")
    if changed := [module.name for module in comparison.modules if module.operators]:
        yield f"other operators in: {', '.join(name or '(model)' for name in changed[:_SHOWN])}" + (
            f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        )


def lines(comparison: Comparison, *, every: bool = False) -> Iterator[str]:
    """Yield the table of modules, in order of execution.

    With `every`, modules without a difference are included.
    """
    rows = [_HEAD, *(_row(module) for module in comparison.modules if every or _is_shown(module, comparison))]
    if len(rows) > 1:
        yield from aligned(rows)


def write_comparison(comparison: Comparison, path: str | os.PathLike[str], *, force: bool = False) -> Path:
    """Write a comparison as `.html`, `.md` or `.json`, by the end of the name; return its path.

    With `force`, a file of another kind is replaced.

    Raises:
        ReportError: The name has another ending.
        ProtectedFileError: A comparison must not replace the existing file.
        OnnxWriteError: The file cannot be written. An existing file is unchanged.
    """
    written: dict[str, Callable[[], str]] = {
        ".json": lambda: json_text(comparison.as_dict(), indent=2) + "\n",
        ".md": lambda: _markdown(comparison),
        ".html": lambda: as_html(_document(comparison)),
    }
    inputs = (comparison.one, comparison.other)
    path = check_report_path(path, inputs, force=force)
    return write_text(written[path.suffix.lower()](), path, inputs, force=force)


def _is_shown(module: ModuleComparison, comparison: Comparison) -> bool:
    """Whether to show a module: a value exceeds the tolerances, or operators or weights differ."""
    return module.exceeds or bool(module.operators) or any(_is_noted(weight.kind) for weight in module.weights)


def _is_noted(kind: str) -> bool:
    return kind not in ("equal", "transposed", "folded")


def _row(module: ModuleComparison) -> tuple[str, ...]:
    worst = module.worst
    level = len([ancestor for ancestor in ancestors(module.name) if ancestor != ROOT])
    label = printable(f"{'  ' * level}{module.name or '(model)'} {module.class_name}".rstrip())
    figures = (
        ("", "", "") if worst is None else (f"{worst.absolute:.3g}", f"{worst.relative:.3g}", f"{worst.cosine:.6f}")
    )
    return (label, *figures, printable("; ".join(_notes(module))))


def _notes(module: ModuleComparison) -> Iterator[str]:
    known = [value.distance for value in module.values if value.problem is None]
    if count := sum(distance.exceeded for distance in known):
        yield f"{count} of {sum(distance.elements for distance in known)} beyond"
    for value in module.values:
        if value.problem is not None:
            yield f"{value.name} {value.problem}"
    for weight in module.weights:
        if weight.kind == "missing":
            yield f"{weight.name} missing"
        elif _is_noted(weight.kind):
            yield f"{weight.name} {weight.kind}, by at most {weight.difference:.3g}"
    if module.operators:
        pairs = (f"{name} {ours} → {theirs}" for name, (ours, theirs) in module.operators.items())
        yield f"operators {', '.join(pairs)}"
    if folded := [value.folded for value in module.values if value.folded is not None]:
        yield f"with {folded[0]} folded in"


def _named(module: ModuleComparison) -> str:
    worst = module.worst
    name = f"{module.name or '(model)'} {module.class_name}".rstrip()
    return name if worst is None else f"{name} (max abs {worst.absolute:.3g}, cosine {worst.cosine:.6f})"


def _markdown(comparison: Comparison) -> str:
    def cells(row: Sequence[str]) -> str:
        return "| " + " | ".join(as_cell(cell.strip()) for cell in row) + " |"

    rows = [cells(_row(module)) for module in comparison.modules]
    head = [cells(("module", "max abs", "max rel", "cosine", "notes")), "| --- | ---: | ---: | ---: | --- |"]
    title = f"# {as_cell(comparison.one)} and {as_cell(comparison.other)}"
    sentences = [f"- {as_cell(sentence)}" for sentence in verdict(comparison)]
    return "\n".join([title, "", *sentences, "", *head, *rows, ""])


def _document(comparison: Comparison) -> dict[str, Any]:
    """Return the report of the first file, with the difference of each module."""
    document = report_document([comparison.one])
    known = {module.name: module for module in comparison.modules}
    for module in document["files"][0]["modules"]:
        found = known.get(module["name"])
        module["max_abs"] = found.worst.absolute if found is not None and found.worst is not None else None
        module["exceeds"] = found is not None and found.exceeds
    document["files"][0]["compared"] = {
        "with": comparison.other,
        "verdict": list(verdict(comparison)),
        "notes": _remarkable(comparison),
    }
    return document


def _remarkable(comparison: Comparison) -> dict[str, str]:
    """Return the modules to look at first, each with the reason."""
    found: dict[str, list[str]] = {}
    for module, reason in ((comparison.first, _FIRST), (comparison.most, _MOST)):
        if module is not None:
            found.setdefault(module.name, []).append(reason)
    return {name: ", ".join(reasons) for name, reasons in found.items()}
