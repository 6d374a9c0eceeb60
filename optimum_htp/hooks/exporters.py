"""Hooks transformers' exporters, which get the format `htp`, and `ExportedModel.from_pretrained`, which loads it.

The format `htp` of `AutoHfExporter` exports like `OnnxExporter`, and saves files with a record.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.dispatch import Answer, file_or_result
from optimum_htp.hooks.patching import Call, wrap_attribute

__all__ = ["install", "uninstall"]

_FORMAT: Final = "htp"
_TRACED: Final = "optimum_htp"  # the key of a program's TracedModel
_AUTO: Final = "transformers.exporters.auto"


def install(module: ModuleType) -> None:
    """Hook into the module that defines `ExportedModel`, or register the format with the module of formats."""
    if module.__name__ != _AUTO:
        wrap_attribute(module.ExportedModel, "from_pretrained", _hook_from_pretrained)
    elif _FORMAT not in module.EXPORT_BACKENDS:
        module.register_backend(*_backend())


def uninstall() -> None:
    """Remove the format. Does nothing if it is not registered."""
    module = sys.modules.get(_AUTO)
    if module is not None:
        module.EXPORT_BACKENDS.pop(_FORMAT, None)


def _backend() -> tuple[Any, Any]:
    """Return the exporter and the runner. Slow imports happen when they are used."""
    from transformers.exporters.base import HfExporter
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.runners.base import ModelRunner

    @dataclass
    class HTPOnnxConfig(OnnxConfig):  # type: ignore[misc]
        """The options of `OnnxConfig`."""

        export_format: str = _FORMAT

    class HTPOnnxExporter(HfExporter):  # type: ignore[misc]
        """Exports like `OnnxExporter`, and saves files with a record."""

        export_format = _FORMAT
        config_class = HTPOnnxConfig
        program_suffix = ".onnx"
        required_packages = ("torch", "onnx", "onnxscript")

        def export_program(self, model: Any, sample_inputs: Any, config: Any) -> Any:
            from transformers.exporters import OnnxExporter

            from optimum_htp.export.engines.programs import clean, name_sizes
            from optimum_htp.export.saved_programs import Traced, TracedModel
            from optimum_htp.libraries.sample_inputs import WHOLE

            program, metadata = OnnxExporter().export_program(model, sample_inputs, config=config)
            clean(program)
            name_sizes(program)
            program.meta[_TRACED] = TracedModel(model, {WHOLE: Traced(program, metadata, model)})
            return program, metadata

        def export_for_generation(self, model: Any, *args: Any, **options: Any) -> Any:
            from optimum_htp.export.saved_programs import TracedModel

            exported = super().export_for_generation(model, *args, **options)
            programs = {name: component.program for name, component in exported.components.items()}
            parts = {name: next(iter(one.meta[_TRACED].components.values())) for name, one in programs.items()}
            together = TracedModel(model, parts)
            for program in programs.values():
                program.meta[_TRACED] = together
            return exported

        @classmethod
        def save_program(cls, program: Any, path: Any) -> None:
            from optimum_htp.export.saved_programs import save_again

            if _TRACED in program.meta:
                program.meta[_TRACED].save(program, Path(path))
            else:
                save_again(program, Path(path))

        @classmethod
        def program_files(cls, filename: str) -> list[str]:
            from optimum_htp.export.engines.programs import DATA_FILE
            from optimum_htp.libraries.sample_inputs import WHOLE

            return [filename] if Path(filename).stem == WHOLE else [filename, DATA_FILE]

        @classmethod
        def load_program(cls, path: Any) -> Any:
            from transformers.exporters import OnnxExporter

            return OnnxExporter.load_program(path)

    class HTPOnnxRunner(ModelRunner):  # type: ignore[misc]
        """Makes runners of the ONNX format."""

        @classmethod
        def from_program(
            cls, program: Any, metadata: Any, device: Any = None, providers: Any = None, session_options: Any = None
        ) -> Any:
            from transformers.exporters.runners import OnnxModelRunner

            return OnnxModelRunner.from_program(program, metadata, device, providers, session_options)

    return HTPOnnxExporter, HTPOnnxRunner


def _hook_from_pretrained(call: Call) -> Any:
    from optimum_htp.loading.exported_models import exported_file, load

    found = file_or_result(call, bare=True, local=exported_file)
    if isinstance(found, Answer):
        return found.result
    return load(call.args[0], found.fetched(), **found.options)
