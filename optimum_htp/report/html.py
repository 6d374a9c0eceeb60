"""The report as one HTML page that opens from disk: a plot, a tree of the modules, and the provenance.

Page, style and script are in `page/`. The report contains all three, so it makes no request. Texts from the ONNX file
are escaped text or JSON, never markup.

A module with a generic class (`Linear`) gets the kind of the module around it: a projection in an attention module is
`attention`. Without such a module it is `other`.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import Any, Final

from optimum_htp.report.markdown import facts, has_mixed_weights
from optimum_htp.report.outline import inner_name, weights_text
from optimum_htp.report.texts import json_text, printable

__all__ = ["KINDS", "as_html", "kinds_of"]

_MEASURES: Final = {"parameters": "Parameters", "bytes": "Bytes", "nodes": "Nodes"}
_TIME: Final = {"microseconds": "Time (µs)"}


def as_html(document: dict[str, Any]) -> str:
    """Return the report as a self-contained HTML page."""
    files = document["files"]
    page = resources.files(__package__) / "page"

    def part(name: str) -> str:
        return (page / name).read_text(encoding="utf-8")

    section = Template(part("section.html"))
    return Template(part("page.html")).substitute(
        title=_text(", ".join(file["file"] for file in files)),
        style=part("page.css"),
        script=part("page.js"),
        sections="\n".join(
            section.substitute(_section(index, file, alone=len(files) == 1)) for index, file in enumerate(files)
        ),
        data=json_text([_data(file) for file in files]).replace("<", "\\u003c"),
    )


def _measures(file: dict[str, Any]) -> dict[str, str]:
    return {**_TIME, **_MEASURES} if file["timed"] else dict(_MEASURES)


def _section(index: int, file: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    """Return the values of the placeholders in `section.html`."""
    known = facts(file)
    verdict = "".join(f"<li>{_text(line)}</li>" for line in file["compared"]["verdict"]) if "compared" in file else ""
    measures = _measures(file)
    colours = {**({"difference": "max abs"} if "compared" in file else {}), "kind": "kind"}
    colours |= {key: label.lower() for key, label in measures.items()}
    if has_mixed_weights(file):
        colours["bits"] = "bits per parameter"
    headings = [f'<th data-key="{key}">{label}</th>' for key, label in measures.items()]
    headings += (
        ['<th class="minor">Weights</th>', '<th class="minor">Bytes saved</th>'] if has_mixed_weights(file) else []
    )
    headings += ["<th>Max abs</th>"] if "compared" in file else []
    return {
        "index": index,
        "file": _text(file["file"]),
        "heading": "" if alone else f"<h2>{_text(file['file'])}</h2>\n",
        "summary": _text(_summary(file, known)),
        "verdict": f'<ul class="verdict">{verdict}</ul>\n' if verdict else "",
        "modules": "\n".join(_plain(module, measures) for module in file["modules"]),
        "facts": "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in known.items()),
        "measures": _options(measures),
        "colours": _options(colours),
        "headings": "".join(["<th>Module</th>", *headings]),
    }


def _summary(file: dict[str, Any], known: Mapping[str, str]) -> str:
    """Return the line below the heading: `org/model at 0123abcd · BertModel · 86.5 MiB, compared with other.onnx`."""
    model = " at ".join(filter(None, (known.get("model"), known.get("commit", "")[:8])))
    text = " · ".join(filter(None, (model, known.get("class"), known["size"])))
    return f"{text}, compared with {file['compared']['with']}" if "compared" in file else text


def _plain(module: dict[str, Any], measures: Mapping[str, str]) -> str:
    """Return a module as an entry of the list that replaces plot and table without JavaScript."""
    numbers = [f"{module[key]:,.0f} {label.lower()}" for key, label in measures.items()]
    if (difference := module.get("max_abs")) is not None:
        numbers.append(f"max abs {difference:.3g}{', beyond the tolerance' if module['exceeds'] else ''}")
    cells = [module["class_name"], *numbers]
    return f"<li>{_text(module['name'] or '(model)')} <span>{_text(' · '.join(filter(None, cells)))}</span></li>"


def _options(labels: dict[str, str]) -> str:
    return "".join(f'<option value="{key}">{label}</option>' for key, label in labels.items())


def _text(text: str) -> str:
    return html.escape(printable(text))


def _data(file: dict[str, Any]) -> dict[str, Any]:
    """Return the data of the page's script: the modules as parallel lists, outer ones before inner ones."""
    modules = file["modules"]
    places = {module["name"]: at for at, module in enumerate(modules)}
    holders = {child: module["name"] for module in modules for child in module["children"]}
    kinds = kinds_of({module["name"]: module["class_name"] for module in modules}, holders)
    measures = _measures(file)
    return {
        "names": [printable(module["name"]) for module in modules],
        "labels": [printable(inner_name(module["name"], holders.get(module["name"], ""))) for module in modules],
        "classes": [printable(module["class_name"]) for module in modules],
        "kinds": [kinds[module["name"]] for module in modules],
        "parents": [places[holders[module["name"]]] if module["name"] in holders else -1 for module in modules],
        "children": [[places[child] for child in module["children"]] for module in modules],
        "measures": list(measures.items()),
        "mixed": has_mixed_weights(file),
        "weights": [weights_text(module["weights"]) for module in modules],
        "saved": [module["saved_bytes"] for module in modules],
        "compared": _compared(file, places) if "compared" in file else None,
        **{key: [module[key] for module in modules] for key in measures},
    }


def _compared(file: dict[str, Any], places: dict[str, int]) -> dict[str, Any]:
    """Return the largest difference of each module, and whether it is beyond the tolerances."""
    modules, notes = file["modules"], file["compared"]["notes"]
    return {
        "differences": ["Infinity" if (value := module["max_abs"]) == math.inf else value for module in modules],
        "beyond": [module["exceeds"] for module in modules],
        "notes": {places[name]: text for name, text in notes.items() if name in places},
    }


_RULES: Final = (
    ("norm", r"norm"),
    ("attention", r"attention|attn|selfoutput"),
    ("embedding", r"embed|positional|rotary"),
    ("convolution", r"conv(?!ert)"),
    ("activation", r"gelu|relu|silu|swish|tanh|sigmoid|softmax|activation"),
    ("pooling", r"pool"),
    ("head", r"head|classifi|generator|decoderoutput"),
    ("mlp", r"mlp|feedforward|feed_forward|ffn|intermediate|densere|(?<!model)output$"),
    ("block", r"layer$|block|stage|encoder|decoder|model|transformer|(?:list|sequential)$"),
)
KINDS: Final = (*(kind for kind, _ in _RULES), "other")
_INHERITED: Final = frozenset({"attention", "mlp", "embedding", "convolution", "pooling", "head"})


def kinds_of(classes: Mapping[str, str], holders: Mapping[str, str]) -> dict[str, str]:
    """Return the kind of each module, by name.

    The classes are in the order of the graph, outer modules before inner ones. The holders are the names of the
    modules around the modules; the model itself has none.
    """
    kinds: dict[str, str] = {}
    for name, class_name in classes.items():
        around = kinds.get(holders.get(name, ""), "other") if name else "other"
        own = _own(class_name) or _own(name.rpartition(".")[2])
        if own is None or (own == "block" and around in _INHERITED):
            own = around if around in _INHERITED else "other"
        elif own == "mlp" and around == "attention":
            own = around
        kinds[name] = own
    return kinds


def _own(text: str) -> str | None:
    lowered = text.lower()
    return next((kind for kind, pattern in _RULES if re.search(pattern, lowered)), None)
