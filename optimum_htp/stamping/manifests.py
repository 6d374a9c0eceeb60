"""The manifest of a batch: every exported file with its digest, its commit and the export options.

    {"optimum_htp_manifest": 1,
     "folder": ".",
     "versions": {"optimum-htp": "0.1.0", "torch": "2.13.0", …},
     "models": [{"model": "org/name", "revision": null, "commit": "…", "output": "org/name", "task": "…",
                 "options": {"opset": 17}, "files": [{"name": "model.onnx", "size": 1, "sha256": "…"}]}]}

`folder` is the batch's folder, relative to the folder of the manifest. `output` is relative to `folder`, and file
names are relative to `output`. A model that was exported with other versions has its own `versions`. If an earlier run
exported a model without recording options and versions, `options` is null and `versions` is empty.

A manifest is untrusted input. Names that lead out of the folder are rejected, and so are options that only the command
line may set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ManifestError
from optimum_htp.masking import masked
from optimum_htp.onnxfile.canonical import sha256_of_file
from optimum_htp.onnxfile.outputs import OutputKind, starts_with, write_document
from optimum_htp.parsing import is_commit, is_inside, is_sha256, parse_json
from optimum_htp.stamping.verify import Status, Verdict, verify_metadata

if TYPE_CHECKING:
    from optimum_htp.hubs.base import HubAccess

__all__ = [
    "MANIFEST",
    "Manifest",
    "ManifestModel",
    "NOT_OF_A_LIST",
    "WrittenFile",
    "fault",
    "normal_output",
    "read_manifest",
    "refused_options",
    "verify_listed",
    "verify_manifest",
]

_KEY: Final = "optimum_htp_manifest"
_VERSION: Final = 1
_LARGEST: Final = 1 << 26  # Bytes; about 200,000 files.
MANIFEST: Final = OutputKind("a manifest of a batch", starts_with(f'{{"{_KEY}":'.encode()))
NOT_OF_A_LIST: Final = frozenset({"output_path", "model_name_or_path", "token", "cache_dir", "trust_remote_code"})
"""Arguments of an export that only the command line of a batch may set, not a list or a manifest."""

_ONNX: Final = ".onnx"


@dataclass(frozen=True)
class WrittenFile:
    """A file that an export wrote: path relative to the job's folder, size in bytes, and digest in hexadecimal."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class ManifestModel:
    """One model of a batch.

    Attributes:
        model: Repo id or folder, as given to the batch.
        output: Folder of the export, relative to the batch's folder.
        revision: The requested revision; None for the default branch.
        commit: The exported commit; None for a folder.
        options: Further arguments of the export; None if they are unknown.
        versions: Versions of packages at export, if they differ from the manifest's; empty if they are unknown.
    """

    model: str
    output: str
    task: str
    revision: str | None = None
    commit: str | None = None
    options: Mapping[str, Any] | None = field(default_factory=dict)
    versions: Mapping[str, str] | None = None
    files: tuple[WrittenFile, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """The result of a batch. The versions of packages, by distribution, are for models without their own."""

    folder: Path
    models: tuple[ManifestModel, ...]
    versions: Mapping[str, str]

    def versions_of(self, model: ManifestModel) -> Mapping[str, str]:
        """Return the versions of packages at a model's export; empty if they are unknown."""
        return self.versions if model.versions is None else model.versions

    def files(self) -> dict[Path, tuple[ManifestModel, WrittenFile]]:
        """Return all files by their paths."""
        return {self.folder / model.output / file.name: (model, file) for model in self.models for file in model.files}

    def write(self, path: Path, *, force: bool = False) -> None:
        """Write the manifest to a file. `force` is whether to replace a file of another kind."""
        content: dict[str, Any] = {
            _KEY: _VERSION,
            "folder": Path(os.path.relpath(self.folder, path.parent)).as_posix(),
            "versions": dict(self.versions),
            "models": [asdict(model) for model in self.models],
        }
        for model in content["models"]:
            if model["versions"] is None:
                del model["versions"]
        try:
            text = json.dumps(masked(content), indent=1, ensure_ascii=False) + "\n"
            write_document(text.encode(), path, MANIFEST, inputs=self.files(), force=force)
        except OSError as error:
            raise ManifestError(f"The manifest {path} cannot be written: {error.strerror or error}.") from error


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: It cannot be read, is not a manifest, or contains names outside its folder.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST} bytes")
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict) or _KEY not in content:
            raise ValueError("it is JSON, but not a manifest of a batch")
        if content[_KEY] != _VERSION:
            raise ValueError(f"it has version {content[_KEY]!r}, but this release reads version {_VERSION}")
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
        raise ManifestError(
            f"{path} has two models in one folder. Write it again with `optimum-cli htp batch … --manifest FILE`."
        )
    return Manifest(path.parent / folder, models, versions)


