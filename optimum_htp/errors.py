"""The exceptions of this package.

Each message contains what happened, the file or model, and the next step. If Python has a built-in exception for the
same situation (`FileNotFoundError`, `ValueError`), the exception also derives from it, so code that does not know this
package can catch it. transformers raises `OSError` for failures of a Hub.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.masking import masked


class OptimumHTPError(Exception):
    """Base of all exceptions of this package. Messages contain no password, signature or token."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(masked, args))


class HFHubIntegrationError(OptimumHTPError):
    """Base of exceptions about models of a Hub: names, commits, files, configs and records."""


class ArgumentError(OptimumHTPError, ValueError):
    """Arguments that contradict each other, or that are invalid."""


class OptionError(ArgumentError, TypeError):
    """An option that the exporter does not support, or not for this model."""


class ProtectedFileError(ArgumentError):
    """The output path contains a file that must not be replaced. Nothing was written."""


class InvalidModelReferenceError(HFHubIntegrationError, ValueError):
    """A model name that is neither a path nor a repo id, or two revisions that contradict each other."""


class ModelNotFoundError(HFHubIntegrationError, OSError):
    """The model does not exist on the Hub, or this token has no access to it.

    The Hub's response is the same for both.
    """


class RevisionNotFoundError(ModelNotFoundError):
    """The model exists on the Hub, but the branch, tag or commit does not."""


class RepoDisabledError(ModelNotFoundError):
    """The Hub has disabled access to the model."""


class AccessDeniedError(HFHubIntegrationError, OSError):
    """The Hub denies this token access."""


class GatedModelError(AccessDeniedError):
    """The model is gated, and this token has no access to its files yet."""


class HubUnreachableError(HFHubIntegrationError, OSError):
    """The Hub is unreachable, and the cache does not contain the answer."""


class OfflineError(HubUnreachableError):
    """The Hub was not contacted, because the user forbids connections (`HF_HUB_OFFLINE`, `local_files_only`)."""


class HubTimeoutError(HubUnreachableError):
    """The Hub did not respond in time."""


class HubServerError(HubUnreachableError):
    """The Hub responded with a server error (status 500 or higher), or with an invalid response."""


class RangesNotServedError(HubServerError):
    """The server, or a proxy, ignores range requests and sends whole files."""


class RateLimitedError(HubUnreachableError):
    """The Hub limits the rate of requests (status 429).

    Attributes:
        retry_after: Seconds to wait, if the Hub sent them (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DownloadError(HFHubIntegrationError, OSError):
    """Files from the Hub that cannot be stored in the cache."""


class DamagedDownloadError(DownloadError):
    """Files from the Hub that are truncated or differ from the Hub's description."""


class ChangedCacheError(DownloadError):
    """Files in a Hub's cache that differ from the commit, or that cannot be checked."""


class MirrorError(HFHubIntegrationError, OSError):
    """A mirror of Hub models cannot be read or written, or its files differ from its manifest."""


class UnreadableUrlError(HFHubIntegrationError, OSError):
    """A URL that cannot be opened or read."""


class ConfigLoadError(HFHubIntegrationError, OSError, ValueError):
    """The configuration of a model cannot be found or read.

    (transformers raises either built-in exception for this.)
    """


class SeveralModelsError(ConfigLoadError):
    """A folder or repo contains files of several models, and the arguments do not select one."""


class UntrustedCodeError(ConfigLoadError):
    """A config would make a library import Python code that the user has not trusted."""


class ConfigFileNotFoundError(ConfigLoadError):
    """The repo has no such config file at the commit."""


class WrongTaskError(ConfigLoadError):
    """An ONNX file was exported for another task than that of the class."""


class PreprocessorLoadError(HFHubIntegrationError, OSError, ValueError):
    """The tokenizer, processor, image processor or feature extractor of a model cannot be loaded.

    transformers raises either built-in exception for this, and tokenizers raises plain exceptions.
    """


class MetadataError(HFHubIntegrationError, ValueError):
    """A metadata property of an ONNX file has a value that its key does not allow.

    Attributes:
        key: The property (`hf_hub_sha`), None if there is no single one.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class EmbeddedFilesError(MetadataError):
    """The embedded files of an ONNX file do not match the list in its record, or exceed the limits for unpacking."""


class InvalidOnnxFileError(OptimumHTPError, ValueError):
    """A file that is not an ONNX model, or is damaged."""


class InvalidWeightsError(OptimumHTPError, ValueError):
    """A weights file that does not have the expected format, or is damaged."""


class UnprovableWeightsError(OptimumHTPError):
    """The weights of a commit cannot be read tensor by tensor, so no comparison with them is possible."""


class OnnxWriteError(OptimumHTPError, OSError):
    """An ONNX file cannot be written. An existing file is unchanged."""


class FileTooLargeError(OnnxWriteError):
    """An ONNX file would exceed the 2 GiB of a protobuf message. Nothing was written."""


class FileChangedError(OnnxWriteError):
    """An ONNX file, or its external data, was replaced or changed while it was read. Nothing was written."""


class SharedFileError(OnnxWriteError):
    """A file in a cache that other commits and programs share, such as the Hub's. Nothing was written."""


