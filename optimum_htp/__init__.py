"""ONNX files that know which Hugging Face model they came from, and an Optimum that loads them alone.

The public names are loaded when they are first used: importing this package imports none of the frameworks.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.activation import activate, deactivate
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.auto import OptimumONNXModel
    from optimum_htp.config_loader import HFHubConfigLoader
    from optimum_htp.errors import (
        ConfigLoadError,
        HFHubIntegrationError,
        ModelNotFoundError,
        PreprocessorLoadError,
    )
    from optimum_htp.exporter import ExportResult, HTPExporter
    from optimum_htp.hookspecs import hookimpl
    from optimum_htp.hub_cache import HFHubCache
    from optimum_htp.inject import inject_hub_metadata
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.profiling import Profile, profile_file
    from optimum_htp.report import report_document, write_report
    from optimum_htp.source import detect_model_source, is_hub_model
    from optimum_htp.strip import strip_metadata
    from optimum_htp.tagging import tag_file
    from optimum_htp.verify import verify_metadata

__all__ = [
    "ConfigLoadError",
    "ExportMetadata",
    "ExportResult",
    "HFHubCache",
    "HFHubConfigLoader",
    "HFHubIntegrationError",
    "HTPExporter",
    "ModelNotFoundError",
    "OptimumONNXModel",
    "PreprocessorLoadError",
    "Profile",
    "__version__",
    "activate",
    "deactivate",
    "detect_model_source",
    "hookimpl",
    "inject_hub_metadata",
    "is_hub_model",
    "profile_file",
    "report_document",
    "strip_metadata",
    "tag_file",
    "verify_metadata",
    "write_report",
]

_HOME: Final = {
    "ConfigLoadError": "errors",
    "ExportMetadata": "metadata",
    "ExportResult": "exporter",
    "HFHubCache": "hub_cache",
    "HFHubConfigLoader": "config_loader",
    "HFHubIntegrationError": "errors",
    "HTPExporter": "exporter",
    "ModelNotFoundError": "errors",
    "OptimumONNXModel": "auto",
    "PreprocessorLoadError": "errors",
    "Profile": "profiling",
    "detect_model_source": "source",
    "hookimpl": "hookspecs",
    "inject_hub_metadata": "inject",
    "is_hub_model": "source",
    "profile_file": "profiling",
    "report_document": "report",
    "strip_metadata": "strip",
    "tag_file": "tagging",
    "verify_metadata": "verify",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# Where PyTorch's autoload is switched off, importing this package has to be enough.
activate()
