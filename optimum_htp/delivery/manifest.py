"""The manifest of a batch: every file that was exported, with its digest, from which commit, and how.

    {"optimum_htp_manifest": 1,
     "folder": ".",
     "versions": {"optimum-htp": "0.1.0", "torch": "2.13.0", …},
     "models": [{"model": "org/name", "revision": null, "commit": "…", "output": "org/name", "task": "…",
                 "options": {"opset": 17}, "files": [{"name": "model.onnx", "size": 1, "sha256": "…"}]}]}

`folder` is the batch's, relative to the manifest's own; a model's `output` is in there, and its files in that. A model
that was exported with other versions has `versions` of its own. Where an earlier run exported it and did not note how,
its `options` are null and its `versions` empty: nothing is said that nobody knows.

Read from somebody else it is untrusted: names that lead out are refused, and so is whatever is said of a machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from optimum_htp.delivery.jobs import Job, is_inside, names_a_repo, normal_output, refused_options
from optimum_htp.delivery.work import Outcome, WrittenFile
from optimum_htp.errors import ManifestError
from optimum_htp.masking import masked
from optimum_htp.onnxfile.digests import sha256_of_file
from optimum_htp.onnxfile.outputs import OutputKind, starts_with, write_document
from optimum_htp.parsing import parse_json

__all__ = [
    "MANIFEST",
    "Manifest",
    "ManifestModel",
    "differences",
    "fault",
    "manifest_of",
    "read_manifest",
]

_KEY: Final = "optimum_htp_manifest"
_VERSION: Final = 1
_LARGEST: Final = 1 << 26  # bytes: some 200,000 files
MANIFEST: Final = OutputKind("a manifest of a batch", starts_with(f'{{"{_KEY}":'.encode()))
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ManifestModel:
    """One model of a batch.

    Attributes:
        model: Repo id or folder, as the batch was told.
        revision: What it was asked for at; None for the default branch.
        commit: What was exported; None for a folder.
        output: Folder of the export, in the batch's.
        task: Optimum task that was exported.
        options: Further arguments of the export; None where nobody noted them.
        versions: Versions of what exported it, where they are not the manifest's; empty where nobody noted them.
        files: What was written.
    """

    model: str
    output: str
    task: str
    revision: str | None = None
    commit: str | None = None
    options: Mapping[str, Any] | None = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    files: tuple[WrittenFile, ...] = ()

    def job(self) -> Job:
        """Return what exports it again, at its commit: what has one was a Hub's, whatever folder is here now."""
        of_hub = self.commit is not None and names_a_repo(self.model)
        options = dict(self.options or {})
        return Job(self.model, self.output, self.revision, self.task, options, commit=self.commit, of_hub=of_hub)