class OnnxReadError(OptimumHTPError, OSError):
    """An existing file cannot be read: no permission, or an invalid name on this system."""


class OnnxFileNotFoundError(OptimumHTPError, FileNotFoundError):
    """There is no file at an `.onnx` path."""


class MissingSiblingError(OnnxFileNotFoundError):
    """A file of a multi-file model exists, but another file of the model is missing."""


class ModelBeingReplacedError(MissingSiblingError):
    """Some files of a multi-file model are from a new export, others are still from the old one.

    An export into the folder is running, or was killed while it replaced the files. The next export completes it.
    """


class MismatchError(OptimumHTPError, ValueError):
    """An ONNX file that clearly is not an export of the given model."""


class UnknownModuleError(OptimumHTPError, LookupError):
    """A pattern that no module of a file matches.

    Attributes:
        pattern: The pattern.
        nearest: Patterns that look like it and match something, the nearest first.
    """

    def __init__(self, message: str, pattern: str = "", nearest: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.pattern = pattern
        self.nearest = tuple(nearest)

    @classmethod
    def of(cls, pattern: str, nearest: Sequence[str], where: object) -> UnknownModuleError:
        """Return the error with the nearest patterns in its message; `where` is the file or folder."""
        hint = (
            f" Did you mean {', '.join(nearest[:-1])}{' or ' if nearest[1:] else ''}{nearest[-1]}?" if nearest else ""
        )
        return cls(
            f"{where} has no module and no class that matches {pattern!r}.{hint} `optimum-cli htp info --tree` lists "
            "all modules.",
            pattern,
            nearest,
        )


class BillOfMaterialsError(OptimumHTPError, ValueError):
    """A record contains a value that is not allowed in a bill of materials."""


class ReportError(OptimumHTPError, ValueError):
    """An unsupported report format."""


class ExportError(OptimumHTPError, RuntimeError):
    """An export was rejected or failed. The output path is unchanged.

    The exception: if the message says that some files were replaced, the next export into the folder replaces the
    rest.
    """


class UnfinishedExportError(ExportError):
    """An output folder contains a hidden folder of an unfinished export that no export of this user wrote."""


class ExtractError(OptimumHTPError, ValueError):
    """A module that cannot be extracted from a file as a model of its own; the message contains the reason."""


class VerificationError(ExportError):
    """The Hub does not confirm the facts of an export (`--verify-hub`)."""


class InferenceError(OptimumHTPError, RuntimeError):
    """ONNX Runtime fails for the inputs of a model."""


class ChatTemplateError(OptimumHTPError, ValueError):
    """A model's chat template fails, or does what templates must not do."""


class ComparisonError(OptimumHTPError, ValueError):
    """Two models that cannot be compared: one does not run, or they have no outputs in common."""


class DeviceError(OptimumHTPError, ValueError):
    """An unknown device, or one without an execution provider in the installed onnxruntime."""


class BatchListError(OptimumHTPError, ValueError):
    """A list of models that cannot be read, or contains contradictions."""


class ModelListNotFoundError(BatchListError):
    """A collection that the Hub does not have, or an author without models."""


class ManifestError(OptimumHTPError, ValueError):
    """A manifest of a batch that cannot be read, or contains values that are not allowed."""


# Not a RuntimeError: Dask's pickling (tblib) could not build the subclass that is also a TimeoutError.
class JobError(OptimumHTPError):
    """A job of a batch whose process did not finish."""


class JobTimeoutError(JobError, TimeoutError):
    """A job exceeded its time limit."""


class JobMemoryError(JobError):
    """A job exceeded its memory limit."""


class JobLostError(JobError):
    """The process or worker of a job crashed. This says nothing about the model."""


class OutputError(OptimumHTPError, OSError):
    """A location for exports, or a standard stream, cannot be written to."""


class ClusterError(OptimumHTPError, RuntimeError):
    """A cluster is unreachable, or its workers cannot export."""


class PushError(HFHubIntegrationError, RuntimeError):
    """Files cannot be pushed to a Hub, or the Hub rejects them. None of them is in the repo."""


class EndpointError(OptimumHTPError, ValueError):
    """A model without a pipeline, or a folder to which an endpoint cannot be written."""


class MissingDependencyError(OptimumHTPError, ImportError):
    """A required distribution is not installed or cannot be imported."""


class PluginError(OptimumHTPError):
    """A plugin fails, returns an invalid value, or contradicts another plugin."""


class UnknownHubError(PluginError, HFHubIntegrationError, LookupError):
    """A model is from a Hub that no installed plugin provides."""
