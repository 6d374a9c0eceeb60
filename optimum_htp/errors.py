"""One small tree of exceptions: everything that this package raises on purpose.

Each message says what happened, to which file or model, and what to do next. Where Python has a built-in
for the same situation (`FileNotFoundError`, `ValueError`), ours is also one of those, so that code which
knows nothing of this package still catches it.
"""

from __future__ import annotations

__all__ = [
    "AccessDeniedError",
    "ConfigFileNotFoundError",
    "ConfigLoadError",
    "DamagedDownloadError",
    "DownloadError",
    "ExportError",
    "GatedModelError",
    "HFHubIntegrationError",
    "HubServerError",
    "HubTimeoutError",
    "HubUnreachableError",
    "InvalidModelReferenceError",
    "InvalidOnnxFileError",
    "MetadataError",
    "MisfitError",
    "MissingSiblingError",
    "ModelBeingReplacedError",
    "ModelNotFoundError",
    "OfflineError",
    "OnnxFileNotFoundError",
    "OnnxWriteError",
    "PreprocessorLoadError",
    "RateLimitedError",
    "RepoDisabledError",
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


class RepoDisabledError(ModelNotFoundError):
    """The model was on the Hub, and the Hub has closed it to everybody."""


class AccessDeniedError(HFHubIntegrationError):
    """The Hub refuses what was asked for to this token."""


class GatedModelError(AccessDeniedError):
    """The model is on the Hub and its files are closed to this token until access is granted."""


class HubUnreachableError(HFHubIntegrationError):
    """The Hub could not be asked, and the cache has no answer."""


class OfflineError(HubUnreachableError):
    """The Hub was not asked, because the user forbids connections (`HF_HUB_OFFLINE`, `local_files_only`)."""


class HubTimeoutError(HubUnreachableError):
    """The Hub did not answer in time."""


class HubServerError(HubUnreachableError):
    """The Hub answered that something is wrong with it (a status from 500 on), or with something unexpected."""


class RateLimitedError(HubUnreachableError):
    """The Hub has had too many requests from here (status 429).

    Attributes:
        retry_after: Seconds to wait, where the Hub says (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DownloadError(HFHubIntegrationError, OSError):
    """Files of the Hub that cannot be stored in the cache."""


class DamagedDownloadError(DownloadError):
    """Files of the Hub that arrived cut off or otherwise not as the Hub announced them."""


class ConfigLoadError(HFHubIntegrationError):
    """The configuration of a model cannot be found or read."""


class ConfigFileNotFoundError(ConfigLoadError):
    """The repo is there, at the commit, and has no such config file."""


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


class ModelBeingReplacedError(MissingSiblingError):
    """Some files of a multi-file model are those of a new export already, others still those of the old one.

    An export into their folder goes on, or was killed while it put its files there: the next one finishes that.
    """


class MisfitError(HFHubIntegrationError, ValueError):
    """An ONNX file that plainly is not an export of the model that it is said to come from."""


class ExportError(HFHubIntegrationError, RuntimeError):
    """An export that was refused or failed. What stood at the output path before still stands there.

    Unless the message says that some files were replaced already: the next export into the folder replaces the rest.
    """


class VerificationError(ExportError):
    """The Hub does not confirm what an export is about to claim (`--verify-hub`)."""
