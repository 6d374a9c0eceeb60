"""What PyTorch's own modules return: the commit's model, run as Optimum's exporter validates an export."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.errors import ComparisonError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import LocalSource, locate

__all__ = ["TorchValues", "open_torch_model"]

_WHOLE: Final = "model"
_BRANCH: Final = "use_cache_branch"
_FAILURES: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError)


class TorchValues:
    """A part of a model, and inputs to run it on.

    Args:
        part: The part that was exported.
        config: Optimum's `OnnxConfig` of it.
        given: Its inputs.
        feeds: The same as the file takes them.
        names: Of its modules in the whole model, by their identity.
    """

    def __init__(
        self, part: Any, config: Any, given: Mapping[str, Any], feeds: Mapping[str, Any], names: Mapping[int, str]
    ) -> None:
        self._part = part
        self._config = config
        self._given = given
        self.feeds = feeds
        self._modules = {names[id(module)]: module for module in part.modules() if id(module) in names}

    def parameters(self, module: str) -> dict[str, Any]:
        """Return a module's own parameters and buffers, as numpy arrays."""
        found = self._modules.get(module)
        if found is None:
            return {}
        tensors = (*found.named_parameters(recurse=False), *found.named_buffers(recurse=False))
        return {name: tensor.detach().float().numpy() for name, tensor in tensors if tensor.is_floating_point()}

    @property
    def modules(self) -> list[str]:
        """Their names."""
        return list(self._modules)

    def returned(self, modules: Sequence[str]) -> dict[str, list[Any]]:
        """Return the float tensors that modules return, those of all their calls in order.

        Raises:
            ComparisonError: The model does not run on the inputs.
        """
        import torch

        seen: dict[str, list[Any]] = defaultdict(list)

        def hook(name: str) -> Any:
            def note(module: Any, given: Any, result: Any) -> None:
                seen[name] += [tensor.detach().float().numpy().copy() for tensor in _tensors(result)]

            return note

        hooks = [self._modules[name].register_forward_hook(hook(name)) for name in modules if name in self._modules]
        try:
            given = self._config.rename_ambiguous_inputs(copy.deepcopy(dict(self._given)))
            with self._config.patch_model_for_export(self._part), torch.inference_mode():
                self._part(**given)
        except _FAILURES as error:
            raise ComparisonError(f"PyTorch does not run the model on these inputs: {error}") from error
        finally:
            for handle in hooks:
                handle.remove()
        return seen


def _tensors(value: Any) -> Iterator[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def open_torch_model(
    path: Path,
    record: ExportMetadata | None,
    inputs: Sequence[str],
    given: Mapping[str, Any] | None,
    access: HubAccess,
) -> TorchValues:
    """Load the model that a file was exported from, and make inputs for it.

    Args:
        path: The file.
        record: Of it.
        inputs: Names of what it takes.
        given: Inputs by name; None for those of Optimum's own dummy run.
        access: How to reach the Hub.

    Raises:
        ComparisonError: The file does not say which model it is from, or that one cannot be run.
        HFHubIntegrationError: It cannot be had; the subclass says why.
    """
    if record is None or record.task is None or record.export_library not in (None, "transformers"):
        raise ComparisonError(
            f"{path} is not known to be an export of a transformers model: there is no PyTorch model to compare it "
            "with."
        )
    source = locate(record.hub_id, record.hub_sha, access) if record.hub_id else LocalSource(path.parent)
    checkpoint = fetch_checkpoint(source, access, record.export_library)
    checkpoint.refuse_code()
    folder = checkpoint.folder
    try:
        whole, part, config = _loaded(folder, record)
        names: dict[int, str] = {}
        for name, module in whole.named_modules():
            names.setdefault(id(module), name)
        made, feeds = _made(config, inputs, given)
    except _FAILURES as error:
        raise ComparisonError(f"The model of {path} cannot be run in PyTorch: {error}") from error
    return TorchValues(part, config, made, feeds, names)


def _loaded(folder: Path, record: ExportMetadata) -> tuple[Any, Any, Any]:
    """Return the whole model, the part of it that the file is, and Optimum's config of that part."""
    import optimum.exporters.onnx.model_configs  # noqa: F401 - where Optimum's table of models is filled
    import torch
    import transformers
    from optimum.exporters.onnx.utils import _get_submodels_and_onnx_configs
    from optimum.utils.save_utils import maybe_load_preprocessors

    found: Any = getattr(transformers, str(record.model_class), None)
    with torch.random.fork_rng(devices=[]):
        known: Any = found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
        if known is not None:
            model = known.from_pretrained(folder)
        else:
            from optimum.exporters.tasks import TasksManager

            model = TasksManager.get_model_from_task(record.task, folder, framework="pt", library_name="transformers")
    model = model.float().eval()
    _, parts = _get_submodels_and_onnx_configs(
        model=model,
        task=str(record.task),
        monolith=not record.onnx_files and model.config.is_encoder_decoder,
        custom_onnx_configs={},
        custom_architecture=False,
        _variant="default",
        library_name="transformers",
        preprocessors=maybe_load_preprocessors(folder),
    )
    name = PurePosixPath(record.onnx_file or _WHOLE).stem
    known = [part for part in parts if name.startswith(part) and "_merged" not in name]
    part, config = parts[max(known, key=len, default=next(reversed(parts)))]
    return model, part, config


def _made(
    config: Any, inputs: Sequence[str], given: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the model takes, and the same as the file takes it."""
    import numpy as np
    import torch
    from optimum.utils import DEFAULT_DUMMY_SHAPES

    if given is not None:
        unknown = [name for name in given if name.startswith("past_key_values")]
        if unknown:
            raise ValueError(f"{unknown[0]} cannot be given to PyTorch one by one: leave out --inputs")
        return {name: torch.from_numpy(array.copy()) for name, array in given.items()}, dict(given)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = config.generate_dummy_inputs(framework="pt", **DEFAULT_DUMMY_SHAPES)
    flat: dict[str, Any] = {}
    renamed = config.rename_ambiguous_inputs(copy.deepcopy(made))
    for name, value in config.generate_dummy_inputs_for_validation(renamed, list(inputs)).items():
        if isinstance(value, (list, tuple)):
            parts = config.flatten_output_collection_property(name, value)
            flat.update({part: tensor.cpu().numpy() for part, tensor in parts.items()})
        else:
            flat[name] = value.cpu().numpy()
    if _BRANCH in inputs:
        flat.setdefault(_BRANCH, np.array([True]))  # a merged decoder is compared as the part that has a past
    return made, flat
