"""The subject of an export: a checkpoint's files, a model in memory, or both.

A model in memory may have been changed since it was loaded. Its source is recorded only if its config and its tensors
are equal to those of the commit. Otherwise, or if this cannot be checked, it is a local model that was made from the
source.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ExportError, OptimumHTPError
from optimum_htp.export.loaded_weights import WeightComparison, compare, made_up_tensors
from optimum_htp.hubs.base import HubAccess, RepoInfo
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.tasks import architectures
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import read_graph
from optimum_htp.origin.adapters import commits_of
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.source import HubSource, locate_loaded_model

__all__ = ["ExportSubject", "as_exported", "inspect_loaded_model"]

logger = get_logger(__name__)

_IN_WRAPPER: Final = ("POLY", "XLORA")  # Adapters that peft's wrapper applies at run time.


@dataclass(frozen=True)
class ExportSubject:
    """The subject of an export.

    Attributes:
        model: A model in memory; None if Optimum loads it from the checkpoint.
        checkpoint: Its files; None for a model in memory without files.
        derived_from: The Hub model that a model in memory was loaded from, if it no longer equals that model.
        reason: Why it does not equal that model, or why this cannot be checked.
        made_up: Tensors of a model in memory that its checkpoint lacks.
        base: The files of the base model, if the checkpoint is an adapter.
    """

    model: Any
    checkpoint: Checkpoint | None
    derived_from: str | None = None
    reason: str | None = None
    made_up: tuple[str, ...] = ()
    base: Checkpoint | None = None

    @property
    def name(self) -> str:
        """The name for error messages."""
        if self.checkpoint is None:
            return type(self.model).__name__
        source = self.checkpoint.source
        return f"{source.reference} at {source.commit}" if isinstance(source, HubSource) else str(source.path)

    @property
    def info(self) -> RepoInfo | None:
        """The Hub's information about the checkpoint's commit."""
        source = self.checkpoint.source if self.checkpoint is not None else None
        return source.info if isinstance(source, HubSource) else None

    @property
    def pipeline_tag(self) -> str | None:
        """The Hub's pipeline tag. A model in memory may be of another class than the commit's."""
        return self.info.pipeline_tag if self.info is not None and self.model is None else None

    @property
    def library(self) -> str:
        """The library to export it with."""
        if self.model is None and self.checkpoint is not None:
            return self.checkpoint.library
        root = type(self.model).__module__.partition(".")[0]
        return root if root in ("diffusers", "timm", "sentence_transformers") else "transformers"

    @property
    def config(self) -> Mapping[str, Any]:
        """The part of its config that determines the task."""
        if self.model is None and self.checkpoint is not None:
            return self.checkpoint.config
        config = getattr(self.model, "config", None)
        known = {"architectures": [type(self.model).__name__], "_class_name": type(self.model).__name__}
        return {
            **known,
            "model_type": getattr(config, "model_type", None),
            "auto_map": getattr(config, "auto_map", None),
        }

    @property
    def base_commits(self) -> dict[str, str]:
        """The commits of the repos that the weights of an adapter and its base model come from."""
        return commits_of(self.checkpoint, self.base) if self.checkpoint is not None and self.base is not None else {}

    @contextmanager
    def reading_preprocessors_from(self, empty: Path) -> Iterator[None]:
        """Keep Optimum from requesting preprocessors for `config._name_or_path` from the Hub during the export.

        They are taken from the checkpoint, at its commit, or there are none.
        """
        config = getattr(self.model, "config", None)
        if config is None or not hasattr(config, "_name_or_path") or isinstance(config, dict):
            yield
            return
        before = config._name_or_path
        config._name_or_path = str(empty if self.checkpoint is None else self.checkpoint.folder)
        try:
            yield
        finally:
            config._name_or_path = before


def inspect_loaded_model(model: Any, access: HubAccess, library: str | None) -> ExportSubject:
    """Inspect a model in memory, and download its configs and preprocessors.

    Raises:
        ExportError: It is not a model of a supported library.
        HubUnreachableError: Its config names a Hub model that neither the Hub nor the cache can confirm.
    """
    model = _without_wrapper(model)
    known = ExportSubject(model, None)
    if known.library == "transformers" and not hasattr(model, "config"):
        raise ExportError(f"{known.name} has no config, so it is not a model of a library that Optimum exports.")
    source = locate_loaded_model(model, access)
    if isinstance(source, HubSource):
        checkpoint = fetch_checkpoint(source, access, library, weights=False)
        compared = _compared(model, checkpoint, access, library)
        if compared.difference is None:
            return ExportSubject(model, checkpoint, made_up=compared.made_up)
        return _local(ExportSubject(model, checkpoint), source.repo_id, compared.difference)
    if source.path is not None and (source.path / CONFIG).is_file():
        return ExportSubject(model, fetch_checkpoint(source, access, library))
    return ExportSubject(model, None)


def _without_wrapper(model: Any) -> Any:
    """Return the transformers model inside a peft model. An adapter that is not in its modules is an error."""
    if type(model).__module__.partition(".")[0] != "peft":
        return model
    config = model.active_peft_config
    kind = config.peft_type.value
    if config.is_prompt_learning or kind in _IN_WRAPPER or getattr(config, "alora_invocation_tokens", None):
        raise ExportError(
            f"{type(model).__name__} cannot be exported: its adapter ({kind}) is not in the modules of the model. "
            "Export the result of peft's `merge_and_unload()`, if the adapter can be merged."
        )
    return model.get_base_model()


def as_exported(
    subject: ExportSubject, model_class: type, files: Sequence[Path], modules: Collection[str]
) -> ExportSubject:
    """Return the exported subject. It is not the commit's model if tensors that the checkpoint lacks are in the graph.

    A task other than the checkpoint's own adds an untrained head to the model. Tensors of the class that are not in
    the graph (a pooler that no output needs) do not count. `modules` is empty if the modules of the nodes are unknown.
    """
    checkpoint = subject.checkpoint
    if checkpoint is None or subject.derived_from is not None or not isinstance(checkpoint.source, HubSource):
        return subject
    missing = subject.made_up
    if subject.model is None:
        if subject.base is not None:
            added_to = " at ".join(*commits_of(subject.base).items())
            reason = f"its weights include an adapter, added to {added_to}"
            return _local(subject, checkpoint.source.repo_id, reason)
        if checkpoint.library != "transformers" or model_class.__name__ in architectures(checkpoint.config):
            return subject
        try:
            missing = made_up_tensors(model_class, checkpoint.folder)
        except (OSError, ValueError, RuntimeError) as error:
            reason = f"it cannot be checked whether all of its weights are from the commit ({error})"
            return _local(subject, checkpoint.source.repo_id, reason)
    names = {tensor.name for path in files for tensor in read_graph(path).initializers} if missing else set()
    homes = {name.rpartition(".")[0] for name in missing}
    used = [name for name in missing if name in names or name.rpartition(".")[0] in modules]
    if not modules:  # A transposed weight has lost its name, so the bias of its module is searched for.
        used += [home for home in homes if f"{home}.bias" not in missing]
    if not used:
        return subject
    reason = f"the checkpoint has no {used[0]}, which {model_class.__name__} needs, so it has random values"
    return _local(subject, checkpoint.source.repo_id, reason)


def _local(subject: ExportSubject, repo_id: str, reason: str) -> ExportSubject:
    logger.warning("The model made from %s is exported as a local model: %s.", repo_id, reason)
    return replace(subject, derived_from=repo_id, reason=reason)


def _compared(model: Any, checkpoint: Checkpoint, access: HubAccess, library: str | None) -> WeightComparison:
    """Compare a model in memory with its commit."""
    try:
        return compare(model, fetch_checkpoint(checkpoint.source, access, library).folder)
    except (OptimumHTPError, OSError, ValueError, RuntimeError) as error:
        return WeightComparison(f"it cannot be checked whether its weights are from the commit ({error})")
