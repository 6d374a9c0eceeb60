"""Hooks Optimum's `ORTOptimizer` and `ORTQuantizer`: they accept ONNX files with a record and module names, and their
output files get the record.

`optimum-cli onnxruntime quantize` gets the options `--exclude-modules` and `--only-modules`.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.libraries.names import CONFIG, ONNX_FILE

__all__ = ["install"]

_PATTERNS: Final = "paths with globs (* matches one component, ** any number), or class names."


def install(module: ModuleType) -> None:
    """Hook into a module that defines one of the classes, or the command."""
    if module.__name__.endswith(".optimization"):
        wrap_attribute(module.ORTOptimizer, "from_pretrained", _hook_optimizer_from_pretrained)
        wrap_attribute(module.ORTOptimizer, "optimize", _hook_optimize)
    elif module.__name__.endswith(".quantization"):
        wrap_attribute(module.ORTQuantizer, "from_pretrained", _hook_quantizer_from_pretrained)
        wrap_attribute(module.ORTQuantizer, "quantize", _hook_quantize)
    else:
        wrap_attribute(module.ONNXRuntimeQuantizeCommand, "parse_args", _hook_parse_args)
        wrap_attribute(module.ONNXRuntimeQuantizeCommand, "run", _hook_run)


def _hook_optimizer_from_pretrained(call: Call) -> Any:
    source, options = call.subject, call.options()
    if options is None or not isinstance(source, (str, os.PathLike)):
        return call.pass_on()
    from optimum_htp.loading.recognize import names_a_file, path_of_file

    names = list(options.get("file_names") or [ONNX_FILE])
    paths = [path_of_file(source)] if names_a_file(source) else [Path(source, name) for name in names]
    if not names_a_file(source) and (Path(source, CONFIG).exists() or not _are_stamped(source, names[:1])):
        return call.pass_on()  # Optimum reports its own error
    from transformers import AutoConfig

    return call.args[0](paths, config=AutoConfig.from_pretrained(paths[0]), from_ortmodel=False)


def _hook_quantizer_from_pretrained(call: Call) -> Any:
    source, options = call.subject, call.options()
    if options is None or not isinstance(source, (str, os.PathLike)):
        return call.pass_on()
    from optimum_htp.loading.recognize import names_a_file, path_of_file

    name = options.get("file_name")
    if name is None and names_a_file(source):
        path = path_of_file(source)
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


def _hook_parse_args(call: Call) -> Any:
    """Hook of `parse_args`: adds two options."""
    result = call.pass_on()
    group = call.subject.add_argument_group("Modules (of files with tags, see `optimum-cli htp tag`)")
    for option, text in (
        ("--exclude-modules", "Modules that are not quantized"),
        ("--only-modules", "Quantize only these modules"),
    ):
        group.add_argument(option, nargs="+", metavar="PATTERN", default=[], help=f"{text}: {_PATTERNS}")
    return result


def _hook_run(call: Call) -> Any:
    """Hook of `run`: passes the chosen modules to the quantizers. Errors are printed as one sentence."""
    args = getattr(call.args[0], "args", None) if call.args else None
    folder = getattr(args, "onnx_model", None)
    if not isinstance(folder, Path):
        return call.pass_on()
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.modules.quantize import ModuleChoice, choosing
    from optimum_htp.report.texts import sentence

    exclude, only = (tuple(getattr(args, name, ())) for name in ("exclude_modules", "only_modules"))
    try:
        with choosing(ModuleChoice(tuple(sorted(folder.glob("*.onnx"))), exclude, only)):
            return call.pass_on()
    except OptimumHTPError as error:
        raise SystemExit(f"error: {sentence(str(error))}") from error
