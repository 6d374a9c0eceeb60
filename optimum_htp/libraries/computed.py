"""Facts about tensors from a model's code. The model is built from its config, with parameters on the meta device.

Some tensors are computed from the config: position tables, rotary frequencies, means of images. Checkpoints do not
contain them, exports do. Some parameters have different names in a checkpoint and in the model.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.forking import ForkSafeLock

__all__ = ["blank_model", "computed_tensors", "saved_names"]

_BUILDING: Final = ForkSafeLock()
_LARGEST: Final = 1 << 26  # Elements.
_FAILURES: Final = (ValueError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError, KeyError)


def blank_model(class_name: str | None, config: Any) -> Any:
    """Return a model of transformers without weights.

    For a class of another architecture than the config's, and for None, the model has the class that `AutoModel` uses.

    Raises:
        ConfigLoadError: The model cannot be built from the config.
    """
    import torch
    import transformers
    from torch.overrides import TorchFunctionMode

    class _EmptyOnMeta(TorchFunctionMode):  # type: ignore[misc]
        """Makes `torch.empty`, with which layers create their parameters, return tensors without content."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.empty:
                kwargs["device"] = "meta"
            return function(*args, **kwargs)

    found = getattr(transformers, str(class_name), None)
    known: Any = found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
    if known is not None and not isinstance(config, known.config_class or object):
        known = None  # The config is of another architecture, for example if a file is checked against another model.
    try:
        with _BUILDING.held(), torch.random.fork_rng(devices=[]), _EmptyOnMeta(), torch.no_grad():
            auto = transformers.AutoModel
            return (known._from_config(config) if known is not None else auto.from_config(config)).eval()
    except _FAILURES as error:
        raise ConfigLoadError(f"{class_name or 'The model'} cannot be built from its config: {error}") from error


def computed_tensors(model: Any, is_saved: Callable[[str], bool]) -> list[tuple[str, Any]]:
    """Return the tensors that a blank model contains or computes from its config, by name, as numpy arrays.

    Parameters that no checkpoint has (`is_saved`) get their initial values.
    """
    import torch

    tensors = []
    for name, module in model.named_modules():
        parts = {**dict(module.named_buffers(recurse=False)), **vars(module), **_begun(model, module, name, is_saved)}
        for leaf, tensor in parts.items():
            if not isinstance(tensor, torch.Tensor) or tensor.is_meta or not tensor.is_floating_point():
                continue
            if 1 < tensor.numel() < _LARGEST:
                tensors.append((_joined(name, leaf), tensor.detach().float().numpy()))
    return tensors


def _begun(model: Any, module: Any, name: str, is_saved: Callable[[str], bool]) -> dict[str, Any]:
    """Return the parameters of a module that no checkpoint has, with the initial values from the model's code."""
    import torch

    lacking = [leaf for leaf, _ in module.named_parameters(recurse=False) if not is_saved(_joined(name, leaf))]
    initialize = getattr(model, "_init_weights", None)
    if not lacking or initialize is None:
        return {}
    parameters = dict(module.named_parameters(recurse=False))
    if sum(parameter.numel() for parameter in parameters.values()) > _LARGEST:
        return {}
    own = copy.copy(module)
    own._parameters = {
        leaf: torch.nn.Parameter(torch.zeros(at.shape), at.requires_grad) for leaf, at in parameters.items()
    }
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            initialize(own)
    except _FAILURES:
        return {}
    return {leaf: own._parameters[leaf].data for leaf in lacking}


def _joined(module: str, leaf: str) -> str:
    return f"{module}.{leaf}" if module else leaf


def saved_names(model: Any, keys: Iterable[str]) -> dict[str, str]:
    """Return the names in a checkpoint (`keys`) of the parameters of a blank model, if they differ in the model."""
    own = dict(model.named_parameters(remove_duplicate=False))
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 renames the checkpoint's tensors one by one.
        renamed = {_loaded_as(model, key): key for key in keys}
        return {name: key for name, key in renamed.items() if name != key}
    names = {id(parameter): name for name, parameter in own.items()}
    try:
        saved = revert_weight_conversion(model, own)
    except _FAILURES:
        return {}
    pairs = ((names.get(id(tensor)), name) for name, tensor in saved.items())
    return {name: saved_as for name, saved_as in pairs if name is not None and name != saved_as}


def _loaded_as(model: Any, key: str) -> str:
    """Return the name that transformers 4 gives to a checkpoint's tensor in a model."""
    for pattern, name in getattr(model, "_checkpoint_conversion_mapping", {}).items():
        renamed, count = re.subn(pattern, name, key)
        if count:
            key = renamed
            break
    fixed = getattr(model, "_fix_state_dict_key_on_load", None)
    return str(fixed(key)[0]) if fixed is not None else key
