"""Adds `--exclude-modules` and `--only-modules` to `optimum-cli onnxruntime quantize`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.patching import Call, wrap_attribute

__all__ = ["install"]

_PATTERNS: Final = "paths with globs (* matches one component, ** any number), or class names."


def install(module: ModuleType) -> None:
    """Hook into the module that defines the command."""
    wrap_attribute(module.ONNXRuntimeQuantizeCommand, "parse_args", _hook_parse_args)
    wrap_attribute(module.ONNXRuntimeQuantizeCommand, "run", _hook_run)


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
