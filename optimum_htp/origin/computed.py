"""What a model's code says of its tensors. The model is built from its config; its parameters are on the meta device.

Some tensors are made of the config: tables of positions, rotary frequencies, means of images. They are no weights, no
checkpoint has them, and exports do. Some parameters have another name in a checkpoint than in the model.
"""

from __future__ import annotations

from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.forking import ForkSafeLock

__all__ = ["blank_model", "computed_tensors", "saved_names"]

_BUILDING: Final = ForkSafeLock()
_LARGEST: Final = 1 << 26  # elements
_FAILURES: Final = (ValueError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError, KeyError)


def blank_model(class_name: str | None, config: Any) -> Any:
    """Return a model of transformers without weights.

    Args:
        class_name: Its class; None for the one that `AutoModel` takes.
        config: Its config.

    Raises:
        ConfigLoadError: The config is none that it can be built from.
    """
    import torch
    import transformers
    from torch.overrides import TorchFunctionMode

    class _EmptyOnMeta(TorchFunctionMode):  # type: ignore[misc]
        """`torch.empty`, of which layers make their parameters, gives tensors without content."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if function is torch.empty:
                kwargs["device"] = "meta"
            return function(*args, **kwargs)

    found = getattr(transformers, str(class_name), None)
    known: Any = found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
    try:
        with _BUILDING.held(), torch.random.fork_rng(devices=[]), _EmptyOnMeta(), torch.no_grad():
            return known._from_config(config) if known is not None else transformers.AutoModel.from_config(config)
    except _FAILURES as error:
        raise ConfigLoadError(f"{class_name or 'The model'} cannot be built from its config: {error}") from error


def computed_tensors(model: Any) -> list[tuple[str, Any]]:
    """Return the tensors that a blank model has, by name, as numpy arrays."""
    import torch

    tensors = []
    for name, module in model.named_modules():
        parts = {**dict(module.named_buffers(recurse=False)), **vars(module)}
        for leaf, tensor in parts.items():
            whole = isinstance(tensor, torch.Tensor) and not isinstance(tensor, torch.nn.Parameter)
            if whole and not tensor.is_meta and tensor.is_floating_point() and 1 < tensor.numel() < _LARGEST:
                tensors.append((f"{name}.{leaf}" if name else leaf, tensor.detach().float().numpy()))
    return tensors


def saved_names(model: Any) -> dict[str, str]:
    """Return the names under which transformers saves the parameters of a blank model, where those are others."""
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # transformers 4 saves all parameters under their own names
        return {}
    own = dict(model.named_parameters(remove_duplicate=False))
    names = {id(parameter): name for name, parameter in own.items()}
    try:
        saved = revert_weight_conversion(model, own)
    except _FAILURES:
        return {}
    pairs = ((names.get(id(tensor)), name) for name, tensor in saved.items())
    return {name: saved_as for name, saved_as in pairs if name is not None and name != saved_as}
