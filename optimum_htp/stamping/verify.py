"""Check the record of an ONNX file against the Hub.

There are three kinds of failure: the record is invalid (or missing, or the Hub has no such commit), the Hub cannot be
reached, or the model at that commit does not match the graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from optimum_htp import plugins
from optimum_htp.errors import (
    AccessDeniedError,
    ConfigFileNotFoundError,
    DownloadError,
    HubUnreachableError,
    InvalidModelReferenceError,
    InvalidOnnxFileError,
    MetadataError,
    ModelNotFoundError,
    OptimumHTPError,
)
from optimum_htp.fit.blueprint import Parameters, parameters_of
from optimum_htp.fit.graphs import graph_fit, task_fit
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import read_graph
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.origin import mirrors
from optimum_htp.origin.evidence import require_unchanged
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.config_fit import mismatch
from optimum_htp.resolve.order import MIRROR, asks
from optimum_htp.stamping.embed import files_of_model
from optimum_htp.stamping.embedded_check import check_embedded

__all__ = ["Status", "Verdict", "verify_metadata"]


class Status(Enum):
    """Results of `verify_metadata`. The value is the exit code of `optimum-cli htp verify`."""

    OK = 0
    INVALID = 1
    MISMATCH = 3
    UNREACHABLE = 4


@dataclass(frozen=True)
class Verdict:
    """The result of a check, with a reason.

    Attributes:
        status: The result.
        reason: The reason, as a sentence.
        metadata: The record; None if it cannot be read.
        checked: The checks that were done: `commit`, `weight files`, `embedded files`, `config`, `outputs`, `shapes`,
            `parts`.
        unchecked: The checks that could not be done, with the reason. Only `prove_weights` compares values of weights.
    """

    status: Status
    reason: str
    metadata: ExportMetadata | None = None
    checked: tuple[str, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Checks:
    """The checks of a file: those that were done, and those that could not be done."""

    path: Path
    record: ExportMetadata
    done: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, why_not: str | None) -> None:
        """Note that a check was done, or why it could not be done."""
        if why_not is None:
            self.done.append(what)
        else:
            self.left_out[what] = why_not

    def ok(self, reason: str) -> Verdict:
        """Return the result for a file without a fault."""
        return Verdict(Status.OK, reason, self.record, tuple(self.done), dict(self.left_out))

    def failed(self, reason: str, status: Status = Status.INVALID) -> Verdict:
        """Return the result for a file with a fault, or whose Hub cannot be reached."""
        return Verdict(status, reason, self.record)


def verify_metadata(
    path: str | os.PathLike[str],
    access: HubAccess | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Verdict:
    """Check the record of an ONNX file: its form, its commit on the Hub, and the graph against the config.

    Args:
        path: The file.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Raises:
        OnnxFileNotFoundError: The path does not exist.
        FileChangedError: The file was replaced meanwhile.
    """
    with unchanged(path):
        return _verdict(Path(path), HubAccess.of(access, token, cache_dir, local_files_only))


def _verdict(path: Path, access: HubAccess) -> Verdict:
    try:
        record = read_record(path)
    except (MetadataError, InvalidOnnxFileError) as error:
        return Verdict(Status.INVALID, str(error))
    if record is None:
        return Verdict(Status.INVALID, "It has no record. Add one with `optimum-cli htp inject`.")
    checks = _Checks(path, record)
    _note_parts(checks)
    if record.model_type == "local":
        return _with_local_config(checks)
    files: tuple[str, ...] = ()
    changed: str | None = None
    try:
        hub = plugins.hub(record.hub_provider)
        info, mirrored = _asked(hub, record, access)
        if mirrored is not None:
            files = mirrored
            for what in ("commit", "weight files"):
                checks.note(what, "the Hub is unreachable; a mirror has files of the commit")
        elif info is not None:
            if info.commit != record.hub_sha:
                return checks.failed(f"The Hub returned commit {info.commit} for the commit in the record.")
            files, changed = info.files, _changed_weights(record, info)
            checks.note("commit", None)
            checks.note("weight files", _why_not_weights(record, info))
        else:
            checks.note("commit", "the record contains only its first characters")
        proof = check_embedded(path, record, access if mirrored is None else None)
        if proof is not None and mirrored is not None:
            proof = replace(proof, unproven="the Hub is unreachable")
        if proof is not None and proof.fault is not None:
            return checks.failed(proof.fault)
        if proof is not None:
            checks.note("embedded files", proof.unproven)
        folder, config = None, proof.config if proof is not None else None
        if config is None:
            diffusion = record.export_library == "diffusers"  # Its parts have their own configs.
            found = (resolve_preprocessors if diffusion else resolve_configs)(record, access)
            folder, at = found.folder, found.commit[2] if found.commit is not None else ""
            require_unchanged(hub, str(record.hub_id), at, folder, [CONFIG], access)
    except (HubUnreachableError, DownloadError) as error:  # A truncated response is no result for the file.
        return checks.failed(str(error), Status.UNREACHABLE)
    except AccessDeniedError as error:
        reason = f"The commit is on the Hub, but its config cannot be downloaded. {error}"
        return checks.failed(reason, Status.UNREACHABLE)
    except (ModelNotFoundError, ConfigFileNotFoundError, InvalidModelReferenceError) as error:
        return checks.failed(str(error))
    asked = record.hub_provider in (None, plugins.HUGGING_FACE) and record.hub_sha is not None
    commit = (str(record.hub_id), str(record.hub_sha)) if asked else None
    verdict = _with_config(
        checks,
        config if folder is None else read_json(folder / CONFIG),
        f"matches {record.source}{proof.words if proof is not None else ''}",
        lambda: parameters_of(folder, files, access, commit),
    )
    return checks.failed(changed, Status.MISMATCH) if changed and verdict.status is Status.OK else verdict


def _asked(hub: Hub, record: ExportMetadata, access: HubAccess) -> tuple[RepoInfo | None, tuple[str, ...] | None]:
    """Return the Hub's information about the commit in a record, or a mirror's files if the Hub is unreachable."""
    if record.hub_sha is None:
        return None, None
    try:
        return hub.info(str(record.hub_id), record.hub_sha, access), None
    except HubUnreachableError:
        there = mirrors.listed(hub.name, str(record.hub_id), record.hub_sha, access) if asks(MIRROR) else None
        if there is None:
            raise
        return None, tuple(sorted(there))


def _changed_weights(record: ExportMetadata, info: RepoInfo) -> str | None:
    """Return a sentence about the first weight file of the repo that changed since the export, or None."""
    for name, digest in (record.weight_files or {}).items():
        stated = info.digests.get(name, digest)  # A mirror may have no digest.
        if name not in info.files or stated != digest:
            what = f"has the sha256 {stated}" if name in info.files else "no longer exists"
            return (
                f"{name} of {record.source} {what}; at export, its sha256 was {digest}. The file in the repo was "
                "replaced. Check the weights against a trusted commit with --weights --model ID@COMMIT."
            )
    return None


def _why_not_weights(record: ExportMetadata, info: RepoInfo) -> str | None:
    """Return why the repo's weight files were not compared with those at export; None if they were."""
    if not record.weight_files:
        return "the record has no digests of them"
    unstated = [name for name in record.weight_files if name not in info.digests]
    return f"the Hub has no digest of {unstated[0]}" if unstated else None


