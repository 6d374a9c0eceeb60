"""Jobs of a batch: one per model of a list.

A list is a text in UTF-8 or UTF-16 (with a byte order mark), or a JSON array of its lines. CSV, YAML and other formats
are rejected by name. Each line is a model (`name` or `org/name`, optionally with `@revision`, or a folder), or a JSON
object with the model and options of its export:

    # a comment
    bert-base-uncased
    openai/whisper-tiny@v1.0
    {"model": "gpt2", "task": "text-generation", "opset": 17, "output": "my-gpt2"}
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ArgumentError, BatchListError, InvalidModelReferenceError
from optimum_htp.origin.references import has_prefix, parse_reference
from optimum_htp.parsing import is_inside, json_or_none, parse_json
from optimum_htp.stamping.manifests import NOT_OF_A_LIST, ManifestModel, normal_output, refused_options

__all__ = [
    "Job",
    "State",
    "is_as_asked",
    "job_of",
    "jobs_from_lines",
    "jobs_of_hub",
    "lasting_options",
    "lines_of_text",
    "read_jobs",
    "refuse_ambiguous",
]

_ONNX: Final = ".onnx"
_HUGGING_FACE: Final = "hf://"
_LONGEST_LINE: Final = 1 << 20  # characters
_ADVICE: Final = "Fix the line, or comment it out with #."
_FORM: Final = "Write one model per line, as NAME, ORG/NAME or a JSON object."
_ENCODINGS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_SUFFIXES: Final = {".csv": "CSV", ".tsv": "CSV", ".yaml": "YAML", ".yml": "YAML"}


class State(str, Enum):
    """The state of a job. Journals, manifests and JSON documents have the values."""

    FOUND = "found"
    """The model was found on its Hub and is not exported yet."""

    DONE = "done"
    """The model was exported."""

    UP_TO_DATE = "up_to_date"
    """An earlier run exported the model at this commit."""

    FAILED = "failed"

    CRASHED = "crashed"
    """The process or the worker of the job ended without a result."""

    @property
    def is_exported(self) -> bool:
        """Whether an export exists."""
        return self in (State.DONE, State.UP_TO_DATE)


@dataclass(frozen=True)
class Job:
    """A model to export: its repo id or folder, and the arguments of `HTPExporter.export`.

    Attributes:
        output: Folder of the export, relative to that of the batch; unique in a batch.
        commit: The commit to export; None for the present commit of the revision.
        of_hub: Whether the model is on a Hub, even if a local folder has the same name.
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
        """Name of the model for `locate` and the exporter, with the prefix of its Hub if it is not a folder."""
        return f"{_HUGGING_FACE}{self.model}" if self.of_hub and not has_prefix(self.model) else self.model


def read_jobs(path: Path, options: Mapping[str, Any]) -> list[Job]:
    """Read a list of models from a file, as `jobs_from_lines`."""
    return jobs_from_lines(_lines_of_file(path), str(path), options)


