"""The model card of pushed files: source commit, code to load them, and the size of the largest modules.

An existing card is extended. Only the section between our two comments is replaced.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from optimum_htp.errors import MetadataError, PushError
from optimum_htp.extras.contents import OnnxFile
from optimum_htp.extras.push import TRANSFORMERS_JS
from optimum_htp.hierarchy.rules import LAST_RESORTS
from optimum_htp.hierarchy.summary import ModuleSummary, summarize
from optimum_htp.hierarchy.tags import coverage_of, read_modules
from optimum_htp.libraries.names import ONNX_FILE
from optimum_htp.libraries.ort_classes import class_for
from optimum_htp.libraries.tasks import WITH_PAST
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_header
from optimum_htp.parsing import json_or_none
from optimum_htp.report.markdown import MODULE_COLUMNS, as_cell, heading, module_cells, row
from optimum_htp.report.outline import size_text
from optimum_htp.report.texts import json_text

__all__ = ["Pushed", "completed_card"]

_BEGIN: Final = "<!-- optimum-htp: begin. Each push replaces the text between these two lines. -->"
_END: Final = "<!-- optimum-htp: end -->"
_OURS: Final = re.compile(r"<!-- optimum-htp: begin\.[^\n]*?-->.*?" + re.escape(_END), re.DOTALL)
_HUB: Final = "https://huggingface.co"
_FILES: Final = "optimum-htp: files "
_NOTE: Final = re.compile(f"<!-- {_FILES}(.*?) -->")
_LOADING: Final = "## How to load"
_BLOCK: Final = "```python\n"
_WEB: Final = re.compile(r"```js\n.*?\n```\n", re.DOTALL)
_LOADED_FILE: Final = re.compile(r"^# (.+\.onnx)\n", re.MULTILINE)  # heading in the code for several models
_SHORTER: Final = 4  # number of fields that earlier versions wrote
_LARGEST: Final = 12  # listed modules per file
_HUGGING_FACE: Final = (None, "huggingface")


class CardEntry(NamedTuple):
    """The content of a card about a file: model, license and task in the metadata, the rest in our section.

    `row` is a row of the table of files, `origin` a sentence about the source model. `code` loads the model if the
    repo has no other; only the first file of a model has it.
    """

    model: str | None
    license: str | None
    task: str | None
    row: str
    origin: str | None = None
    code: str | None = None


@dataclass(frozen=True)
class Pushed:
    """An ONNX file, its name in a repo, and its size with external data in bytes."""

    file: OnnxFile
    name: str
    size: int


def completed_card(
    repo_id: str, files: Sequence[Pushed], card: str | None, *, layout: str, there: Collection[str]
) -> str:
    """Return a model card that lists these files (at least one), and the files of earlier pushes.

    It extends an existing card. `there` contains the names of the existing files of the repo.
    """
    import yaml
    from huggingface_hub import ModelCard

    earlier = found[0] if (found := _OURS.search(card or "")) else ""
    before = _noted(earlier)
    kept = {name: one for name, one in before.items() if name in there}
    code = {pushed.name: "\n".join(_python(repo_id, pushed)) for pushed in _models(files)}
    entries = {**kept, **{pushed.name: _entry_of(pushed, code.get(pushed.name)) for pushed in files}}
    alone = all(name in entries for name in there if name.endswith(".onnx"))
    web = _web(repo_id, files) if layout == TRANSFORMERS_JS else "".join(_WEB.findall(earlier)[: len(kept)])
    others = kept.keys() - {pushed.name for pushed in files}
    tables = {name: table for name in others for table in _table_in(earlier, name)} | dict(_modules(files))
    section = f"{_BEGIN}\n{_note(entries)}\n{_section(repo_id, tables, web, entries, alone=alone)}\n{_END}"
    try:
        made = ModelCard(card if card is not None else f"---\n{{}}\n---\n\n# {as_cell(repo_id.split('/')[-1])}\n")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise PushError(
            f"Nothing was pushed to {repo_id}: the metadata of its README.md cannot be read "
            f"({' '.join(str(error).split())}). Fix it first."
        ) from error
    known, ours = _metadata(entries.values(), layout), _metadata(before.values(), layout)
    for name in {*known, *ours} - {"tags"}:
        if made.data.get(name) in (None, "", [], ours.get(name)):  # values of other authors are kept
            made.data.pop(name)
            if name in known:
                made.data[name] = known[name]
    tags = made.data.get("tags") or []
    tags = [tags] if isinstance(tags, str) else tags
    made.data["tags"] = [*tags, *(tag for tag in known["tags"] if tag not in tags)]
    if _OURS.search(made.text):
        made.text = _OURS.sub(lambda _: section, made.text, count=1)
    else:
        made.text = f"{made.text.rstrip()}\n\n{section}\n"
    return str(made)


def _entry_of(pushed: Pushed, code: str | None) -> CardEntry:
    record = pushed.file.record
    model = record.hub_id if record.hub_provider in _HUGGING_FACE else None
    task = record.pipeline_tag or (record.task or "").removesuffix(WITH_PAST) or None
    return CardEntry(model, record.license, task, _row(pushed), _origin(record), code)


def _note(entries: Mapping[str, CardEntry]) -> str:
    """Return the comment with the entries of all pushed files, for the next push."""
    return f"<!-- {_FILES}{json_text(entries).replace('>', chr(92) + 'u003e')} -->"


def _noted(section: str) -> dict[str, CardEntry]:
    """Return the entries of earlier pushes; empty for a card without the comment."""
    found = _NOTE.search(section)
    content = json_or_none(found[1].encode()) if found is not None else None
    pairs = content.items() if isinstance(content, dict) else ()
    noted = {
        name: CardEntry(*entry)
        for name, entry in pairs
        if isinstance(entry, list) and len(entry) in (_SHORTER, len(CardEntry._fields))
        if all(isinstance(one, str | None) for one in entry) and isinstance(entry[3], str)
        if entry[3].isprintable() and "```" not in "".join(filter(None, entry))
    }
    if any(one.origin is None for one in noted.values()):
        return _completed(noted, section)
    return noted


def _completed(noted: dict[str, CardEntry], section: str) -> dict[str, CardEntry]:
    """Return the entries of an earlier version, completed from the text of the section."""
    above, _, below = section.partition(f"{_LOADING}\n")
    origin = "\n".join(line for line in above.splitlines() if line and not line.startswith("<!--"))
    first, *rest = _LOADED_FILE.split(below.partition(_BLOCK)[2].partition("```")[0].rstrip())
    several = dict(zip(rest[::2], rest[1::2], strict=True))
    code = {name: several.get(as_cell(name), "").rstrip() for name in noted} if several else {next(iter(noted)): first}
    return {name: one._replace(origin=origin, code=code.get(name) or None) for name, one in noted.items()}


def _metadata(entries: Collection[CardEntry], layout: str) -> dict[str, Any]:
    known: dict[str, Any] = {"library_name": "optimum", "tags": ["onnx"]}
    if layout == TRANSFORMERS_JS:
        known["tags"].append(TRANSFORMERS_JS)
    if not entries:
        return known
    models, licenses, tasks, *_ = ([*dict.fromkeys(values)] for values in zip(*entries, strict=True))
    bases = [model for model in models if model is not None]
    known |= {"base_model": bases[0] if len(bases) == 1 else bases} if bases else {}
    if licenses[0] is not None and len(licenses) == 1:  # the license of a model without one is unknown
        known["license"] = licenses[0]
    if tasks[0] is not None and len(tasks) == 1:
        known["pipeline_tag"] = tasks[0]
    return known


def _section(
    repo_id: str, tables: Mapping[str, str], web: str, entries: Mapping[str, CardEntry], *, alone: bool
) -> str:
    origins = "\n".join(one.origin for one in entries.values() if one.origin is not None)
    return "\n".join(
        [
            *dict.fromkeys(origins.splitlines()),
            "",
            _LOADING,
            "",
            *([web] if web else []),
            _BLOCK + "\n\n".join(_loading(repo_id, entries, alone=alone)),
            "```",
            "",
            "## Files",
            "",
            *heading(["file", "task", "opset", "size", "nodes", "nodes with a module"]),
            *(entries[name].row for name in sorted(entries)),
            "",
            *(tables[name] for name in sorted(tables)),
        ]
    ).rstrip()


def _origin(record: ExportMetadata) -> str:
    model, commit = "a local model", ""
    if record.hub_id is not None:
        model = as_cell(record.hub_id)
        if record.hub_provider in _HUGGING_FACE:
            model = f"[{model}]({_HUB}/{record.hub_id})"
        commit = f" at commit `{record.hub_sha or record.hub_revision}`"
    return (
        f"ONNX export of {model}{commit}, for `{as_cell(record.task)}`"
        f"{f' ({as_cell(record.model_class)})' if record.model_class else ''}, made with optimum-htp "
        f"{as_cell(record.export_version)}. Each file contains this record: `optimum-cli htp info FILE`."
    )


def _web(repo_id: str, files: Sequence[Pushed]) -> str:
    record = files[0].file.record
    task = str(record.pipeline_tag or record.task).removesuffix(WITH_PAST)
    run = f'const run = await pipeline({json_text(task)}, "{repo_id}");'
    return "\n".join(["```js", 'import { pipeline } from "@huggingface/transformers";', "", run, "```", ""])


def _loading(repo_id: str, entries: Mapping[str, CardEntry], *, alone: bool) -> Iterator[str]:
    """Yield the code that loads each model."""
    models = {name: one.code for name, one in entries.items() if one.code is not None}
    call = re.compile(rf"\b((?:ORTModel|Auto)\w+\.from_pretrained)\({re.escape(json_text(repo_id))}[^)]*\)")
    for name, code in models.items():
        if alone and len(models) == 1:
            yield code
        else:  # the repo id alone would be ambiguous
            url = json_text(f"hf://{repo_id}/{name}")
            yield f"# {name if name.isprintable() else as_cell(name)}\n" + call.sub(partial(_call_of, url), code)


def _call_of(url: str, found: re.Match[str]) -> str:
    return f"{found[1]}({url})"


def _python(repo_id: str, pushed: Pushed) -> Iterator[str]:
    """Yield the code that loads a model and its preprocessors."""
    record = pushed.file.record
    if record.export_library == "diffusers":
        yield from ("from optimum.onnxruntime import ORTDiffusionPipeline", "")
        yield f'pipe = ORTDiffusionPipeline.from_pretrained("{repo_id}")  # with optimum-htp installed'
    elif record.submodule is not None or record.task is None:
        yield from ("import onnxruntime", "from huggingface_hub import hf_hub_download", "")
        yield f'session = onnxruntime.InferenceSession(hf_hub_download("{repo_id}", {json_text(pushed.name)}))'
    else:
        cls, file = class_for(pushed.file.path, record).__name__, PurePosixPath(pushed.name)
        yield f"from optimum.onnxruntime import {cls}  # pip install optimum-htp optimum-onnx[onnxruntime]"
        for auto in record.preprocessors:
            yield f"from transformers import {auto}"
        yield ""
        named = f", file_name={json_text(file.name)}" if file.name != ONNX_FILE and not record.onnx_files else ""
        inside = f", subfolder={json_text(str(file.parent))}" if str(file.parent) not in (".", "onnx") else ""
        yield f'model = {cls}.from_pretrained("{repo_id}"{inside}{named})'
        source = json_text(f"hf://{repo_id}/{pushed.name}" if inside else repo_id)
        for auto in record.preprocessors:
            yield f"{auto.removeprefix('Auto').lower()} = {auto}.from_pretrained({source})"


def _models(files: Sequence[Pushed]) -> list[Pushed]:
    """Return one file of each model."""
    found: dict[Any, Pushed] = {}
    for pushed in files:
        record = pushed.file.record
        found.setdefault((record.export_id, record.onnx_files) if record.onnx_files else pushed.name, pushed)
    return list(found.values())


def _row(pushed: Pushed) -> str:
    header = read_header(pushed.file.path)
    coverage = coverage_of(header)
    nodes = sum(coverage.values())
    known = nodes - sum(coverage.get(rule.value, 0) for rule in LAST_RESORTS)
    opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in header.opsets.items())
    texts = map(as_cell, (pushed.name, pushed.file.record.task or "", opset))
    return row([*texts, size_text(pushed.size), *((f"{nodes:,}", f"{known / nodes:.0%}") if nodes else ("", ""))])


def _modules(files: Sequence[Pushed]) -> Iterator[tuple[str, str]]:
    """Yield each tagged file with a table of its largest modules, two levels deep."""
    for pushed in files:
        try:
            modules = summarize(*read_modules(pushed.file.path))
        except MetadataError:
            continue
        rows = [row(module_cells(vars(module))) for module in _shown(modules)]
        yield pushed.name, "\n".join([_table_heading(pushed.name), "", *heading(MODULE_COLUMNS), *rows, ""])


def _table_heading(name: str) -> str:
    return f"## Modules of {as_cell(name)}"


def _table_in(section: str, name: str) -> Iterator[str]:
    """Yield the table of modules of a file from an earlier push."""
    _, found, rest = section.partition(f"\n{_table_heading(name)}\n\n")
    rows = list(itertools.takewhile(lambda line: line.startswith("| "), rest.splitlines()))
    if found and rows:
        yield "\n".join([_table_heading(name), "", *rows, ""])


def _shown(modules: dict[str, ModuleSummary]) -> list[ModuleSummary]:
    """Return the root and the largest modules below it, in the order of the graph."""
    near = [module for module in modules.values() if module.depth <= 2]
    largest = sorted(near, key=lambda module: -module.bytes)[:_LARGEST]
    return [module for module in near if module in largest]
