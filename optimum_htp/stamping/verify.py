"""Holding what an ONNX file says about itself against the Hub.

Three different things can be wrong, and each is told apart: the record is invalid (or there is none, or the Hub
has no such commit), the Hub cannot be reached, or the model at that commit does not fit the graph.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from optimum_htp import plugins
from optimum_htp.errors import (
    AccessDeniedError,
    ConfigFileNotFoundError,
    DownloadError,
    HFHubIntegrationError,
    HubUnreachableError,
    InvalidModelReferenceError,
    InvalidOnnxFileError,
    MetadataError,
    ModelNotFoundError,
)
from optimum_htp.hubs.base import HubAccess, RepoInfo
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import read_graph
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.origin.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.origin.fit import misfit
from optimum_htp.origin.graph_fit import graph_misfit
from optimum_htp.origin.names import CONFIG
from optimum_htp.origin.parameters import Parameters, parameters_of
from optimum_htp.origin.repo_files import read_json
from optimum_htp.stamping.proof import prove

__all__ = ["Status", "Verdict", "verify_metadata"]


class Status(Enum):
    """What `verify_metadata` finds; the value is the exit code of `optimum-cli htp verify`."""

    OK = 0
    INVALID = 1
    MISFIT = 3
    UNREACHABLE = 4


@dataclass(frozen=True)
class Verdict:
    """A finding, in a sentence."""

    status: Status
    reason: str
    metadata: ExportMetadata | None = None


def verify_metadata(path: str | os.PathLike[str], access: HubAccess | None = None) -> Verdict:
    """Check the record of an ONNX file: its form, that the Hub has the commit, that the graph fits its config.

    Raises:
        OnnxFileNotFoundError: There is nothing at the path.
        FileChangedError: The file was replaced meanwhile.
    """
    with unchanged(path):
        return _verdict(Path(path), access or HubAccess())


def _verdict(path: Path, access: HubAccess) -> Verdict:
    try:
        record = read_record(path)
    except (MetadataError, InvalidOnnxFileError) as error:
        return Verdict(Status.INVALID, str(error))
    if record is None:
        return Verdict(
            Status.INVALID, "It has no record of where it came from. Add one with `optimum-cli htp inject`."
        )
    if record.model_type == "local":
        return _with_local_config(path, record)
    files: tuple[str, ...] = ()
    changed: str | None = None
    try:
        hub = plugins.hub(record.hub_provider)
        if record.hub_sha is not None:
            info = hub.info(str(record.hub_id), record.hub_sha, access)
            if info.commit != record.hub_sha:
                return Verdict(Status.INVALID, f"The Hub answers commit {info.commit} when asked for it.", record)
            files, changed = info.files, _changed_weights(record, info)
        proof = prove(path, record, access)
        if proof is not None and proof.fault is not None:
            return Verdict(Status.INVALID, proof.fault, record)
        folder, config = None, proof.config if proof is not None else None
        if config is None:
            diffusion = record.export_library == "diffusers"  # its parts have configs of their own
            folder = (resolve_preprocessors if diffusion else resolve_configs)(record, access).folder
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
    )
    return Verdict(Status.MISFIT, changed, record) if changed and verdict.status is Status.OK else verdict


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


def _with_local_config(path: Path, record: ExportMetadata) -> Verdict:
    proof = prove(path, record, None)
    if proof is not None and proof.fault is not None:
        return Verdict(Status.INVALID, proof.fault, record)
    beside = path.parent / CONFIG
    if beside.is_file():
        config, where = read_json(beside), "beside it"
    elif proof is not None and proof.config is not None:
        config, where = proof.config, "in it"
    else:
        return Verdict(Status.OK, "It is of a local model, and there is no config.json beside it to compare.", record)
    return _with_config(
        path,
        record,
        config,
        f"is of a local model, and fits the config.json {where}",
        lambda: parameters_of(path.parent, (), HubAccess(local_files_only=True), None),
    )


def _with_config(
    path: Path, record: ExportMetadata, config: Any, success: str, parameters: Callable[[], Parameters | None]
) -> Verdict:
    if not isinstance(config, dict):
        if record.export_library == "diffusers":  # its parts have configs of their own
            return Verdict(Status.OK, success, record)
        return Verdict(Status.INVALID, f"The {CONFIG} of {record.source} is not a config.", record)
    if record.submodule is not None:  # the config says nothing of the inputs and outputs of a module
        return Verdict(Status.OK, f"says that it is the module {record.submodule}; the whole {success}", record)
    try:
        reason = misfit(config, record, path) or graph_misfit(
            config, record.task, read_graph(path), record.export_library, parameters
        )
    except HFHubIntegrationError as error:
        return Verdict(Status.INVALID, str(error), record)
    if reason is not None:
        return Verdict(Status.MISFIT, f"The config of {record.source} does not fit: {reason}.", record)
    return Verdict(Status.OK, success, record)
