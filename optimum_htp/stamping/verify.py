"""Holding what an ONNX file says about itself against the Hub.

Three different things can be wrong, and each is told apart: the record is invalid (or there is none, or the Hub
has no such commit), the Hub cannot be reached, or the model at that commit does not fit the graph.
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
from optimum_htp.fit.graphs import graph_fit, task_fit
from optimum_htp.fit.parameters import Parameters, parameters_of
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import read_graph
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.origin import mirrors
from optimum_htp.origin.evidence import require_unchanged
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.config_fit import misfit
from optimum_htp.resolve.order import MIRROR, asks
from optimum_htp.stamping.embed import files_of_model
from optimum_htp.stamping.embedded_check import check_embedded

__all__ = ["Status", "Verdict", "verify_metadata"]


class Status(Enum):
    """What `verify_metadata` finds; the value is the exit code of `optimum-cli htp verify`."""

    OK = 0
    INVALID = 1
    MISFIT = 3
    UNREACHABLE = 4


@dataclass(frozen=True)
class Verdict:
    """A finding, in a sentence.

    Attributes:
        status: What was found.
        reason: The same in words.
        metadata: The record; None where it cannot be read.
        checked: What was compared, of `commit`, `weight files`, `embedded files`, `config`, `outputs`, `shapes` and
            `parts`.
        unchecked: What could not be compared, and why. Values of weights are compared with `prove_weights` alone.
    """

    status: Status
    reason: str
    metadata: ExportMetadata | None = None
    checked: tuple[str, ...] = ()
    unchecked: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Checks:
    """What was compared until now, and what could not be."""

    done: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, why_not: str | None) -> None:
        """Note that something was compared, or why it could not be."""
        if why_not is None:
            self.done.append(what)
        else:
            self.left_out[what] = why_not

    def ok(self, reason: str, record: ExportMetadata) -> Verdict:
        """Return the verdict on a file in which nothing is wrong."""
        return Verdict(Status.OK, reason, record, tuple(self.done), dict(self.left_out))


def verify_metadata(
    path: str | os.PathLike[str],
    access: HubAccess | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Verdict:
    """Check the record of an ONNX file: its form, that the Hub has the commit, that the graph fits its config.

    Args:
        path: The file.
        access: How to reach the Hub; `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Raises:
        OnnxFileNotFoundError: There is nothing at the path.
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
        return Verdict(
            Status.INVALID, "It has no record of where it came from. Add one with `optimum-cli htp inject`."
        )
    checks = _Checks()
    _note_parts(path, record, checks)
    if record.model_type == "local":
        return _with_local_config(path, record, checks)
    files: tuple[str, ...] = ()
    changed: str | None = None
    try:
        hub = plugins.hub(record.hub_provider)
        info, mirrored = _asked(hub, record, access)
        if mirrored is not None:
            files = mirrored
            for what in ("commit", "weight files"):
                checks.note(what, "the Hub cannot be asked; a mirror has files of the commit")
        elif info is not None:
            if info.commit != record.hub_sha:
                return Verdict(Status.INVALID, f"The Hub answers commit {info.commit} when asked for it.", record)
            files, changed = info.files, _changed_weights(record, info)
            checks.note("commit", None)
            checks.note("weight files", _why_not_weights(record, info))
        else:
            checks.note("commit", "the record has only its first characters")
        proof = check_embedded(path, record, access if mirrored is None else None)
        if proof is not None and mirrored is not None:
            proof = replace(proof, unproven="the Hub cannot be asked")
        if proof is not None and proof.fault is not None:
            return Verdict(Status.INVALID, proof.fault, record)
        if proof is not None:
            checks.note("embedded files", proof.unproven)
        folder, config = None, proof.config if proof is not None else None
        if config is None:
            diffusion = record.export_library == "diffusers"  # its parts have configs of their own
            found = (resolve_preprocessors if diffusion else resolve_configs)(record, access)
            folder, at = found.folder, found.commit[2] if found.commit is not None else ""
            require_unchanged(hub, str(record.hub_id), at, folder, [CONFIG], access)
    except (HubUnreachableError, DownloadError) as error:  # an answer that is cut off says nothing of the file
        return Verdict(Status.UNREACHABLE, str(error), record)
    except AccessDeniedError as error:
        return Verdict(Status.UNREACHABLE, f"The commit is on the Hub, its config is not to be had. {error}", record)
    except (ModelNotFoundError, ConfigFileNotFoundError, InvalidModelReferenceError) as error:
        return Verdict(Status.INVALID, str(error), record)
    asked = record.hub_provider in (None, plugins.HUGGING_FACE) and record.hub_sha is not None
    commit = (str(record.hub_id), str(record.hub_sha)) if asked else None
    verdict = _with_config(
        path,
        record,
        config if folder is None else read_json(folder / CONFIG),
        f"is {record.source}, as it says{proof.words if proof is not None else ''}",
        lambda: parameters_of(folder, files, access, commit),
        checks,
    )
    return Verdict(Status.MISFIT, changed, record) if changed and verdict.status is Status.OK else verdict


def _asked(hub: Hub, record: ExportMetadata, access: HubAccess) -> tuple[RepoInfo | None, tuple[str, ...] | None]:
    """Return what the Hub says of a file's commit; where it cannot be reached, the files of it that a mirror has.

    Raises:
        HFHubIntegrationError: It says that there is no such commit, or cannot be reached, and no mirror has it.
    """
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
    """Return which of a repo's own weight files is no longer the one that a file was exported from, in words."""
    for name, digest in (record.weight_files or {}).items():
        stated = info.digests.get(name, digest)  # a mirror may state none
        if name not in info.files or stated != digest:
            what = f"has the sha256 {stated}" if name in info.files else "is not there any more"
            return (
                f"{name} of {record.source} {what}, and was {digest} at export: the repo's own file was replaced. "
                "Hold its weights against a commit that you trust, with --weights --model ID@COMMIT."
            )
    return None


def _why_not_weights(record: ExportMetadata, info: RepoInfo) -> str | None:
    """Return why a repo's own weight files were not compared with those at export, None where they were."""
    if not record.weight_files:
        return "the record has no digests of them"
    unstated = [name for name in record.weight_files if name not in info.digests]
    return f"the Hub states no digest of {unstated[0]}" if unstated else None


def _note_parts(path: Path, record: ExportMetadata, checks: _Checks) -> None:
    """Note whether the other files of a model are there: a file alone says nothing of them."""
    if record.onnx_file is not None:
        there = {other.onnx_file for other in files_of_model(path, record).values()}
        missing = [name for name in record.onnx_files if name not in there]
        checks.note("parts", f"{', '.join(missing)} of the same model is not here" if missing else None)


def _with_local_config(path: Path, record: ExportMetadata, checks: _Checks) -> Verdict:
    proof = check_embedded(path, record, None)
    if proof is not None and proof.fault is not None:
        return Verdict(Status.INVALID, proof.fault, record)
    if proof is not None:
        checks.note("embedded files", None)
    made_from = f", made from {record.base_models}" if record.base_commits else ""
    checks.note("commit", f"the record names none: it is a local model{made_from}")
    beside = path.parent / CONFIG
    if beside.is_file():
        config, where = read_json(beside), "beside it"
    elif proof is not None and proof.config is not None:
        config, where = proof.config, "in it"
    else:
        why = f"there is no {CONFIG} beside it or in it"
        for what in ("config", "shapes"):
            checks.note(what, why)
        return _with_graph(
            path, record, {}, "is of a local model, and there is no config.json beside it to compare", None, checks
        )
    return _with_config(
        path,
        record,
        config,
        f"is of a local model, and fits the config.json {where}",
        lambda: parameters_of(path.parent, (), HubAccess(local_files_only=True), None),
        checks,
    )


def _with_config(
    path: Path,
    record: ExportMetadata,
    config: Any,
    success: str,
    parameters: Callable[[], Parameters | None],
    checks: _Checks,
) -> Verdict:
    if not isinstance(config, dict):
        if record.export_library != "diffusers":
            return Verdict(Status.INVALID, f"The {CONFIG} of {record.source} is not a config.", record)
        checks.note("config", "the parts of a pipeline have configs of their own")
        return _with_graph(path, record, {}, success, None, checks)
    if record.submodule is None:
        if (reason := misfit(config, record, path)) is not None:
            return Verdict(Status.MISFIT, f"The config of {record.source} does not fit: {reason}.", record)
        checks.note("config", None)
    return _with_graph(path, record, config, success, parameters, checks)


def _with_graph(
    path: Path,
    record: ExportMetadata,
    config: Mapping[str, Any],
    success: str,
    parameters: Callable[[], Parameters | None] | None,
    checks: _Checks,
) -> Verdict:
    """Compare the graph with the task and, where the config is known, with the model."""
    if record.submodule is not None:
        for what in ("config", "outputs", "shapes"):
            checks.note(what, "the file is a module of the model, and the config is the whole model's")
        return checks.ok(f"says that it is the module {record.submodule}; the whole {success}", record)
    try:
        graph, library = read_graph(path), record.export_library
        if config or library == "diffusers":
            fit = graph_fit(config, record.task, graph, library, parameters)
        else:
            fit = task_fit(config, record.task, graph, library)
    except OptimumHTPError as error:
        return Verdict(Status.INVALID, str(error), record)
    if fit.misfit is not None:
        return Verdict(Status.MISFIT, f"The config of {record.source} does not fit: {fit.misfit}.", record)
    for what in ("outputs", "shapes"):
        if what not in checks.left_out:
            checks.note(what, fit.unchecked.get(what))
    return checks.ok(success, record)
