"""What a batch is to export: one job a model, read from a list.

A list is text: on each line a model (`name`, `org/name`, either with `@revision`, or a folder), or a JSON object that
names it and says how to export it:

    # lines like this one are for people
    bert-base-uncased
    openai/whisper-tiny@v1.0
    {"model": "gpt2", "task": "text-generation", "opset": 17, "output": "my-gpt2"}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ArgumentError, BatchListError, InvalidModelReferenceError
from optimum_htp.origin.references import has_prefix, parse_reference
from optimum_htp.parsing import is_inside, parse_json
from optimum_htp.stamping.manifests import NOT_OF_A_LIST, ManifestModel, normal_output, refused_options

__all__ = [
    "Job",
    "State",
    "is_as_asked",
    "job_of",
    "jobs_from_lines",
    "jobs_of_hub",
    "lasting_options",
    "names_a_repo",
    "read_jobs",
    "refuse_ambiguous",
]

_ONNX: Final = ".onnx"
_HUGGING_FACE: Final = "hf://"
_LONGEST_LINE: Final = 1 << 20  # characters


class State(str, Enum):
    """The state of a job. Journals, manifests and JSON documents have the values."""

    FOUND = "found"
    """The model is on its Hub, and is not exported yet."""

    DONE = "done"
    """The model was exported."""

    UP_TO_DATE = "up_to_date"
    """An earlier run exported the model at this commit."""

    FAILED = "failed"

    CRASHED = "crashed"
    """The process or the worker of the job ended without a result."""

    @property
    def is_exported(self) -> bool:
        """Whether there is an export."""
        return self in (State.DONE, State.UP_TO_DATE)


@dataclass(frozen=True)
class Job:
    """A model to export.

    Attributes:
        model: Repo id or folder.
        revision: Branch, tag, commit or `refs/pr/N`; None for the default branch.
        output: Folder of the export, relative to the batch's; unique in a batch.
        task: Optimum task; `auto` infers it.
        options: Further arguments of `HTPExporter.export`.
        commit: What is exported, wherever the revision has moved to; None for where the revision is.
        of_hub: Whether the model is one of the Hub, even if a folder here has its name.
    """

    model: str
    output: str
    revision: str | None = None
    task: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None
    of_hub: bool = False

    @property
    def reference(self) -> str:
        """What `locate` and the exporter are given: the name, with its Hub where no folder is meant."""
        return f"{_HUGGING_FACE}{self.model}" if self.of_hub and not has_prefix(self.model) else self.model


def read_jobs(path: Path, options: Mapping[str, Any] | None = None) -> list[Job]:
    """Read a list of models from a file.

    Args:
        path: The list.
        options: Arguments of `HTPExporter.export` for all of them; a line's own come first.

    Raises:
        BatchListError: The file cannot be read, or a line of it is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BatchListError(f"The list {path} cannot be read: {error}. Name a text file of models.") from error
    return jobs_from_lines(text.splitlines(), str(path), options)


def jobs_from_lines(lines: Iterable[str], name: str, options: Mapping[str, Any] | None = None) -> list[Job]:
    """Make jobs of lines.

    Args:
        lines: What a list holds; see this module's docstring.
        name: What to call the list in messages.
        options: Arguments of `HTPExporter.export` for all of them; a line's own come first.

    Raises:
        BatchListError: A line is none, or two would be exported into the same folder.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    said = ((number, line) for number, line in numbered if line and not line.startswith("#"))
    return _distinct(said, name, lambda line: _job(_content(line), options or {}))


def jobs_of_hub(ids: Iterable[str], name: str, options: Mapping[str, Any] | None = None) -> list[Job]:
    """Make jobs of repo ids that the Hugging Face Hub has listed: nothing else is read into them.

    Args:
        ids: The ids.
        name: What to call the list in messages.
        options: Arguments of `HTPExporter.export` for all of them.

    Raises:
        BatchListError: One is no repo id.
    """

    def job(repo_id: str) -> Job:
        reference = parse_reference(f"{_HUGGING_FACE}{repo_id}")
        if reference.repo_id != repo_id:
            raise ValueError(f"{repo_id!r} is not a repo id")
        return _job({"model": repo_id}, options or {}, of_hub=True)

    return _distinct(enumerate(ids, start=1), name, job)


def job_of(model: ManifestModel) -> Job:
    """Return the job that exports a model of a manifest again, at its commit.

    A model with a commit was a Hub's, whatever folder has its name here now.
    """
    of_hub = model.commit is not None and names_a_repo(model.model)
    options = dict(model.options or {})
    return Job(model.model, model.output, model.revision, model.task, options, commit=model.commit, of_hub=of_hub)


def names_a_repo(model: str) -> bool:
    """Whether a model's name may be one of a Hub, rather than a path."""
    try:
        parse_reference(model)
    except InvalidModelReferenceError:
        return False
    return True


