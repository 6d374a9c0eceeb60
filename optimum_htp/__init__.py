"""ONNX files that contain a record of their Hugging Face model, and their loading by Optimum without other files.

Public names are loaded on first use, so importing this package imports no framework.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks.activation import activate, deactivate
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from optimum_htp.commands import CommandEntry, Destination
    from optimum_htp.errors import (
        ConfigLoadError,
        HFHubIntegrationError,
        ModelNotFoundError,
        OptimumHTPError,
        PreprocessorLoadError,
        UnknownModuleError,
    )
    from optimum_htp.export.exporter import ExportResult, HTPExporter
    from optimum_htp.extras.profile.running import Profile, profile_file
    from optimum_htp.hierarchy.assign import Assignment
    from optimum_htp.hookspecs import hookimpl
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loading.auto import OptimumONNXModel
    from optimum_htp.loading.config_loader import HFHubConfigLoader
    from optimum_htp.metadata import EmbeddedFile, ExportMetadata
    from optimum_htp.modules.comparison.compare import compare_models
    from optimum_htp.modules.comparison.records import Comparison
    from optimum_htp.modules.extract import ExtractedModule, extract_module
    from optimum_htp.modules.proof.findings import Evidence
    from optimum_htp.modules.prove import Proof, prove_weights
    from optimum_htp.modules.select import select_nodes
    from optimum_htp.origin.detect import detect_model_source, is_hub_model
    from optimum_htp.report.document import report_document
    from optimum_htp.report.write import write_report
    from optimum_htp.resolve.hub_cache import HFHubCache
    from optimum_htp.stamping.embed import embed_files, unembed_files
    from optimum_htp.stamping.inject import inject_hub_metadata
    from optimum_htp.stamping.manifests import verify_manifest
    from optimum_htp.stamping.originals import strip_metadata
    from optimum_htp.stamping.tag import tag_file
    from optimum_htp.stamping.verify import Status, Verdict, verify_metadata

__all__ = [
    "Assignment",
    "CommandEntry",
    "Comparison",
    "ConfigLoadError",
    "Destination",
    "EmbeddedFile",
    "Evidence",
    "ExportMetadata",
    "ExportResult",
    "ExtractedModule",
    "HFHubCache",
    "HFHubConfigLoader",
    "HFHubIntegrationError",
    "HTPExporter",
    "HubAccess",
    "ModelNotFoundError",
    "OptimumHTPError",
    "OptimumONNXModel",
    "PreprocessorLoadError",
    "Profile",
    "Proof",
    "Status",
    "UnknownModuleError",
    "Verdict",
    "__version__",
    "activate",
    "compare_models",
    "deactivate",
    "detect_model_source",
    "embed_files",
    "extract_module",
    "hookimpl",
    "inject_hub_metadata",
    "is_hub_model",
    "profile_file",
    "prove_weights",
    "report_document",
    "select_nodes",
    "strip_metadata",
    "tag_file",
    "unembed_files",
    "verify_manifest",
    "verify_metadata",
    "write_report",
]

_HOME: Final = {
    "Assignment": "hierarchy.assign",
    "CommandEntry": "commands",
    "Comparison": "modules.comparison.records",
    "ConfigLoadError": "errors",
    "Destination": "commands",
    "EmbeddedFile": "metadata",
    "Evidence": "modules.proof.findings",
    "ExportMetadata": "metadata",
    "ExportResult": "export.exporter",
    "ExtractedModule": "modules.extract",
    "HFHubCache": "resolve.hub_cache",
    "HFHubConfigLoader": "loading.config_loader",
    "HFHubIntegrationError": "errors",
    "HTPExporter": "export.exporter",
    "HubAccess": "hubs.base",
    "ModelNotFoundError": "errors",
    "OptimumHTPError": "errors",
    "OptimumONNXModel": "loading.auto",
    "PreprocessorLoadError": "errors",
    "Profile": "extras.profile.running",
    "Proof": "modules.prove",
    "Status": "stamping.verify",
    "UnknownModuleError": "errors",
    "Verdict": "stamping.verify",
    "compare_models": "modules.comparison.compare",
    "detect_model_source": "origin.detect",
    "embed_files": "stamping.embed",
    "extract_module": "modules.extract",
    "hookimpl": "hookspecs",
    "inject_hub_metadata": "stamping.inject",
    "is_hub_model": "origin.detect",
    "profile_file": "extras.profile.running",
    "prove_weights": "modules.prove",
    "report_document": "report.document",
    "select_nodes": "modules.select",
    "strip_metadata": "stamping.originals",
    "tag_file": "stamping.tag",
    "unembed_files": "stamping.embed",
    "verify_manifest": "stamping.manifests",
    "verify_metadata": "stamping.verify",
    "write_report": "report.write",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# If PyTorch's autoload is off, importing this package activates it.
activate()