def _model(content: Any) -> ManifestModel:
    if not isinstance(content, dict):
        raise ValueError("one of its models is not a JSON object")
    name, output = _text(content, "model"), normal_output(_text(content, "output"))
    options = content.get("options", {})
    if options is not None and not isinstance(options, dict):
        raise ValueError(f"the options of {name!r} are not a JSON object")
    if refused := refused_options(options or {}):
        raise ValueError(
            f"the options of {name!r} contain {refused[0]!r}, which only the command line of a batch may set"
        )
    commit, revision = content.get("commit"), content.get("revision")
    if commit is not None and not is_commit(commit):
        raise ValueError(f"the commit of {name!r} is not a commit")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"the revision of {name!r} is not a string")
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
    """Return versions by distribution. They are shown to users only."""
    if not isinstance(content, dict):
        return {}
    return {name: version for name, version in content.items() if isinstance(version, str)}


def _file(content: Any) -> WrittenFile:
    if not isinstance(content, dict):
        raise ValueError("one of its files is not a JSON object")
    name, size, digest = _text(content, "name"), content.get("size"), _text(content, "sha256")
    if not is_inside(name):
        raise ValueError(f"{name!r} leads out of its folder")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or not is_sha256(digest):
        raise ValueError(f"size or sha256 of {name!r} is invalid")
    return WrittenFile(name, size, digest)


def _text(content: Mapping[str, Any], key: str) -> str:
    value = content.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f'"{key}" is not a string')
    return value


def _list(content: Mapping[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    if not isinstance(value, list):
        raise ValueError(f'"{key}" is not a list')
    return value


def normal_output(output: str) -> str:
    """Return the normal spelling of a folder of a batch: `x` for `./x`, `x/` and `x//.`.

    Raises:
        ValueError: The folder is outside the batch's folder, or has the name of an ONNX file.
    """
    normal = PurePosixPath(output).as_posix()
    if not is_inside(normal):
        raise ValueError(f'"output" leads out of the batch\'s folder: {output!r}')
    if normal.endswith(_ONNX):
        raise ValueError(f'"output" must be a folder, but {output!r} is the name of an ONNX file: leave out {_ONNX}')
    return normal


def refused_options(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the options that a list or a manifest must not set."""
    return sorted(NOT_OF_A_LIST & options.keys())


def fault(path: Path, expected: WrittenFile) -> str | None:
    """Return the difference between a file and its entry in a manifest, or None. Reads the whole file."""
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"It has {size} bytes, the manifest lists {expected.size}."
        found = sha256_of_file(path)
    except OSError as error:
        return f"The manifest lists it, but it cannot be read: {error.strerror or error}."
    return None if found == expected.sha256 else f"Its sha256 is {found}, the manifest lists {expected.sha256}."


def verify_listed(path: Path, model: ManifestModel, file: WrittenFile, access: HubAccess | None = None) -> Verdict:
    """Return whether a file matches its entry in a manifest, and for an ONNX file also whether its record is true."""
    if (reason := fault(path, file)) is not None:
        return Verdict(Status.INVALID, reason)
    if path.suffix != _ONNX:
        return Verdict(Status.OK, "matches the manifest")
    verdict = verify_metadata(path, access)
    commit = verdict.metadata.hub_sha if verdict.metadata is not None else None
    if commit == model.commit:
        return verdict
    reason = f"It is from {commit or 'no commit'}, the manifest lists {model.commit or 'none'}."
    return Verdict(Status.INVALID, reason, verdict.metadata)


def verify_manifest(
    path: str | os.PathLike[str],
    access: HubAccess | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> dict[Path, Verdict]:
    """Return whether the files of a manifest match their entries, by path.

    Args:
        path: The manifest.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Raises:
        ManifestError: The manifest cannot be read.
        HFHubIntegrationError: As `verify_metadata`.
    """
    access = HubAccess.of(access, token, cache_dir, local_files_only)
    listed = read_manifest(Path(path)).files()
    return {file: verify_listed(file, model, written, access) for file, (model, written) in listed.items()}
