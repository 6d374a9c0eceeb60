"""One small tree of exceptions: everything that this package raises on purpose.

Each message says what happened, to which file or model, and what to do next. Where Python has a built-in
for the same situation (`FileNotFoundError`, `ValueError`), ours is also one of those, so that code which
knows nothing of this package still catches it.
"""

from __future__ import annotations

__all__ = [
    "ConfigLoadError",
    "DownloadError",
    "ExportError",
    "GatedModelError",
    "HFHubIntegrationError",
    "HubUnreachableError",
    "InvalidModelReferenceError",
    "InvalidOnnxFileError",
    "MetadataError",
    "MisfitError",
    "MissingSiblingError",
    "ModelNotFoundError",
    "OnnxFileNotFoundError",
    "OnnxWriteError",
    "PreprocessorLoadError",
    "RevisionNotFoundError",
    "VerificationError",
]


class HFHubIntegrationError(Exception):
    """Base of every exception of this package."""


class InvalidModelReferenceError(HFHubIntegrationError, ValueError):
    """A model name that is neither a path nor a repo id, or two revisions that contradict each other."""


class ModelNotFoundError(HFHubIntegrationError):
    """The Hub answers that there is no such model, or none that this token may see (it does not say which)."""


class RevisionNotFoundError(ModelNotFoundError):
    """The model is on the Hub, the branch, tag or commit is not."""


class GatedModelError(HFHubIntegrationError):
    """The model is on the Hub and its files are closed to this token until access is granted."""


class HubUnreachableError(HFHubIntegrationError):
    """The Hub could not be asked (offline, no network, time-out, server error) and the cache has no answer."""


class DownloadError(HFHubIntegrationError, OSError):
    """Files of the Hub that cannot be stored in the cache, or arrived damaged."""


class ConfigLoadError(HFHubIntegrationError):
    """The configuration of a model cannot be found or read."""


class PreprocessorLoadError(HFHubIntegrationError):
    """The tokenizer, processor, image processor or feature extractor of a model cannot be loaded."""


class MetadataError(HFHubIntegrationError, ValueError):
    """A metadata property of an ONNX file has a value that its key does not allow."""


class InvalidOnnxFileError(HFHubIntegrationError, ValueError):
    """A file that is not an ONNX model, or is damaged."""


class OnnxWriteError(HFHubIntegrationError, OSError):
    """An ONNX file that cannot be written. The one that was there still is."""


class OnnxFileNotFoundError(HFHubIntegrationError, FileNotFoundError):
    """An `.onnx` path at which there is no file."""


class MissingSiblingError(OnnxFileNotFoundError):
    """One of the files of a multi-file model is there, another that belongs to it is not."""


class MisfitError(HFHubIntegrationError, ValueError):
    """An ONNX file that plainly is not an export of the model that it is said to come from."""


class ExportError(HFHubIntegrationError, RuntimeError):
    """An export that was refused or failed. What stood at the output path before still stands there."""


class VerificationError(ExportError):
    """The Hub does not confirm what an export is about to claim (`--verify-hub`)."""
