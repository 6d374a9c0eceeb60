"""Hooks Optimum's `ORTOptimizer` and `ORTQuantizer`: they accept ONNX files with a record and module names, and their
output files get the record."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.libraries.names import CONFIG, ONNX_FILE
from optimum_htp.loading.recognize import local_path, names_a_file

__all__ = ["install"]


def install(module: ModuleType) -> None:
    """Hook into the module that defines one of the classes."""
    if hasattr(module, "ORTOptimizer"):
        wrap_attribute(module.ORTOptimizer, "from_pretrained", _hook_optimizer_from_pretrained)
        wrap_attribute(module.ORTOptimizer, "optimize", _hook_optimize)
    if hasattr(module, "ORTQuantizer"):
        wrap_attribute(module.ORTQuantizer, "from_pretrained", _hook_quantizer_from_pretrained)
        wrap_attribute(module.ORTQuantizer, "quantize", _hook_quantize)


def _hook_optimizer_from_pretrained(call: Call) -> Any:
    source, options = call.subject, call.options()
    if options is None or not isinstance(source, (str, os.PathLike)):
        return call.pass_on()
    names = list(options.get("file_names") or [ONNX_FILE])
    paths = [Path(local_path(source)).expanduser()] if names_a_file(source) else [Path(source, name) for name in names]
    if not names_a_file(source) and (Path(source, CONFIG).exists() or not _are_stamped(source, names[:1])):
        return call.pass_on()  # Optimum reports its own error
    from transformers import AutoConfig

    return call.args[0](paths, config=AutoConfig.from_pretrained(paths[0]), from_ortmodel=False)


def _hook_quantizer_from_pretrained(call: Call) -> Any:
    source, options = call.subject, call.options()
    if options is None or not isinstance(source, (str, os.PathLike)):
        return call.pass_on()
    name = options.get("file_name")
    if name is None and names_a_file(source):
        path = Path(local_path(source)).expanduser()
        source, name = path.parent, path.name
    if name is None:
        return call.pass_on()
    if Path(source, CONFIG).exists() or not _are_stamped(source, [name]):
        return call.pass_on_with(source, file_name=name)
    from transformers import AutoConfig

    path = Path(source, name)
    try:
        config = AutoConfig.from_pretrained(path)
    except (OSError, ValueError):  # Optimum warns about the missing config and quantizes anyway
        return call.pass_on_with(source, file_name=name)
    return call.args[0](path, config=config)


def _are_stamped(folder: str | os.PathLike[str], names: list[str]) -> bool:
    from optimum_htp.metadata import record_if_any

    return all(Path(folder, name).is_file() and record_if_any(Path(folder, name)) is not None for name in names)


def _hook_quantize(call: Call) -> Any:
    """Hook of `quantize`: replaces names of modules in the lists of nodes by the nodes of these modules."""
    source = getattr(call.args[0], "onnx_model_path", None) if call.args else None
    if not isinstance(source, (str, os.PathLike)) or call.subject is None or not Path(source).is_file():
        return _hook_optimize(call)
    from optimum_htp.modules.quantize import with_nodes_of_modules

    config = with_nodes_of_modules(call.subject, source)
    return _hook_optimize(call if config is call.subject else call.with_subject(config))


def _hook_optimize(call: Call) -> Any:
    """Hook of `optimize` and `quantize`: copies the record of each source to its new file."""
    options = call.options()
    result = call.pass_on()
    if options is None or "save_dir" not in options:
        return result
    from optimum_htp.stamping.derived import carry_record, suffixed

    folder, suffix = Path(options["save_dir"]), options.get("file_suffix", call.default("file_suffix"))
    sources = call.args[0].onnx_model_path
    for source in sources if isinstance(sources, list) else [sources]:
        made = folder / suffixed(Path(source).name, suffix)
        if made.is_file():
            carry_record(Path(source), made, suffix)
    return result