def _note_parts(checks: _Checks) -> None:
    """Note whether the other files of a model exist."""
    if checks.record.onnx_file is not None:
        there = {other.onnx_file for other in files_of_model(checks.path, checks.record).values()}
        missing = [name for name in checks.record.onnx_files if name not in there]
        checks.note("parts", f"{', '.join(missing)} of the same model is missing" if missing else None)


def _with_local_config(checks: _Checks) -> Verdict:
    path, record = checks.path, checks.record
    proof = check_embedded(path, record, None)
    if proof is not None and proof.fault is not None:
        return checks.failed(proof.fault)
    if proof is not None:
        checks.note("embedded files", None)
    made_from = f", made from {record.base_models}" if record.base_commits else ""
    checks.note("commit", f"the record contains none: it is a local model{made_from}")
    adjacent = path.parent / CONFIG
    if adjacent.is_file():
        config, where = read_json(adjacent), "next to it"
    elif proof is not None and proof.config is not None:
        config, where = proof.config, "in it"
    else:
        for what in ("config", "shapes"):
            checks.note(what, f"there is no {CONFIG} next to it or in it")
        return _with_graph(checks, {}, "is of a local model; there is no config.json next to it to compare with")
    success = f"is of a local model, and matches the config.json {where}"
    return _with_config(
        checks, config, success, lambda: parameters_of(path.parent, (), HubAccess(local_files_only=True), None)
    )


def _with_config(checks: _Checks, config: Any, success: str, parameters: Callable[[], Parameters | None]) -> Verdict:
    record = checks.record
    if not isinstance(config, dict):
        if record.export_library != "diffusers":
            return checks.failed(f"The {CONFIG} of {record.source} is not a config.")
        checks.note("config", "the parts of a pipeline have their own configs")
        return _with_graph(checks, {}, success)
    if record.submodule is None:
        if (reason := mismatch(config, record, checks.path)) is not None:
            return checks.failed(f"The config of {record.source} does not match: {reason}.", Status.MISMATCH)
        checks.note("config", None)
    return _with_graph(checks, config, success, parameters)


def _with_graph(
    checks: _Checks,
    config: Mapping[str, Any],
    success: str,
    parameters: Callable[[], Parameters | None] | None = None,
) -> Verdict:
    """Compare the graph with the task and, if the config is known, with the model."""
    record, library = checks.record, checks.record.export_library
    if record.submodule is not None:
        for what in ("config", "outputs", "shapes"):
            checks.note(what, "the file is a module of the model, but the config is for the whole model")
        return checks.ok(f"is the module {record.submodule} according to its record; the whole model {success}")
    try:
        graph = read_graph(checks.path)
        if config or library == "diffusers":
            fit = graph_fit(config, record.task, graph, library, parameters)
        else:
            fit = task_fit(config, record.task, graph, library)
    except OptimumHTPError as error:
        return checks.failed(str(error))
    if fit.mismatch is not None:
        return checks.failed(f"The config of {record.source} does not match: {fit.mismatch}.", Status.MISMATCH)
    for what in ("outputs", "shapes"):
        if what not in checks.left_out:
            checks.note(what, fit.unchecked.get(what))
    return checks.ok(success)
