"""The report as Markdown: provenance, coverage, and a table of modules."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from optimum_htp.report.outline import is_mixed, size_text, weights_text
from optimum_htp.report.texts import printable

__all__ = ["MODULE_COLUMNS", "as_cell", "as_markdown", "facts", "has_mixed_weights", "heading", "module_cells", "row"]

_USUAL: Final = re.compile(r"[\w.\-/]+", re.ASCII)
_SIGNS: Final = re.compile(r"[\\`*_\[\]|~@$]|:(?=//)|(?<=www)\.", re.IGNORECASE)

MODULE_COLUMNS: Final = ("module", "class", "nodes", "parameters", "size")
_LEFT: Final = ("module", "class", "weights", "file", "task", "opset")
_SHOWN: Final = {
    "hub_id": "model",
    "hub_sha": "commit",
    "hub_ref": "revision",
    "task": "task",
    "model_class": "class",
    "export_library": "library",
    "license": "license",
    "export_timestamp": "exported",
}


def facts(file: dict[str, Any]) -> dict[str, str]:
    """Return provenance, size, graph and tags of a file as texts, by label."""
    record = file["context"]["record"] or {}
    known = {label: str(record[key]) for key, label in _SHOWN.items() if record.get(key)}
    if embedded := record.get("embedded_files"):
        listed = ", ".join(f"{entry['name']} {size_text(entry['size'])}" for entry in embedded)
        where = f" (in {record['embedded_in']})" if record.get("embedded_in") else ""
        known["embedded"] = f"{listed}{where}"
    known["producer"] = file["context"]["producer"]
    known["opset"] = ", ".join(f"{name or 'ai.onnx'} {number}" for name, number in file["context"]["opsets"].items())
    known["size"] = size_text(file["bytes"] + sum(data["bytes"] for data in file["external_files"]))
    known["graph"] = f"{file['model']['nodes']} nodes, {file['model']['initializers']} initializers"
    if file["coverage"]:
        known["tags"] = ", ".join(f"{rule} {count}" for rule, count in file["coverage"].items())
    return known


def has_mixed_weights(file: dict[str, Any]) -> bool:
    """Whether any weights of a file have another data type than float32."""
    return any(is_mixed(module["weights"]) for module in file["modules"])


def as_markdown(document: dict[str, Any]) -> str:
    """Return the report as a Markdown document."""
    return "\n".join(line for file in document["files"] for line in _lines(file)) + "\n"


def _lines(file: dict[str, Any]) -> Iterator[str]:
    yield f"# {as_cell(file['file'])}"
    yield ""
    for label, value in facts(file).items():
        yield f"- **{label}**: {as_cell(value)}"
    yield ""
    timed = ["time (ms)"] if file["timed"] else []
    mixed = ["weights", "saved"] if has_mixed_weights(file) else []
    yield from heading([*MODULE_COLUMNS, *mixed, *timed])
    for module in file["modules"]:
        cells = module_cells(module)
        if mixed:
            cells += [as_cell(weights_text(module["weights"])), size_text(module["saved_bytes"])]
        if timed:
            cells.append(f"{module['microseconds'] / 1e3:.3f}")
        yield row(cells)
    yield ""


def row(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def heading(columns: Sequence[str]) -> tuple[str, str]:
    """Return the first two lines of a table: the names of its columns, and their alignment."""
    return row(columns), row("---" if column in _LEFT else "---:" for column in columns)


def module_cells(module: Mapping[str, Any]) -> list[str]:
    """Return the cells of `MODULE_COLUMNS`.

    The name is code, or escaped text if it has unusual characters, because code has no escapes.
    """
    name = module["name"]
    return [
        (f"`{name}`" if _USUAL.fullmatch(name) else as_cell(name)) if name else "(model)",
        as_cell(module["class_name"]),
        f"{module['nodes']:,}",
        f"{module['parameters']:,}",
        size_text(module["bytes"]),
    ]


def as_cell(text: Any) -> str:
    """Return a text with all Markdown and HTML escaped: images, links, addresses, mentions, tags."""
    return _SIGNS.sub(r"\\\g<0>", html.escape(printable(str(text)), quote=False))
