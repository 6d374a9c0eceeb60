"""The output values of PyTorch's own modules: the commit's model, run on the inputs of the export."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ComparisonError, UntrustedCodeError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.sample_inputs import SIZES, WHOLE, sample_inputs, traced_parts
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import TensorSpec
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import LocalSource, locate
from optimum_htp.profiling.inputs import default_sizes
from optimum_htp.profiling.optimum_inputs import (
    exported_part,
    fitting_sizes,
    inputs_of_part,
    refuse_mismatches,
    with_fixed_shapes,
)
from optimum_htp.resolve.export_manifest import ExportManifest, manifest_of

__all__ = ["TorchValues", "open_torch_model"]

_BRANCH: Final = "use_cache_branch"
_MASK: Final = "attention_mask"  # The end of the names of all masks.
_FAILURES: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, RuntimeError, OSError)


class TorchValues:
    """A part of a model, and inputs to run it on.

    `run` runs it on its inputs, as in the export. `feeds` are the inputs in the form of the file, `names` the names of
    its modules in the whole model, by identity.
    """

    def __init__(
        self, part: Any, run: Callable[[], object], feeds: Mapping[str, Any], names: Mapping[int, str], folder: Path
    ) -> None:
        self._part = part
        self._run = run
        self.feeds = feeds
        self.folder = folder
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
        """The names of the modules."""
        return list(self._modules)

    def returned(self, modules: Sequence[str]) -> dict[str, list[Any]]:
        """Return the float tensors that modules return, of all their calls in order.

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
            with torch.inference_mode():
                self._run()
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
    inputs: Sequence[TensorSpec],
    given: Mapping[str, Any] | None,
    access: HubAccess,
    trusted: bool,
) -> TorchValues:
    """Load the model that a file was exported from, and generate inputs for it.

    `given` are inputs by name; None for those of Optimum's dummy run.

    Raises:
        ComparisonError: The file has no record, or its model cannot be run.
        UntrustedCodeError: It needs untrusted code of its repo.
        InputSizeError: The file fixes an input size that the model does not generate.
        HFHubIntegrationError: It cannot be downloaded; the subclass gives the reason.
    """
    if record is None or record.task is None or record.export_library not in (None, "transformers"):
        raise ComparisonError(
            f"{path} has no record of a transformers model, so there is no PyTorch model to compare it with. Add a "
            "record with `optimum-cli htp inject`."
        )
    source = locate(record.hub_id, record.hub_sha, access) if record.hub_id else LocalSource(path.parent)
    checkpoint = fetch_checkpoint(source, access, record.export_library)
    if not trusted:
        checkpoint.refuse_code()
        if _known_class(record) is None and any(name.endswith(".py") for name in record.config_files or ()):
            raise UntrustedCodeError(
                f"{record.model_class} is code of {record.source}, which is not trusted. Pass --trust-remote-code "
                "(trust_remote_code=True) if you trust it."
            )
    folder = checkpoint.folder
    manifest = manifest_of(path, record)
    try:
        model = _whole_model(folder, record, trusted)
        if manifest is not None:
            component = _component(path, record, manifest)
            part, run, feeds = _traced(model, folder, component, inputs, given)
        else:
            part, config = exported_part(model, record, folder, inputs, default_sizes())
            made, feeds = _made(config, inputs, given)
            run = _as_optimum(part, config, made)
    except _FAILURES as error:
        raise ComparisonError(f"The model of {path} cannot be run in PyTorch: {error}") from error
    if given is None:
        refuse_mismatches(_shapes(feeds), inputs)
    names: dict[int, str] = {}
    for name, module in model.named_modules():
        names.setdefault(id(module), name)
    return TorchValues(part, run, feeds, names, folder)


def _component(path: Path, record: ExportMetadata, manifest: ExportManifest) -> str:
    """Return the name of the component that a file contains."""
    names = {file: name for name, file in manifest.files.items()}
    return names.get(record.onnx_file or path.name) or next(iter(manifest.files))


def _traced(
    model: Any,
    folder: Path,
    component: str,
    inputs: Sequence[TensorSpec],
    given: Mapping[str, Any] | None,
) -> tuple[Any, Callable[[], object], dict[str, Any]]:
    """Return the part of a model that transformers traced, a function that runs it, and the file's inputs."""
    import torch
    from transformers.exporters.utils import onnx_feed

    generates = component != WHOLE
    names = [spec.name for spec in inputs]

    def make(sizes: Mapping[str, int]) -> tuple[Any, dict[str, Any]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole: dict[str, Any] = sample_inputs(model, folder, generates=generates, **sizes)
            part, made = traced_parts(model, whole, generates=generates)[component]
        # A stage of generation that was traced with a mask of ones has no mask input.
        return part, {name: value for name, value in made.items() if name in names or not name.endswith(_MASK)}

    if given is not None:
        part, made = make({})
        if unknown := [name for name in given if name not in made]:
            raise ValueError(f"{unknown[0]} is not an input of the PyTorch model: leave out --inputs")
        made |= {name: torch.from_numpy(array.copy()) for name, array in given.items()}
    else:
        part, made = make(fitting_sizes(lambda sizes: _shapes(onnx_feed(names, make(sizes)[1])), SIZES, inputs))
        made = with_fixed_shapes(made, inputs)
    return part, lambda: part(**copy.deepcopy(made)), onnx_feed(names, made)


def _shapes(arrays: Mapping[str, Any]) -> dict[str, Sequence[int]]:
    return {name: array.shape for name, array in arrays.items()}


def _as_optimum(part: Any, config: Any, made: Mapping[str, Any]) -> Callable[[], object]:
    """Return a function that runs a part as Optimum's exporter validates an export."""

    def run() -> None:
        given = config.rename_ambiguous_inputs(copy.deepcopy(dict(made)))
        with config.patch_model_for_export(part):
            part(**given)

    return run


def _known_class(record: ExportMetadata) -> Any:
    """Return the class in a record; None if transformers does not have it."""
    import transformers

    found: Any = getattr(transformers, str(record.model_class), None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None


def _whole_model(folder: Path, record: ExportMetadata, trusted: bool) -> Any:
    """Return the model of the class in a record; if transformers does not have it, of another class for its task."""
    import torch

    with torch.random.fork_rng(devices=[]):
        if (known := _known_class(record)) is not None:
            model = known.from_pretrained(folder)
        else:
            from optimum.exporters.tasks import TasksManager

            model = TasksManager.get_model_from_task(
                record.task, folder, framework="pt", library_name="transformers", trust_remote_code=trusted
            )
    return model.float().eval()


def _made(
    config: Any, inputs: Sequence[TensorSpec], given: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the model's inputs, and the same in the form of the file."""
    import numpy as np
    import torch

    if given is not None:
        unknown = [name for name in given if name.startswith("past_key_values")]
        if unknown:
            raise ValueError(f"{unknown[0]} cannot be passed to PyTorch separately: leave out --inputs")
        return {name: torch.from_numpy(array.copy()) for name, array in given.items()}, dict(given)
    made, flat = inputs_of_part(config, inputs, default_sizes())
    if _BRANCH in {spec.name for spec in inputs}:
        flat.setdefault(_BRANCH, np.array([True]))  # A merged decoder is compared as the part with a past.
    return made, flat
