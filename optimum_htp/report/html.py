"""The report as one HTML page that opens from disk: an icicle of the modules, search, and the provenance on top.

The plot is plotly's, with its script in the page, so no request leaves it. What comes from the file is put in as text
or as JSON, never as markup.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from string import Template
from typing import Any, Final

from optimum_htp.errors import ReportError
from optimum_htp.report.markdown import provenance
from optimum_htp.report.outline import inner_name, is_mixed, weights_text
from optimum_htp.report.texts import json_text, printable

__all__ = ["as_html"]

_MEASURES: Final = {"parameters": "Parameters", "bytes": "Bytes", "nodes": "Nodes"}
_TIME: Final = {"microseconds": "Time (µs)"}
_ROOT_ID: Final = "(model)"

_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1200px; padding: 0 1rem; color: #1f2430; }
h1 { font-size: 1.4rem; margin: 0 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0 0 1rem; }
dt { color: #667; } dd { margin: 0; overflow-wrap: anywhere; }
.controls { display: flex; gap: .75rem; flex-wrap: wrap; align-items: center; }
.controls input, .controls select, .controls button { font: inherit; padding: .25rem .5rem; }
.plot { height: 620px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid #e4e6eb; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
tr.hidden { display: none; } tbody tr { cursor: pointer; } tbody tr:hover { background: #f2f5fb; }
section + section { margin-top: 3rem; }
</style>
<script>$plotly</script>
</head>
<body>
$sections
<script id="report" type="application/json">$data</script>
<script>
"use strict";
const files = JSON.parse(document.getElementById("report").textContent);
for (const [index, file] of files.entries()) {
  const section = document.getElementById("file-" + index);
  const plot = section.querySelector(".plot"), search = section.querySelector(".search");
  const measure = section.querySelector(".measure"), shape = section.querySelector(".shape");
  const found = section.querySelector(".found"), body = section.querySelector("tbody");
  const draw = (level) => Plotly.react(plot, [{
    type: shape.value, ids: file.ids, labels: file.labels, parents: file.parents, values: file[measure.value],
    marker: file.colors ? { colors: file.colors, colorscale: "YlOrRd", cmin: -7, cmax: 0, showscale: true,
      colorbar: { title: { text: "difference, 10^" } } } : {},
    branchvalues: "total", sort: false, level: level || "$root", customdata: file.hover, maxdepth: shape.value === "treemap" ? 4 : 8,
    hovertemplate: "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{value:,} (%{percentRoot})<extra></extra>",
    tiling: shape.value === "icicle" ? { orientation: "v" } : {}
  }], { margin: { l: 0, r: 0, t: 24, b: 0 } }, { responsive: true, displaylogo: false });
  const zoom = (id) => { plot.dataset.level = id; draw(id); };
  for (const [at, id] of file.ids.entries()) {
    const row = body.insertRow();
    row.dataset.id = id;
    for (const text of [file.names[at], file.classes[at], ...file.cells[at]]) row.insertCell().textContent = text;
    row.addEventListener("click", () => zoom(id));
  }
  const filter = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let count = 0, first = null;
    for (const [at, row] of [...body.rows].entries()) {
      const text = (file.names[at] + " " + file.classes[at]).toLowerCase();
      const match = words.every((word) => text.includes(word));
      row.classList.toggle("hidden", !match);
      if (match) { count += 1; first ??= file.ids[at]; }
    }
    found.textContent = words.length ? count + " of " + file.ids.length + " modules" : "";
    return words.length ? first : null;
  };
  search.addEventListener("input", filter);
  search.addEventListener("keydown", (event) => {
    const first = event.key === "Enter" ? filter() : null;
    if (first !== null) zoom(first);
  });
  section.querySelector(".reset").addEventListener("click", () => { search.value = ""; filter(); zoom("$root"); });
  measure.addEventListener("change", () => draw(plot.dataset.level));
  shape.addEventListener("change", () => draw(plot.dataset.level));
  draw("$root");
  plot.on("plotly_" + "icicleclick", (event) => { plot.dataset.level = event.nextLevel || "$root"; });
  plot.on("plotly_" + "treemapclick", (event) => { plot.dataset.level = event.nextLevel || "$root"; });
}
</script>
</body>
</html>
""")  # noqa: E501

