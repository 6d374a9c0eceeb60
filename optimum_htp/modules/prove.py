"""Checks whether the weights in a file are those of a commit: each is matched to a tensor of the commit's safetensors.

The tensors that a file needs are read with range requests or from the cache. Each weight, and each module, gets a
result: `proven` (equal to a tensor of the commit, unchanged or transposed), `derived` (computed from tensors: cast,
folded, quantized), `constant` (not a weight, with the reason), `unchecked` (it cannot be decoded, or the code that
computes it cannot run), or `foreign`.

A tensor must match its place: its name, and the module in which it is used. In files without tags and names it may be
any tensor of the commit.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import HubUnreachableError, MetadataError, OptimumHTPError, UnprovableWeightsError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hierarchy.tags import tagged_assignment
from optimum_htp.hierarchy.tree import ROOT, ancestors, parent_of
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.libraries.computed import blank_model
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.tasks import infer_library
from optimum_htp.metadata import ExportMetadata
from optimum_htp.modules.proof.commit_tensors import CommitTensors, open_folder, open_hub_commit
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.judge import Judge
from optimum_htp.modules.proof.model_code import ModelCode
from optimum_htp.onnxfile.contents import StoredTensor, tensors_of
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.reader import header_of, opened
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.origin.evidence import names_below
from optimum_htp.origin.source import HubSource, LocalSource, locate
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.commit_files import ConfigFolder
from optimum_htp.resolve.configs import load_config

__all__ = ["Evidence", "Proof", "WeightFinding", "prove_weights"]

_THREADS: Final = 8  # In parallel, because each waits for its bytes most of the time.
_ORDER: Final = list(Evidence)
_LOADING: Final = ForkSafeLock()

Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Proof:
    """The results for the weights of a file.

    Attributes:
        source: The commit, for messages.
        findings: The result for each tensor, in the order of the file.
        fetched: Bytes that were transferred over the network.
        tagged: Whether modules are known. If not, tensors without a parameter's name were matched by value only.
    """

    source: str
    findings: tuple[WeightFinding, ...] = field(repr=False)
    fetched: int
    tagged: bool

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors of each kind of evidence."""
        found = Counter(finding.evidence for finding in self.findings)
        return {evidence.value: found[evidence] for evidence in Evidence}

    @property
    def foreign(self) -> tuple[WeightFinding, ...]:
        """The tensors that are not from this commit."""
        return tuple(finding for finding in self.findings if finding.evidence is Evidence.FOREIGN)

    @property
    def unchecked(self) -> tuple[WeightFinding, ...]:
        """The tensors that cannot be checked."""
        return tuple(finding for finding in self.findings if finding.evidence is Evidence.UNCHECKED)

    @property
    def modules(self) -> dict[str, Evidence]:
        """The worst result of the weights in each module, including submodules.

        The root has the worst result of all weights, including those without a module.
        """
        worst: dict[str, Evidence] = {}
        for finding in self.findings:
            module_of = finding.module
            # A quantizer's node without a tag: its tensor determines the module.
            if module_of is None and finding.tensors:
                module_of = parent_of(finding.tensors[0])
            for module in {ROOT, *((module_of, *ancestors(module_of)) if module_of is not None else ())}:
                worst[module] = max(worst.get(module, Evidence.CONSTANT), finding.evidence, key=_ORDER.index)
        return dict(sorted(worst.items()))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "source": self.source,
            "counts": self.counts,
            "bytes_fetched": self.fetched,
            "tagged": self.tagged,
            "modules": {module: evidence.value for module, evidence in self.modules.items()},
            "weights": [finding.as_dict() for finding in self.findings],
        }