def _distinct(said: Iterable[tuple[int, str]], name: str, job_of: Callable[[str], Job]) -> list[Job]:
    """Return the jobs of numbered lines, where each has a folder of its own."""
    jobs: dict[str, tuple[int, Job]] = {}
    for number, line in said:
        try:
            job = job_of(line)
        except ValueError as error:
            raise BatchListError(f"{name}, line {number}: {error}. Mend the line, or begin it with #.") from error
        except OSError as error:  # the system cannot look for such a name
            raise BatchListError(
                f"{name}, line {number}: {error.strerror}. Mend the line, or begin it with #."
            ) from error
        place = job.output.casefold()  # macOS and Windows take `X` and `x` for one folder
        if place in jobs:
            first, other = jobs[place]
            if job == other:
                continue
            raise BatchListError(
                f"{name}: lines {first} and {number} would both be exported into {job.output!r}. Give one of them "
                'another folder: {"model": …, "output": …}.'
            )
        jobs[place] = number, job
    return [job for _, job in jobs.values()]


def _content(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"model": line}
    content = parse_json(line, _LONGEST_LINE)
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def _job(content: dict[str, Any], options: Mapping[str, Any], *, of_hub: bool = False) -> Job:
    rest = dict(content)
    model, revision = rest.pop("model", None), rest.pop("revision", None)
    task, output = rest.pop("task", None), rest.pop("output", None)
    if not _is_name(model):
        raise ValueError('it has no "model"')
    for name, value in (("revision", revision), ("task", task), ("output", output)):
        if value is not None and not _is_name(value):
            raise ValueError(f'"{name}" is no text')
    if refused := refused_options(rest):
        raise ValueError(f'"{refused[0]}" is said for all models of a batch, by an argument of the command')
    common = dict(options)
    common_task = common.pop("task", "auto")
    if output is None:
        output = _folder_for(model, revision, of_hub=of_hub)
    job = Job(model, normal_output(output), revision, task or common_task, {**common, **rest})
    return replace(job, of_hub=of_hub)


def _is_name(value: Any) -> bool:
    """Whether a value is a text that can name something: no NUL, and no half of a surrogate pair."""
    return isinstance(value, str) and value != "" and "\0" not in value and not re.search("[\ud800-\udfff]", value)


def _folder_for(model: str, revision: str | None, *, of_hub: bool) -> str:
    """Return `org/name`, or `org/name@revision`, or the last part of a folder's name; never one of a file's."""
    if not of_hub and Path(model).exists():
        return _no_file(Path(model).resolve().name)
    name, _, named = model.partition("@")
    revision = revision or named
    folder = f"{name}@{revision.replace('/', '-')}" if revision else name
    if not is_inside(folder):
        raise ValueError(f"{model!r} is neither a folder here nor a model of a Hub")
    return _no_file(folder)


def _no_file(folder: str) -> str:
    """Return another name for a folder whose own the exporter would take for a file's."""
    return f"{folder}-model" if folder.endswith(_ONNX) else folder


def refuse_ambiguous(jobs: Iterable[Job], root: Path) -> None:
    """Refuse a folder for a batch where a model's name would be that of a folder here once something is exported.

    Args:
        jobs: What is to be exported.
        root: The batch's folder.

    Raises:
        ArgumentError: A second run would take a model of a Hub for the folder that the first one wrote.
    """
    jobs = list(jobs)
    places = [root.resolve() / job.output for job in jobs]
    made = {path for place in places for path in (place, *place.parents)}
    for job in jobs:
        path = Path(job.model).resolve()
        if not job.of_hub and path in made and not path.exists():
            raise ArgumentError(
                f"A batch into {root} would make a folder {job.model} here, and the next run would take that for the "
                f"model {job.model!r}. Name a folder with a name of its own, such as exports/."
            )


def lasting_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that decide on an export's files, as JSON has them: journals and manifests keep these.

    A False or a 0 says something (`hierarchy`, `pad_token_id`), so only what was not given at all is left out.
    """
    kept = {
        name: value
        for name, value in options.items()
        if value is not None and name not in NOT_OF_A_LIST and name != "verify_hub"  # checks, and changes no byte
    }
    plain: dict[str, Any] = parse_json(json.dumps(kept, default=str))
    return plain


def is_as_asked(job: Job, entry: Mapping[str, Any]) -> bool:
    """Tell whether an export was made as a job asks for it.

    Args:
        job: What is asked for.
        entry: What a journal says of the export. One that does not say how it was made is believed.
    """
    options = entry.get("options")
    if not isinstance(options, Mapping):
        return True
    return options == lasting_options(job.options) and job.task in (entry.get("asked"), entry.get("task"))
