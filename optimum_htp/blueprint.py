"""A model without its weights, built from its config on PyTorch's meta device, and its module tree."""

from __future__ import annotations

from typing import Any

from optimum_htp.checkpoint import Checkpoint
from optimum_htp.errors import ConfigLoadError
from optimum_htp.hierarchy.capture import module_tree
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.resolve import ConfigFolder, load_config
from optimum_htp.tasks import class_for_task

__all__ = ["build_model", "tree_of_checkpoint"]


def tree_of_checkpoint(checkpoint: Checkpoint, task: str | None, *, trust_remote_code: bool = False) -> ModuleTree:
    """Return the module tree of the class that a checkpoint is exported as for a task.

    Args:
        checkpoint: The model's files; its weights are not needed.
        task: Optimum task; None for the one that the model is for.
        trust_remote_code: Whether code of the repo may run.

    Raises:
        ConfigLoadError: The config cannot be loaded, or names no class that can be built.
    """
    if checkpoint.library != "transformers":
        raise ConfigLoadError(
            f"The modules of a {checkpoint.library} model cannot be told from its config: give --from with the file "
            "as it was exported."
        )
    config = load_config(ConfigFolder(checkpoint.folder), None, trust_remote_code=trust_remote_code)
    named = next(iter(config.architectures or ()), None)
    name = class_for_task(task, config.to_dict(), checkpoint.library) or named if task is not None else named
    model = build_model(name, config, trust_remote_code=trust_remote_code)
    return module_tree(model, model)


def build_model(class_name: str | None, config: Any, *, trust_remote_code: bool = False) -> Any:
    """Return a model of transformers without its weights.

    Args:
        class_name: Its class; where transformers has none of that name, the one that `AutoModel` takes.
        config: Its config.
        trust_remote_code: Whether code of the repo may run.

    Raises:
        ConfigLoadError: The config is none that it can be built from.
    """
    import torch
    import transformers

    model_class = getattr(transformers, str(class_name), None)
    try:
        with torch.device("meta"):
            if model_class is None:
                return transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
            return model_class._from_config(config) if hasattr(model_class, "_from_config") else model_class(config)
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError) as error:
        raise ConfigLoadError(f"{class_name or 'The model'} cannot be built from its config: {error}") from error