def prove_weights(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    revision: str | None = None,
    progress: Progress | None = None,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Proof:
    """Compare every weight of an ONNX file with the tensors of a commit.

    A changed float is found in every weight that is `proven`, or `derived` by a cast. In a recomputed weight, a
    relative change of more than 1e-5 is found; in a quantized weight, a change of more than half a step.

    Args:
        path: The file, from any exporter.
        model: A repo id (also with `@revision`) or a folder; None for the model in the record.
        revision: Branch, tag, commit or `refs/pr/N`.
        progress: Called with the number of finished tensors and the total number.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no readable ONNX model at the path.
        FileChangedError: The file or its data was replaced meanwhile.
        MetadataError: It has no record of a commit, and no model is given.
        UnprovableWeightsError: The commit has no safetensors.
        HFHubIntegrationError: They cannot be downloaded; the subclass gives the reason.
    """
    path, access = Path(path), HubAccess.of(access, token, cache_dir, local_files_only)
    with unchanged(path):
        with opened(path, chunk=1 << 16) as window:
            header, graph = header_of(window), graph_of(window)
            record = ExportMetadata.from_properties(header.metadata)
            origin = _origin(path, record, model, revision, access)
            tagged = tagged_assignment(header, graph) is not None
            stored = tensors_of(window, path)
        code = ModelCode(origin.library, origin.model_type, origin.blank_model, origin.tensors)
        judge = Judge(graph, stored, origin.tensors, code, tagged=tagged)
        findings = _judged(judge, stored, progress)
    return Proof(origin.tensors.name, tuple(findings), origin.tensors.fetched, tagged)


def _judged(judge: Judge, stored: Sequence[StoredTensor], progress: Progress | None) -> list[WeightFinding]:
    found: dict[int, WeightFinding] = {}
    open_ones = []
    with DaemonThreads(_THREADS) as pool:
        waiting = {pool.submit(judge.direct, tensor): index for index, tensor in enumerate(stored)}
        for future in as_completed(waiting):
            finding = future.result()
            if finding is None:
                open_ones.append(waiting[future])
            else:
                found[waiting[future]] = finding
                if progress is not None:
                    progress(len(found), len(stored))
    judge.prepare(stored[index] for index in open_ones)
    for index in sorted(open_ones):
        found[index] = judge.derived(stored[index])
        if progress is not None:
            progress(len(found), len(stored))
    return judge.placed([found[index] for index in range(len(stored))])


@dataclass(frozen=True)
class _Origin:
    """The commit that a file is compared with.

    Attributes:
        tensors: Its weights.
        config: Returns the folder of its config.
        model_class: The exported class, if the file records it.
    """

    tensors: CommitTensors
    config: Callable[[], Path]
    record: ExportMetadata | None
    library: str

    def model_type(self) -> str:
        """Return the model type in the config; empty for a config without one."""
        try:
            content = json_or_none((self.config() / CONFIG).read_bytes())
        except (OptimumHTPError, OSError):
            return ""
        return str(content.get("model_type", "")) if isinstance(content, dict) else ""

    def blank_model(self) -> Any:
        """Return the model without weights.

        Raises:
            HFHubIntegrationError: It cannot be built.
        """
        with _LOADING.held():  # Several threads cannot import transformers at once.
            config = load_config(ConfigFolder(self.config()), self.record)
            named = next(iter(getattr(config, "architectures", None) or ()), None)
            return blank_model((self.record.model_class if self.record else None) or named, config)


def _origin(
    path: Path,
    record: ExportMetadata | None,
    model: str | os.PathLike[str] | None,
    revision: str | None,
    access: HubAccess,
) -> _Origin:
    provider = None
    if model is None:
        if record is None:
            raise MetadataError(f"{path} has no record. Name its model with --model.")
        if record.hub_id is None:
            made_from = f" made from {record.base_models}" if record.base_commits else ""
            raise UnprovableWeightsError(
                f"{path} is of a local model{made_from}, so there is no commit to compare with. Pass a folder or a "
                "model with --model."
            )
        provider = record.hub_provider
        hub = plugins.hub(provider)
        commit = record.hub_sha or hub.full_commit(record.hub_id, str(record.hub_revision), access)
        files = _files(record.hub_id, commit, provider, access)
        repo_id = record.hub_id
    else:
        source = locate(model, revision, access)
        record = None if record is None or _is_another(record, source) else record
        if isinstance(source, LocalSource) or source.folder is not None:
            folder = source.folder if isinstance(source, HubSource) else source.path
            if folder is None or not folder.is_dir():
                raise UnprovableWeightsError(
                    f"{model} is not a folder. Pass the folder that contains the model's weights."
                )
            names = names_below(folder)
            part = record.onnx_file if record is not None else None
            library = infer_library(names, {})
            return _Origin(open_folder(folder, names, library, part=part), lambda: folder, record, library)
        repo_id, commit, provider = source.repo_id, source.commit, source.provider
        files = source.info.files if source.info is not None else _files(repo_id, commit, provider, access)
    library = (record.export_library if record is not None else None) or infer_library(files, {})
    tensors = open_hub_commit(
        repo_id,
        commit,
        files,
        library,
        access,
        provider=provider,
        part=record.onnx_file if record is not None else None,
    )
    return _Origin(tensors, lambda: plugins.hub(provider).snapshot(repo_id, commit, [CONFIG], access), record, library)


def _files(repo_id: str, commit: str, provider: str | None, access: HubAccess) -> Sequence[str]:
    """Return the files of a commit; those in the cache if the Hub is unreachable."""
    hub = plugins.hub(provider)
    try:
        return hub.info(repo_id, commit, access).files
    except HubUnreachableError:
        cached = replace(access, local_files_only=True, force_download=False)
        folder = hub.snapshot(repo_id, commit, (), cached)
        if not folder.is_dir():
            raise
        return names_below(folder)


def _is_another(record: ExportMetadata, source: HubSource | LocalSource) -> bool:
    """Whether a file's record is for another model than the given one."""
    known = (record.hub_provider or plugins.HUGGING_FACE, record.hub_id)
    return isinstance(source, HubSource) and known != (source.provider, source.repo_id)
