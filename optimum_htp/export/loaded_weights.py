"""Whether a model equals its commit: its config, modules and tensors are compared with the checkpoint.

The checkpoint is loaded a second time, by the model's own class. So everything that a library does to tensors at
loading (rename, split, tie, cast) is done to both sides.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.libraries.names import SCHEDULER, SCHEDULER_CONFIG
from optimum_htp.libraries.repo_files import read_json

__all__ = ["WeightComparison", "compare", "lacking", "made_up_tensors"]

# These values may differ between two configs of one model, and do not change the graph.
_VOLATILE: Final = frozenset(
    {
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation",
        "_attn_implementation_internal",
        "_attn_implementation_autoset",
        "architectures",
        "auto_map",
        "export_model_type",  # Optimum's exporter leaves it in exported models.
        "dtype",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_diffusers_version",
        "_use_default_values",
    }
)


@dataclass(frozen=True)
class WeightComparison:
    """The result of comparing a model in memory with its checkpoint.

    Attributes:
        difference: The first difference, as a clause; None without one.
        made_up: Names of tensors that the checkpoint lacks, so that loading initializes them at random.
    """

    difference: str | None = None
    made_up: tuple[str, ...] = ()


def compare(model: Any, folder: Path) -> WeightComparison:
    """Compare a model of transformers, or a pipeline of diffusers, with the checkpoint that it was loaded from.

    This needs memory for a second copy of the model, or for a pipeline of its largest part.

    Raises:
        OSError, ValueError, RuntimeError: The library cannot load the checkpoint.
    """
    from torch import nn

    if isinstance(model, nn.Module):
        loaded, missing = _loaded(type(model), folder)
        return WeightComparison(_difference(model, loaded, missing), missing)
    for name, part in model.components.items():
        if isinstance(part, nn.Module):
            loaded, _ = _loaded(type(part), folder / name)
            if (reason := _difference(part, loaded, ())) is not None:
                return WeightComparison(f"in {name} {reason}")
    return WeightComparison(_scheduler_difference(model.components.get("scheduler"), folder / SCHEDULER))


def made_up_tensors(model_class: Any, folder: Path) -> tuple[str, ...]:
    """Return the names of the tensors of a class that its checkpoint lacks; the exceptions are those of `compare`."""
    return _loaded(model_class, folder)[1]


def _loaded(model_class: Any, folder: Path) -> tuple[Any, tuple[str, ...]]:
    """Load a checkpoint again; return the model, and the names of its tensors that the checkpoint lacks."""
    import torch

    with torch.random.fork_rng(devices=[]):  # Tensors that the checkpoint lacks are random.
        loaded, report = model_class.from_pretrained(folder, output_loading_info=True)
    return loaded, lacking(loaded, report)


def lacking(model: Any, report: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a model's tensors that its checkpoint lacks, from the report of `from_pretrained`."""
    missing = report["missing_keys"]  # Older versions of transformers prefix them with the name of the base model.
    known = {ending for key in missing for ending in (key, key.partition(".")[2])}
    return tuple(sorted({name for name, _ in _tensors(model) if name in known}))


def _difference(model: Any, loaded: Any, left_out: Collection[str]) -> str | None:
    if changed := _changed(model.config, loaded.config):
        return f"its config differs in {_listed(changed)}"
    kinds = {name: _kind(module) for name, module in model.named_modules()}
    for name, module in loaded.named_modules():
        if kinds.pop(name, None) != _kind(module):
            return f"the module {name!r} was replaced"
    if kinds:
        return f"the modules {_listed(kinds)} were added"
    tensors, stored = dict(_tensors(model)), dict(_tensors(loaded))
    if tensors.keys() != stored.keys():
        return f"the tensors {_listed(tensors.keys() ^ stored.keys())} were added or removed"
    for name, tensor in tensors.items():
        if name not in left_out and not _equal(tensor, stored[name]):
            return f"the values of {name} were changed"
    return None


def _scheduler_difference(scheduler: Any, folder: Path) -> str | None:
    """Return how a pipeline's scheduler, which is not a module, differs from the checkpoint's; None if it is equal."""
    stored = read_json(folder / SCHEDULER_CONFIG)
    if scheduler is None or not isinstance(stored, dict):
        return None
    if type(scheduler).__name__ != stored.get("_class_name"):
        return f"its scheduler is a {type(scheduler).__name__}"
    changed = _changed(scheduler.config, type(scheduler).from_pretrained(folder).config)
    return f"its scheduler's config differs in {_listed(changed)}" if changed else None


def _kind(module: Any) -> tuple[str, str]:
    """Return the name of a module's class. A parametrized module (weight norm) has a class of its own."""
    return type(module).__module__, type(module).__qualname__


def _changed(config: Any, other: Any) -> list[str]:
    """Return the keys of the values that differ between two configs."""
    ours, theirs = _settings(config), _settings(other)
    return [key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)]


def _settings(config: Any) -> dict[str, Any]:
    """Return the values of a config of transformers or diffusers, except those that differ between loads."""

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: kept(inner) for key, inner in value.items() if key not in _VOLATILE}
        return list(map(kept, value)) if isinstance(value, (list, tuple)) else value

    settings: dict[str, Any] = kept(config.to_dict() if hasattr(config, "to_dict") else dict(config))
    return settings


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _equal(tensor: Any, stored: Any) -> bool:
    """Whether a tensor equals the checkpoint's, in its own precision."""
    import torch

    if tensor.shape != stored.shape:
        return False
    mine, theirs = tensor.detach().cpu(), stored.detach().to(device="cpu", dtype=tensor.dtype)
    return torch.equal(mine, theirs) or bool(torch.isclose(mine, theirs, rtol=0, atol=0, equal_nan=True).all())


def _listed(names: Any) -> str:
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else str(first)
