"""Calling Optimum's exporter: its options as they are, and the models that it exported in return.

`main_export` keeps the model to itself, and we have to know its class (and its modules). So the function that
it hands the loaded model to is watched while it runs.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ExportError, HFHubIntegrationError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hierarchy.capture import ExportedParts, watched_exports
from optimum_htp.origin.dependencies import needing_optimum_onnx
from optimum_htp.starting import without_current_folder

__all__ = ["export_from_folder", "export_loaded_model", "load_timm", "optimum_options"]

# One at a time: exporting patches the model's modules, Optimum's and ours.
_EXPORTING: Final = ForkSafeLock(threading.RLock)

# Where a model comes from and goes to is decided here: Optimum only sees a folder.
_NOT_FORWARDED: Final = {"model_name_or_path", "output", "revision", "subfolder", "kwargs_shapes"}
# What `main_export` does while it loads a model has been done to a model in memory, or has not.
_LOADING_ONLY: Final = ("dtype", "pad_token_id", "framework", "trust_remote_code", "use_subprocess")


def export_from_folder(
    folder: Path, output: Path, options: Mapping[str, Any], *, name: str, hierarchy: bool
) -> tuple[Any, ExportedParts]:
    """Export the model in a folder with `optimum.exporters.onnx.main_export`.

    Args:
        folder: The model's files.
        output: Where to write.
        options: Arguments of `main_export`.
        name: What errors call the model.
        hierarchy: Whether to note the modules of its nodes.

    Returns:
        The PyTorch model or diffusers pipeline that was exported, and its parts.

    Raises:
        ExportError: Optimum refuses or fails; its reason is in the message and chained.
    """
    from optimum.exporters.onnx import main_export

    with (
        _EXPORTING.held(),
        without_current_folder(),  # Optimum validates files in processes of its own
        _loaded_models() as models,
        watched_exports(output, lambda: models[-1], wanted=hierarchy) as parts,
        _refusals_as_export_errors(name),
    ):
        main_export(model_name_or_path=os.fspath(folder), output=output, **options)
    return models[-1], parts


def export_loaded_model(model: Any, output: Path, options: Mapping[str, Any], *, hierarchy: bool) -> ExportedParts:
    """Export a model in memory with `optimum.exporters.onnx.onnx_export_from_model`; return its parts.

    Options that only matter to loading a model are left out.

    Raises:
        ExportError: Optimum refuses or fails; its reason is in the message and chained.
    """
    from optimum.exporters.onnx import onnx_export_from_model
    from optimum.utils import DEFAULT_DUMMY_SHAPES

    known = set(inspect.signature(onnx_export_from_model).parameters) | set(DEFAULT_DUMMY_SHAPES)
    refused = [name for name in options if name not in known and name not in _LOADING_ONLY]
    if options.get("dtype") is not None or options.get("pad_token_id") is not None or refused:
        raise TypeError(
            f"{', '.join(refused) or 'dtype and pad_token_id'} cannot be given for a model in memory: change the "
            "model before you export it (`model.half()`, `model.config.pad_token_id = …`)."
        )
    options = {name: value for name, value in options.items() if name in known}
    with (
        _EXPORTING.held(),
        without_current_folder(),
        watched_exports(output, lambda: model, wanted=hierarchy) as parts,
        _refusals_as_export_errors(type(model).__name__),
    ):
        onnx_export_from_model(model, output, **options)
    return parts


def optimum_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Translate options, named as on the command line or as in Python, to arguments of `main_export`.

    The names are held against the installed Optimum's own signature, so an option that it gains is passed on
    without a change here.

    Raises:
        TypeError: Optimum's exporter has no such option.
    """
    with needing_optimum_onnx("Exporting"):
        from optimum.exporters.onnx import main_export
        from optimum.utils import DEFAULT_DUMMY_SHAPES

    known = (set(inspect.signature(main_export).parameters) | set(DEFAULT_DUMMY_SHAPES)) - _NOT_FORWARDED
    translated = {}
    for name, value in options.items():
        positive = f"do_{name.removeprefix('no_')}"
        if name in known:
            translated[name] = value
        elif f"_{name}" in known:
            translated[f"_{name}"] = value
        elif name.startswith("no_") and positive in known:
            translated[positive] = not value
        else:
            raise TypeError(f"Optimum's ONNX exporter has no option {name!r}.")
    return translated


@contextmanager
def _loaded_models() -> Iterator[list[Any]]:
    """Collect the models that `main_export` loads in this thread, at the function that it hands them to."""
    import optimum.exporters.onnx.__main__ as module

    original = module.onnx_export_from_model
    models: list[Any] = []
    mine = threading.get_ident()

    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == mine and (args or "model" in kwargs):
            models.append(kwargs["model"] if "model" in kwargs else args[0])
        return original(*args, **kwargs)

    module.onnx_export_from_model = watched
    try:
        yield models
    finally:
        if module.onnx_export_from_model is watched:
            module.onnx_export_from_model = original


@contextmanager
def _refusals_as_export_errors(model: object) -> Iterator[None]:
    try:
        yield
    except HFHubIntegrationError:
        raise
    except Exception as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ExportError(f"Optimum cannot export {model}: {type(error).__name__}: {text}") from error


def load_timm(folder: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Load a timm model from a folder; Optimum can only load one by its name on the Hub.

    Returns:
        The model, and the options that are left for `export_loaded_model`.

    Raises:
        ExportError: timm is not installed, or cannot load it.
    """
    import torch

    try:
        import timm
    except ImportError as error:
        raise ExportError("This is a timm model: run `pip install timm` to export it.") from error
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    with _refusals_as_export_errors(folder):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, exportable=True)
        model = model.to(options.get("device", "cpu"), dtypes[options.get("dtype") or "fp32"])
    return model, {name: value for name, value in options.items() if name not in ("dtype", "pad_token_id")}