@dataclass(frozen=True)
class Manifest:
    """What a batch exported.

    Attributes:
        folder: The batch's folder.
        models: What is in there.
        versions: Versions of what exported them, by distribution; of those models that have none of their own.
    """

    folder: Path
    models: tuple[ManifestModel, ...]
    versions: Mapping[str, str]

    def versions_of(self, model: ManifestModel) -> Mapping[str, str]:
        """Return the versions of what exported a model; empty where nobody noted them."""
        return self.versions if model.versions is None else model.versions

    def files(self) -> dict[Path, tuple[ManifestModel, WrittenFile]]:
        """Return all files by their paths."""
        return {self.folder / model.output / file.name: (model, file) for model in self.models for file in model.files}

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write it to a file.

        Args:
            path: The file. One that is there has to be a manifest.
            force: Whether it may replace a file of another kind.

        Raises:
            ProtectedFileError: There is a file that a manifest may not replace.
            ManifestError: The file cannot be written.
        """
        content = {
            _KEY: _VERSION,
            "folder": Path(os.path.relpath(self.folder, path.parent)).as_posix(),
            "versions": dict(self.versions),
            "models": [_plain(model) for model in self.models],
        }
        try:
            text = json.dumps(masked(content), indent=1, ensure_ascii=False) + "\n"
            write_document(text.encode(), path, MANIFEST, inputs=self.files(), force=force)
        except OSError as error:
            raise ManifestError(f"The manifest {path} cannot be written: {error.strerror or error}.") from error


def _plain(model: ManifestModel) -> dict[str, Any]:
    plain = asdict(model)
    if model.versions is None:
        del plain["versions"]
    return plain


def manifest_of(jobs: Iterable[Job], outcomes: Mapping[str, Outcome], folder: Path) -> Manifest:
    """Return the manifest of those jobs that are done, by their folders."""
    models = []
    for job in sorted(jobs, key=lambda job: job.output):
        outcome = outcomes[job.output]
        if outcome.state in ("done", "whole"):
            task = outcome.task or job.task
            models.append(
                ManifestModel(
                    model=job.model,
                    output=job.output,
                    task=task,
                    revision=job.revision,
                    commit=outcome.commit,
                    options=outcome.options,
                    versions=outcome.versions or {},
                    files=outcome.files,
                )
            )
    return _with_common_versions(folder, models)


def _with_common_versions(folder: Path, models: Sequence[ManifestModel]) -> Manifest:
    """Return a manifest that says once what most of its models were exported with."""
    known = [model.versions for model in models if model.versions]
    common = max(known, key=known.count, default={})
    kept = (replace(model, versions=None) if model.versions == common else model for model in models)
    return Manifest(folder, tuple(kept), common)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: It cannot be read, is none, or names files outside its folder.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or _KEY not in content:
            raise ValueError("it is JSON, but no manifest of a batch")
        if content[_KEY] != _VERSION:
            raise ValueError(f"it is of version {content[_KEY]!r}, and this release reads version {_VERSION}")
        folder = _text(content, "folder")
        if Path(folder).is_absolute():
            raise ValueError("its folder is not relative to it")
        models = tuple(_model(model) for model in _list(content, "models"))
        versions = _versions(content.get("versions"))
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path} cannot be read as a manifest: {error}. `optimum-cli htp batch … --manifest FILE` writes one."
        ) from error
    outputs = [model.output.casefold() for model in models]
    if len(set(outputs)) != len(outputs):
        raise ManifestError(f"{path} has two models in one folder. Write it anew.")
    return Manifest(path.parent / folder, models, versions)


def _model(content: Any) -> ManifestModel:
    if not isinstance(content, dict):
        raise ValueError("one of its models is no JSON object")
    name, output = _text(content, "model"), normal_output(_text(content, "output"))
    options = content.get("options", {})
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"the options of {name!r} are no JSON object")
    if refused := refused_options(options or {}):
        raise ValueError(f"the options of {name!r} have {refused[0]!r}, which is for whoever runs a batch to say")
    commit, revision = content.get("commit"), content.get("revision")
    if commit is not None and not (isinstance(commit, str) and _COMMIT.fullmatch(commit)):
        raise ValueError(f"the commit of {name!r} is none")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"the revision of {name!r} is no text")
    return ManifestModel(
        model=name,
        output=output,
        task=_text(content, "task"),
        revision=revision,
        commit=commit,
        options=options,
        versions=_versions(content["versions"]) if "versions" in content else None,
        files=tuple(_file(file) for file in _list(content, "files")),
    )


def _versions(content: Any) -> dict[str, str]:
    """Return versions by distribution; they are told to people, and nothing else goes by them."""
    if not isinstance(content, dict):
        return {}
    return {name: version for name, version in content.items() if isinstance(version, str)}


def _file(content: Any) -> WrittenFile:
    if not isinstance(content, dict):
        raise ValueError("one of its files is no JSON object")
    name, size, digest = _text(content, "name"), content.get("size"), _text(content, "sha256")
    if not is_inside(name):
        raise ValueError(f"{name!r} leads out of its folder")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not _SHA256.fullmatch(digest):
        raise ValueError(f"size or sha256 of {name!r} is none")
    return WrittenFile(name, size, digest)


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f'"{key}" is no text')
    return value


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise ValueError(f'"{key}" is no list')
    return value


def fault(path: Path, expected: WrittenFile) -> str | None:
    """Return what is wrong with a file that a manifest tells of, or None. Reads all of it."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"It has {size} bytes, and the manifest says {expected.size}."
        found = sha256_of_file(path)
    except OSError as error:
        return f"The manifest names it, and it cannot be read: {error.strerror or error}."
    return None if found == expected.sha256 else f"Its sha256 is {found}, and the manifest says {expected.sha256}."


def differences(manifest: Manifest, outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return the files, relative to the batch's folder, that were reproduced with other bytes, or not at all."""
    different = []
    for model in manifest.models:
        outcome = outcomes.get(model.output)
        if outcome is None or outcome.state not in ("done", "whole"):
            continue  # its failure has been told
        theirs, ours = _digests(model.files), _digests(outcome.files)
        different += [
            f"{model.output}/{name}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
    return different


def _digests(files: Sequence[WrittenFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}
