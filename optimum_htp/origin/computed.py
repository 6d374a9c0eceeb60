"""Tensors that a model's code makes of its config: tables of positions, rotary frequencies, means of images.

They are no weights, no checkpoint has them, and exports do. The model is built from its config, its parameters on
PyTorch's meta device and everything else for real.
"""

from __future__ import annotations

from typing import Any, Final

from optimum_htp.errors import ConfigLoadError
from optimum_htp.forking import ForkSafeLock

__all__ = ["computed_tensors"]

_BUILDING: Final = ForkSafeLock()
_LARGEST: Final = 1 << 26  # elements
_FAILURES: Final = (ValueError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError, KeyError)


def computed_tensors(class_name: str | None, config: Any) -> list[tuple[str, Any]]:
    """Return the tensors that a model of transformers has before any weights are loaded, by name, as numpy arrays.

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
            model = known._from_config(config) if known is not None else transformers.AutoModel.from_config(config)
    except _FAILURES as error:
        raise ConfigLoadError(f"{class_name or 'The model'} cannot be built from its config: {error}") from error
    tensors = []
    for name, module in model.named_modules():
        parts = {**dict(module.named_buffers(recurse=False)), **vars(module)}
        for leaf, tensor in parts.items():
            whole = isinstance(tensor, torch.Tensor) and not isinstance(tensor, torch.nn.Parameter)
            if whole and not tensor.is_meta and tensor.is_floating_point() and 1 < tensor.numel() < _LARGEST:
                tensors.append((f"{name}.{leaf}" if name else leaf, tensor.detach().float().numpy()))
    return tensors
