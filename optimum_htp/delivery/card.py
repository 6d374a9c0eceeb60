"""The model card of pushed files: what they are, from which commit, how to load them, and what each module costs.

A card that is there is completed: what somebody has written stays, and only the part between our two comments is ever
written anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.delivery.contents import OnnxFile
from optimum_htp.delivery.layouts import TRANSFORMERS_JS
from optimum_htp.errors import MetadataError, PushError
from optimum_htp.hierarchy.summary import ModuleSummary, summarize
from optimum_htp.hierarchy.tags import coverage_of, read_modules
from optimum_htp.onnxfile import read_header
from optimum_htp.origin.names import ONNX_FILE
from optimum_htp.origin.ort_classes import class_for
from optimum_htp.origin.tasks import WITH_PAST
from optimum_htp.report.markdown import as_cell, module_cell
from optimum_htp.report.outline import size_text
from optimum_htp.report.texts import json_text

__all__ = ["Pushed", "completed_card"]

_BEGIN: Final = "<!-- optimum-htp: begin. What is between these two lines is written anew by each push. -->"
_END: Final = "<!-- optimum-htp: end -->"
_OURS: Final = re.compile(re.escape(_BEGIN) + r".*?" + re.escape(_END), re.DOTALL)
_HUB: Final = "https://huggingface.co"
_LARGEST: Final = 12  # modules of a file that are listed
_HUGGING_FACE: Final = (None, "huggingface")


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


def completed_card(repo_id: str, files: Sequence[Pushed], card: str | None, *, layout: str) -> str:
    """Return a model card that tells of these files.

    Args:
        repo_id: The repo that it is for.
        files: What is pushed, at least one.
        card: The card that is there; None for a new one.
        layout: Where the files are in the repo.

    Raises:
        PushError: The card that is there cannot be read.
    """
    import yaml
    from huggingface_hub import ModelCard

    section = f"{_BEGIN}\n{_section(repo_id, files, layout)}\n{_END}"
    try:
        made = ModelCard(card if card is not None else f"---\n{{}}\n---\n\n# {as_cell(repo_id.split('/')[-1])}\n")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise PushError(
            f"Nothing was pushed to {repo_id}: the metadata of its README.md cannot be read "
            f"({' '.join(str(error).split())}). Correct that first."
        ) from error
    for name, value in _metadata(files, layout).items():
        if name == "tags":
            there = made.data.get("tags") or []
            there = [there] if isinstance(there, str) else there
            made.data["tags"] = [*there, *(tag for tag in value if tag not in there)]
        elif not made.data.get(name):
            made.data[name] = value
    if _OURS.search(made.text):
        made.text = _OURS.sub(lambda _: section, made.text, count=1)
    else:
        made.text = f"{made.text.rstrip()}\n\n{section}\n"
    return str(made)


def _metadata(files: Sequence[Pushed], layout: str) -> dict[str, Any]:
    records = [pushed.file.record for pushed in files]
    bases = list(
        dict.fromkeys(
            record.hub_id for record in records if record.hub_id is not None and record.hub_provider in _HUGGING_FACE
        )
    )
    licenses = {record.license for record in records if record.license}
    tasks = {record.pipeline_tag or (record.task or "").removesuffix(WITH_PAST) for record in records} - {""}
    known: dict[str, Any] = {"library_name": "optimum"}
    if bases:
        known["base_model"] = bases[0] if len(bases) == 1 else bases
    if len(licenses) == 1:
        known["license"] = licenses.pop()
    if len(tasks) == 1:
        known["pipeline_tag"] = tasks.pop()
    known["tags"] = ["onnx", *([TRANSFORMERS_JS] if layout == TRANSFORMERS_JS else [])]
    return known


def _section(repo_id: str, files: Sequence[Pushed], layout: str) -> str:
    return "\n".join(
        [
            *_origins(files),
            "",
            "## How to load",
            "",
            *_loading(repo_id, files, layout),
            "",
            "## Files",
            "",
            *_table(files),
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


def _loading(repo_id: str, files: Sequence[Pushed], layout: str) -> Iterator[str]:
    file = files[0].file
    if layout == TRANSFORMERS_JS:
        task = str(file.record.pipeline_tag or file.record.task).removesuffix(WITH_PAST)
        yield from ("```js", 'import { pipeline } from "@huggingface/transformers";', "")
        yield from (f'const run = await pipeline({json_text(task)}, "{repo_id}");', "```", "")
    yield "```python"
    if file.record.export_library == "diffusers":
        yield from ("from optimum.onnxruntime import ORTDiffusionPipeline", "")
        yield f'pipe = ORTDiffusionPipeline.from_pretrained("{repo_id}")  # with optimum-htp installed'
    elif file.record.submodule is not None or file.record.task is None:
        yield from ("import onnxruntime", "from huggingface_hub import hf_hub_download", "")
        yield f'session = onnxruntime.InferenceSession(hf_hub_download("{repo_id}", {json_text(files[0].name)}))'
    else:
        names = [class_for(file.path, file.record).__name__]
        yield f"from optimum.onnxruntime import {names[0]}  # pip install optimum-htp optimum-onnx[onnxruntime]"
        for auto in file.record.preprocessors:
            yield f"from transformers import {auto}"
        yield ""
        for pushed in _models(files):
            name = Path(pushed.name).name
            named = f", file_name={json_text(name)}" if name != ONNX_FILE and not pushed.file.record.onnx_files else ""
            yield f'model = {names[0]}.from_pretrained("{repo_id}"{named})'
        for auto in file.record.preprocessors:
            yield f'{auto.removeprefix("Auto").lower()} = {auto}.from_pretrained("{repo_id}")'
    yield "```"


def _models(files: Sequence[Pushed]) -> list[Pushed]:
    """Return one file of each model."""
    found: dict[Any, Pushed] = {}
    for pushed in files:
        record = pushed.file.record
        found.setdefault((record.export_id, record.onnx_files) if record.onnx_files else pushed.name, pushed)
    return list(found.values())


def _table(files: Sequence[Pushed]) -> Iterator[str]:
    yield "| file | task | opset | size | nodes | whose module is known |"
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for pushed in files:
        header = read_header(pushed.file.path)
        coverage = coverage_of(header)
        nodes = sum(coverage.values())
        known = nodes - coverage.get("root", 0)
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
        yield f"| {' | '.join(cells)} |"


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