def jobs_from_lines(lines: Iterable[str], name: str, options: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of a list, by its name in messages. Options of a line take precedence over `options`."""
    numbered = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    entries = [(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not entries:
        raise BatchListError(f"{name} lists no models. {_FORM}")
    return _distinct(entries, name, lambda line: _job(_content(line), options))


def jobs_of_hub(ids: Iterable[str], name: str, options: Mapping[str, Any]) -> list[Job]:
    """Return the jobs of repo ids that the Hugging Face Hub has listed. Only repo ids are accepted."""

    def job(repo_id: str) -> Job:
        reference = parse_reference(f"{_HUGGING_FACE}{repo_id}")
        if reference.repo_id != repo_id:
            raise ValueError(f"{repo_id!r} is not a repo id")
        return _job({"model": repo_id}, options, of_hub=True)

    return _distinct(enumerate(ids, start=1), name, job)


def job_of(model: ManifestModel) -> Job:
    """Return the job that exports a model of a manifest again, at its commit.

    A model with a commit is a model of a Hub, even if a local folder has the same name.
    """
    of_hub = model.commit is not None and _names_a_repo(model.model)
    options = dict(model.options or {})
    return Job(model.model, model.output, model.revision, model.task, options, commit=model.commit, of_hub=of_hub)


def _names_a_repo(model: str) -> bool:
    """Return whether a name is a valid repo id rather than a path."""
    try:
        parse_reference(model)
    except InvalidModelReferenceError:
        return False
    return True


def _lines_of_file(path: Path) -> list[str]:
    if path.is_dir():
        raise BatchListError(f"{path} is a folder, not a list of models. Pass a text file with one model per line.")
    try:
        data = path.read_bytes()
        encoding = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "utf-8")
        text = data.decode(encoding)
    except OSError as error:
        raise BatchListError(
            f"The list {path} cannot be read: {error.strerror or error}. Pass a text file with one model per line."
        ) from error
    except UnicodeDecodeError as error:
        raise BatchListError(f"{path} is not a text file in UTF-8 or UTF-16. {_FORM}") from error
    if (kind := _SUFFIXES.get(path.suffix.lower())) is not None:
        raise BatchListError(f"{path} is a {kind} file. {_FORM}")
    return lines_of_text(text, str(path))


def lines_of_text(text: str, name: str) -> list[str]:
    """Return the lines of a list, by its name in messages; the entries of a JSON array become lines."""
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        raise BatchListError(f"{name} is not a text file. {_FORM}")
    start = text.lstrip()
    if start.startswith("["):
        return _lines_of_array(start, name)
    document = json_or_none(start) if start.startswith("{") else None
    if isinstance(document, dict) and "model" not in document:
        raise BatchListError(f'{name} is a JSON document without "model". Pass a manifest with --from-manifest.')
    lines = [json.dumps(document)] if isinstance(document, dict) else text.splitlines()
    for number, line in enumerate(lines, start=1):
        if (kind := _other_format(line.strip())) is not None:
            raise BatchListError(f"{name}, line {number} is {kind}. {_FORM}")
    return lines


def _lines_of_array(text: str, name: str) -> list[str]:
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise BatchListError(f"{name} is not a valid JSON array: {error}. {_FORM}") from error
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, (str, dict)):
            raise BatchListError(f"{name}: entry {number} is neither a text nor a JSON object. {_FORM}")
    return [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]


def _other_format(line: str) -> str | None:
    """Return the format of a line that is neither a name nor a JSON object, or None."""
    if not line or line.startswith(("#", "{")):
        return None
    try:
        if Path(line).exists():
            return None
    except (OSError, ValueError):
        return None  # rejected later, as a model
    if line == "---" or line.startswith("- ") or line.endswith(":") or ": " in line:
        return "YAML"
    return "CSV" if "," in line or "\t" in line or ";" in line else None


def _distinct(entries: Iterable[tuple[int, str]], name: str, job_of: Callable[[str], Job]) -> list[Job]:
    """Return the jobs of numbered lines; each must have a different output folder."""
    jobs: dict[str, tuple[int, Job]] = {}
    for number, line in entries:
        try:
            job = job_of(line)
        except ValueError as error:
            raise BatchListError(f"{name}, line {number}: {error}. {_ADVICE}") from error
        except OSError as error:  # not a valid file name on this system
            raise BatchListError(f"{name}, line {number}: {error.strerror}. {_ADVICE}") from error
        folder = job.output.casefold()  # `X` and `x` are one folder on macOS and Windows
        if folder in jobs:
            first, other = jobs[folder]
            if job == other:
                continue
            raise BatchListError(
                f"{name}: lines {first} and {number} have the same output folder {job.output!r}. Set another one in "
                'one of them: {"model": …, "output": …}.'
            )
        jobs[folder] = number, job
    return [job for _, job in jobs.values()]


def _content(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {"model": line}
    content = parse_json(line, _LONGEST_LINE)
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    return content


def _job(content: dict[str, Any], options: Mapping[str, Any], *, of_hub: bool = False) -> Job:
    rest = dict(content)
    model, revision = rest.pop("model", None), rest.pop("revision", None)
    task, output = rest.pop("task", None), rest.pop("output", None)
    if not _is_name(model):
        raise ValueError('it has no "model"')
    for name, value in (("revision", revision), ("task", task), ("output", output)):
        if value is not None and not _is_name(value):
            raise ValueError(f'"{name}" is not a text')
    if refused := refused_options(rest):
        raise ValueError(f'"{refused[0]}" cannot be set per model; pass it on the command line')
    common = dict(options)
    common_task = common.pop("task", "auto")
    if output is None:
        output = _folder_for(model, revision, of_hub=of_hub)
    job = Job(model, normal_output(output), revision, task or common_task, {**common, **rest})
    return replace(job, of_hub=of_hub)


def _is_name(value: Any) -> bool:
    """Return whether a value is a valid name: a text without NUL and without lone surrogates."""
    return isinstance(value, str) and value != "" and "\0" not in value and not re.search("[\ud800-\udfff]", value)


def _folder_for(model: str, revision: str | None, *, of_hub: bool) -> str:
    """Return `org/name`, `org/name@revision`, or the name of a local folder; never a file name."""
    if not of_hub and Path(model).exists():
        return _folder_name(Path(model).resolve().name)
    name, _, named = model.partition("@")
    revision = revision or named
    folder = f"{name}@{revision.replace('/', '-')}" if revision else name
    if not is_inside(folder):
        raise ValueError(f"{model!r} is neither a local folder nor a repo id")
    return _folder_name(folder)


def _folder_name(folder: str) -> str:
    """Return the name of a folder; the exporter would treat `x.onnx` as a file."""
    return f"{folder}-model" if folder.endswith(_ONNX) else folder


def refuse_ambiguous(jobs: Iterable[Job], root: Path) -> None:
    """Reject an output folder (the root) in which an export would have the path of a model's name.

    A second run would use the folder that the first run wrote instead of the model of the Hub.
    """
    jobs = list(jobs)
    outputs = [root.resolve() / job.output for job in jobs]
    created = {path for output in outputs for path in (output, *output.parents)}
    for job in jobs:
        path = Path(job.model).resolve()
        if not job.of_hub and path in created and not path.exists():
            raise ArgumentError(
                f"A batch with the output {root} would create a folder {job.model}, and the next run would use it "
                f"as the model {job.model!r}. Pass another folder, for example `-o exports/`."
            )


def lasting_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that change the files of an export, as plain JSON for journals and manifests.

    Options that are None are omitted. False and 0 are kept, because they have a meaning (`hierarchy`, `pad_token_id`).
    """
    kept = {
        name: value
        for name, value in options.items()
        if value is not None and name not in NOT_OF_A_LIST and name != "verify_hub"  # changes no file
    }
    plain: dict[str, Any] = parse_json(json.dumps(kept, default=str))
    return plain


def is_as_asked(job: Job, entry: Mapping[str, Any]) -> bool:
    """Return whether an export has the options of a job. A journal entry without options matches every job."""
    options = entry.get("options")
    if not isinstance(options, Mapping):
        return True
    return options == lasting_options(job.options) and job.task in (entry.get("asked"), entry.get("task"))
