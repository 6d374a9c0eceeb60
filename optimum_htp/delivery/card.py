"""The model card of pushed files: what they are, from which commit, how to load them, and what each module costs.

A card that is there is completed: what somebody has written stays, and only the part between our two comments is ever
written anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final, NamedTuple

from optimum_htp.delivery.contents import OnnxFile
from optimum_htp.delivery.layouts import TRANSFORMERS_JS
from optimum_htp.errors import MetadataError, PushError
from optimum_htp.hierarchy.rules import LAST_RESORTS
from optimum_htp.hierarchy.summary import ModuleSummary, summarize
from optimum_htp.hierarchy.tags import coverage_of, read_modules
from optimum_htp.onnxfile import read_header
from optimum_htp.origin.names import ONNX_FILE
from optimum_htp.origin.ort_classes import class_for
from optimum_htp.origin.tasks import WITH_PAST
from optimum_htp.parsing import json_or_none
from optimum_htp.report.markdown import as_cell, module_cell
from optimum_htp.report.outline import size_text
from optimum_htp.report.texts import json_text

__all__ = ["Pushed", "completed_card"]

_BEGIN: Final = "<!-- optimum-htp: begin. What is between these two lines is written anew by each push. -->"
_END: Final = "<!-- optimum-htp: end -->"
_OURS: Final = re.compile(re.escape(_BEGIN) + r".*?" + re.escape(_END), re.DOTALL)
_HUB: Final = "https://huggingface.co"
_FILES: Final = "optimum-htp: files "
_NOTE: Final = re.compile(f"<!-- {_FILES}(.*?) -->")
_LARGEST: Final = 12  # modules of a file that are listed
_HUGGING_FACE: Final = (None, "huggingface")


class Told(NamedTuple):
    """What a card says of a file: its model, license and task in the metadata, and its row in the table."""

    model: str | None
    license: str | None
    task: str | None
    row: str


@dataclass(frozen=True)
class Pushed:
    """An ONNX file and its place in a repo.

    Attributes:
        file: The file.
        name: In the repo.
        size: Bytes, external data included.
    """

    file: OnnxFile
    name: str
    size: int


def completed_card(
    repo_id: str, files: Sequence[Pushed], card: str | None, *, layout: str, there: Collection[str] = ()
) -> str:
    """Return a model card that lists these files, and those of earlier pushes.

    Args:
        repo_id: The repo that it is for.
        files: What is pushed, at least one.
        card: The card that is there; None for a new one.
        layout: Where the files are in the repo.
        there: Names of the files that the repo has now.

    Raises:
        PushError: The card that is there cannot be read.
    """
    import yaml
    from huggingface_hub import ModelCard

    before = _noted(card or "")
    kept = {name: one for name, one in before.items() if name in there}
    told = {**kept, **{pushed.name: _told(pushed) for pushed in files}}
    section = f"{_BEGIN}\n{_note(told)}\n{_section(repo_id, files, layout, told)}\n{_END}"
    try:
        made = ModelCard(card if card is not None else f"---\n{{}}\n---\n\n# {as_cell(repo_id.split('/')[-1])}\n")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise PushError(
            f"Nothing was pushed to {repo_id}: the metadata of its README.md cannot be read "
            f"({' '.join(str(error).split())}). Correct that first."
        ) from error
    known, ours = _metadata(told.values(), layout), _metadata(before.values(), layout)
    for name in {*known, *ours} - {"tags"}:
        if made.data.get(name) in (None, "", [], ours.get(name)):  # what somebody else has written stays
            made.data.pop(name)
            if name in known:
                made.data[name] = known[name]
    there = made.data.get("tags") or []
    there = [there] if isinstance(there, str) else there
    made.data["tags"] = [*there, *(tag for tag in known["tags"] if tag not in there)]
    if _OURS.search(made.text):
        made.text = _OURS.sub(lambda _: section, made.text, count=1)
    else:
        made.text = f"{made.text.rstrip()}\n\n{section}\n"
    return str(made)


def _told(pushed: Pushed) -> Told:
    record = pushed.file.record
    model = record.hub_id if record.hub_provider in _HUGGING_FACE else None
    task = record.pipeline_tag or (record.task or "").removesuffix(WITH_PAST) or None
    return Told(model, record.license, task, _row(pushed))


def _note(told: Mapping[str, Told]) -> str:
    """Return the comment that tells the next push what is ours in the metadata: of each file that was pushed."""
    return f"<!-- {_FILES}{json_text(told).replace('>', chr(92) + 'u003e')} -->"


def _noted(card: str) -> dict[str, Told]:
    """Return what the pushes before have said of their files; empty for a card that has no such note."""
    found = _NOTE.search(card)
    content = json_or_none(found[1].encode()) if found is not None else None
    entries = content.items() if isinstance(content, dict) else ()
    return {
        name: Told(*entry)
        for name, entry in entries
        if isinstance(entry, list) and len(entry) == 4 and all(isinstance(one, str | None) for one in entry)
        if isinstance(entry[-1], str) and entry[-1].isprintable()
    }


def _metadata(told: Collection[Told], layout: str) -> dict[str, Any]:
    known: dict[str, Any] = {"library_name": "optimum", "tags": ["onnx"]}
    if layout == TRANSFORMERS_JS:
        known["tags"].append(TRANSFORMERS_JS)
    if not told:
        return known
    models, licenses, tasks, _ = ([*dict.fromkeys(values)] for values in zip(*told, strict=True))
    bases = [model for model in models if model is not None]
    known |= {"base_model": bases[0] if len(bases) == 1 else bases} if bases else {}
    if licenses[0] is not None and len(licenses) == 1:  # of a model without one nobody knows it
        known["license"] = licenses[0]
    if tasks[0] is not None and len(tasks) == 1:
        known["pipeline_tag"] = tasks[0]
    return known


def _section(repo_id: str, files: Sequence[Pushed], layout: str, told: Mapping[str, Told]) -> str:
    return "\n".join(
        [
            *_origins(files),
            "",
            "## How to load",
            "",
            *_loading(repo_id, files, layout, alone=told.keys() <= {pushed.name for pushed in files}),
            "",
            "## Files",
            "",
            "| file | task | opset | size | nodes | whose module is known |",
            "| --- | --- | --- | ---: | ---: | ---: |",
            *(told[name].row for name in sorted(told)),
            "",
            *_modules(files),
        ]
    ).rstrip()


def _origins(files: Sequence[Pushed]) -> Iterator[str]:
    seen = set()
    for record in (pushed.file.record for pushed in files):
        key = (record.hub_id, record.hub_sha, record.task)
        if key in seen:
            continue
        seen.add(key)
        model, commit = "a local model", ""
        if record.hub_id is not None:
            model = as_cell(record.hub_id)
            if record.hub_provider in _HUGGING_FACE:
                model = f"[{model}]({_HUB}/{record.hub_id})"
            commit = f" at commit `{record.hub_sha or record.hub_revision}`"
        yield (
            f"ONNX export of {model}{commit}, for `{as_cell(record.task)}`"
            f"{f' ({as_cell(record.model_class)})' if record.model_class else ''}, made with optimum-htp "
            f"{as_cell(record.export_version)}. Each file says so itself: `optimum-cli htp info FILE`."
        )


def _loading(repo_id: str, files: Sequence[Pushed], layout: str, *, alone: bool) -> Iterator[str]:
    if layout == TRANSFORMERS_JS:
        file = files[0].file
        task = str(file.record.pipeline_tag or file.record.task).removesuffix(WITH_PAST)
        yield from ("```js", 'import { pipeline } from "@huggingface/transformers";', "")
        yield from (f'const run = await pipeline({json_text(task)}, "{repo_id}");', "```", "")
    models = _models(files)
    yield "```python"
    for index, pushed in enumerate(models):
        yield from ([""] if index else [])
        yield from ([f"# {as_cell(pushed.name)}"] if len(models) > 1 else [])
        yield from _python(repo_id, pushed, alone=alone and len(models) == 1)
    yield "```"


def _python(repo_id: str, pushed: Pushed, *, alone: bool) -> Iterator[str]:
    """Yield the code that loads a model of a repo, and its preprocessors."""
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
        source = json_text(repo_id if alone and not inside else f"hf://{repo_id}/{pushed.name}")
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
    share = f"{known / nodes:.0%}" if nodes else ""
    cells = [
        as_cell(pushed.name),
        as_cell(pushed.file.record.task or ""),
        as_cell(opset),
        size_text(pushed.size),
        f"{nodes:,}" if nodes else "",
        share,
    ]
    return f"| {' | '.join(cells)} |"


def _modules(files: Sequence[Pushed]) -> Iterator[str]:
    """Yield the largest modules of each file that has tags, two levels deep."""
    for pushed in files:
        try:
            modules = summarize(*read_modules(pushed.file.path))
        except MetadataError:
            continue
        shown = _shown(modules)
        if not shown:
            continue
        yield from (f"## Modules of {as_cell(pushed.name)}", "")
        yield from ("| module | class | nodes | parameters | size |", "| --- | --- | ---: | ---: | ---: |")
        for module in shown:
            cells = [
                module_cell(module.name),
                as_cell(module.class_name),
                f"{module.nodes:,}",
                f"{module.parameters:,}",
            ]
            yield f"| {' | '.join([*cells, size_text(module.bytes)])} |"
        yield ""


def _shown(modules: dict[str, ModuleSummary]) -> list[ModuleSummary]:
    """Return the root and the largest modules below it, in the order of the graph."""
    near = [module for module in modules.values() if module.depth <= 2]
    largest = sorted(near, key=lambda module: -module.bytes)[:_LARGEST]
    return [module for module in near if module in largest]
