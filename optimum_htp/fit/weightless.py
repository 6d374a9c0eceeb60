"""A model without its weights, built from its config on PyTorch's meta device: its modules, inputs and shapes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError, UntrustedCodeError
from optimum_htp.fit.blueprint import Blueprint, counted
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hierarchy.capture import module_tree
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.libraries.code_references import code_references
from optimum_htp.libraries.config_content import config_fault
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.tasks import architectures, class_for_task
from optimum_htp.origin.checkpoint import Checkpoint
from optimum_htp.resolve.commit_files import ConfigFolder
from optimum_htp.resolve.configs import load_config

__all__ = ["blueprint_of", "build_model", "config_of", "tree_of_checkpoint"]


# transformers imports a model's module on first use, and fails if several threads do that at once.
_BUILDING: Final = ForkSafeLock()


def blueprint_of(config: Mapping[str, Any], class_name: str | None) -> Blueprint:
    """Return the facts about a model of transformers from its config; the class is that of the config by default.

    ConfigLoadError if it is not a config, or names no class that can be built without code of its repo.
    """
    if (fault := config_fault(config)) is not None:
        raise ConfigLoadError(f"No model can be built from the config: {fault}.")
    for reference in code_references(CONFIG, config):
        raise UntrustedCodeError(f"No model is built from the config: {reference}, which would import code.")
    with _BUILDING.held():
        loaded = config_of(config)
        model = build_model(class_name or next(iter(architectures(config)), None), loaded)
    return Blueprint(
        inputs=frozenset(inspect.signature(model.forward).parameters),
        main_input=getattr(model, "main_input_name", None),
        generates=bool(model.can_generate()),
        layers=layers if isinstance(layers := getattr(loaded, "num_hidden_layers", None), int) else None,
        names=frozenset(name for name, _ in (*model.named_parameters(), *model.named_buffers())),
        prefixes=frozenset({str(config.get("model_type")), str(model.base_model_prefix)}),
        shapes=counted(parameter.shape for parameter in model.parameters()),
    )


def config_of(config: Mapping[str, Any]) -> Any:
    """Return the content of a config of transformers as an object of the class for its model type."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    try:
        kind = CONFIG_MAPPING[str(config.get("model_type"))]
        return kind.from_dict(copy.deepcopy(dict(config)))  # It removes parts of its argument.
    except (KeyError, ValueError, TypeError, AttributeError, OSError) as error:
        raise ConfigLoadError(f"The config of a {config.get('model_type')} model cannot be loaded: {error}") from error


def tree_of_checkpoint(checkpoint: Checkpoint, task: str | None, *, trust_remote_code: bool = False) -> ModuleTree:
    """Return the module tree of the class that a checkpoint is exported as for a task; None is the model's own task.

    ConfigLoadError if there is no config, or it names no class that can be built.
    """
    if checkpoint.library != "transformers":
        raise ConfigLoadError(
            f"The modules of a {checkpoint.library} model cannot be derived from its config. Pass --from with the "
            "exported file."
        )
    checkpoint.require_config()
    if not trust_remote_code:
        checkpoint.refuse_code()
    config = load_config(ConfigFolder(checkpoint.folder), None, trust_remote_code=trust_remote_code)
    named = next(iter(config.architectures or ()), None)
    name = class_for_task(task, config.to_dict(), checkpoint.library) or named if task is not None else named
    model = build_model(name, config, trust_remote_code=trust_remote_code)
    return module_tree(model, model)


def build_model(class_name: str | None, config: Any, *, trust_remote_code: bool = False) -> Any:
    """Return a model of transformers without its weights; ConfigLoadError if the config does not allow it.

    If transformers does not have the class, it is the one that `AutoModel` uses.
    """
    import torch
    import transformers

    if (fault := config_fault(config.to_dict())) is not None:
        raise ConfigLoadError(f"No model can be built from the config: {fault}.")
    model_class = _pytorch_class(class_name)
    try:
        with torch.device("meta"):
            if model_class is None:
                return transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
            return model_class._from_config(config) if hasattr(model_class, "_from_config") else model_class(config)
    except (ValueError, TypeError, AttributeError, ImportError, RuntimeError, NotImplementedError) as error:
        raise ConfigLoadError(f"{class_name or 'The model'} cannot be built from its config: {error}") from error


def _pytorch_class(name: str | None) -> Any:
    """Return a class of transformers; None for a class of a repo, or of a framework that is not installed."""
    import transformers

    plain = str(name).removeprefix("TF").removeprefix("Flax")
    found = getattr(transformers, plain, None)
    return found if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel) else None