_SECTION: Final = Template("""<section id="file-$index">
<h1>$file</h1>
<dl>$facts</dl>
<div class="controls">
<label>Size by <select class="measure">$measures</select></label>
<label>as <select class="shape"><option value="icicle">icicle</option><option value="treemap">treemap</option></select></label>
<input class="search" type="search" placeholder="Find a module or class (Enter zooms)" size="36">
<button class="reset" type="button">Whole model</button> <span class="found" role="status"></span>
</div>
<div class="plot"></div>
<table><thead><tr>$headings</tr></thead><tbody></tbody></table>
</section>""")  # noqa: E501


def as_html(document: dict[str, Any]) -> str:
    """Return the report as a self-contained HTML page.

    Raises:
        ReportError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise ReportError(
            "HTML reports are drawn with plotly: run `pip install plotly`, or write .md or .json."
        ) from error
    files = document["files"]
    data = json_text([_data(file) for file in files]).replace("<", "\\u003c")
    return _PAGE.substitute(
        title=_text(", ".join(file["file"] for file in files)),
        plotly=get_plotlyjs(),
        sections="\n".join(_section(index, file) for index, file in enumerate(files)),
        data=data,
        root=_ROOT_ID,
    )


def _measures(file: dict[str, Any]) -> dict[str, str]:
    return {**_TIME, **_MEASURES} if file["timed"] else dict(_MEASURES)


def _formats(file: dict[str, Any]) -> tuple[str, ...]:
    """Return the headings for how weights are kept; none where all are float32."""
    return ("Weights", "Bytes saved") if any(is_mixed(module["weights"]) for module in file["modules"]) else ()


def _section(index: int, file: dict[str, Any]) -> str:
    facts = {**provenance(file), "graph": f"{file['model']['nodes']} nodes"}
    if file["coverage"]:
        facts["tags"] = ", ".join(f"{rule} {count}" for rule, count in file["coverage"].items())
    if "compared" in file:
        facts["compared with"] = file["compared"]["with"]
        facts["found"] = "; ".join(file["compared"]["verdict"])
    measures = _measures(file)
    return _SECTION.substitute(
        index=index,
        file=_text(file["file"]),
        facts="".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts.items()),
        measures="".join(f'<option value="{key}">{label}</option>' for key, label in measures.items()),
        headings="".join(f"<th>{label}</th>" for label in _headings(file)),
    )


def _headings(file: dict[str, Any]) -> tuple[str, ...]:
    compared = ("Difference",) if "compared" in file else ()
    return ("Module", "Class", *_measures(file).values(), *_formats(file), *compared)


def _differences(modules: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the colours of modules that were compared: the power of ten of their difference."""
    return {
        "colors": [math.log10(min(max(module["difference"] or 0.0, 1e-7), 1.0)) for module in modules],
        "differences": ["" if module["difference"] is None else f"{module['difference']:.3g}" for module in modules],
    }


def _text(text: str) -> str:
    return html.escape(printable(text))


def _label(text: str) -> str:
    """Return a text for plotly, which obeys links and other tags in labels, and knows the entities of `<>&` alone."""
    return html.escape(printable(text), quote=False)


def _data(file: dict[str, Any]) -> dict[str, Any]:
    """Return what the page's script reads: the modules as plotly's parallel lists."""
    modules = file["modules"]
    holder = {child: module["name"] for module in modules for child in module["children"]}
    measures = _measures(file)
    compared = _differences(modules) if "compared" in file else {}
    names = [printable(module["name"]) or _ROOT_ID for module in modules]
    classes = [printable(module["class_name"]) for module in modules]
    return {
        "ids": [module["name"] or _ROOT_ID for module in modules],
        "names": names,
        "labels": [
            _label(inner_name(module["name"], holder.get(module["name"], "")) or _ROOT_ID) for module in modules
        ],
        "parents": ["" if not module["name"] else holder.get(module["name"], "") or _ROOT_ID for module in modules],
        "classes": classes,
        "hover": [[_label(name), _label(kind)] for name, kind in zip(names, classes, strict=True)],
        "cells": [
            [
                *(f"{module[key]:,.0f}" for key in measures),
                *([weights_text(module["weights"]), f"{module['saved_bytes']:,.0f}"] if _formats(file) else ()),
                *([difference] if compared else ()),
            ]
            for module, difference in zip(modules, compared.get("differences", names), strict=True)
        ],
        **compared,
        **{key: [module[key] for module in modules] for key in measures},
    }
