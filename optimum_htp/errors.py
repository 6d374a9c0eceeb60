"""One small tree of exceptions: everything that this package raises on purpose.

Each message says what happened, to which file or model, and what to do next. Where Python has a built-in
for the same situation (`FileNotFoundError`, `ValueError`), ours is also one of those, so that code which
knows nothing of this package still catches it: what transformers raises of a Hub is an `OSError`.
"""

from __future__ import annotations

from collections.abc import Sequence

from optimum_htp.masking import masked


class OptimumHTPError(Exception):
    """Base of every exception of this package. No message has a password, a signature or a token in it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*map(masked, args))


class HFHubIntegrationError(OptimumHTPError):
    """Base of what concerns models of a Hub: their names, commits, files, configs and records."""


class ArgumentError(OptimumHTPError, ValueError):
    """Arguments that contradict each other, or that nothing can be done with."""


class OptionError(ArgumentError, TypeError):
    """An option that the exporter does not have, or not for this model."""


class ProtectedFileError(ArgumentError):
    """An output path at which there is something that may not be replaced. Nothing was written."""


class InvalidModelReferenceError(HFHubIntegrationError, ValueError):
    """A model name that is neither a path nor a repo id, or two revisions that contradict each other."""


class ModelNotFoundError(HFHubIntegrationError, OSError):
    """The Hub answers that there is no such model, or none that this token may see (it does not say which)."""


class RevisionNotFoundError(ModelNotFoundError):
    """The model is on the Hub, the branch, tag or commit is not."""


class RepoDisabledError(ModelNotFoundError):
    """The model was on the Hub, and the Hub has closed it to everybody."""


class AccessDeniedError(HFHubIntegrationError, OSError):
    """The Hub refuses what was asked for to this token."""


class GatedModelError(AccessDeniedError):
    """The model is on the Hub and its files are closed to this token until access is granted."""


class HubUnreachableError(HFHubIntegrationError, OSError):
    """The Hub could not be asked, and the cache has no answer."""


class OfflineError(HubUnreachableError):
    """The Hub was not asked, because the user forbids connections (`HF_HUB_OFFLINE`, `local_files_only`)."""


class HubTimeoutError(HubUnreachableError):
    """The Hub did not answer in time."""


class HubServerError(HubUnreachableError):
    """The Hub answered that something is wrong with it (a status from 500 on), or with something unexpected."""


class RangesNotServedError(HubServerError):
    """The server, or a proxy in between, sends whole files only."""


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


class ChangedCacheError(DownloadError):
    """Files in a Hub's cache that are not the commit's, or of which that cannot be told."""


class MirrorError(HFHubIntegrationError, OSError):
    """A mirror of Hub models that cannot be read or written, or has something else than it says."""


class UnreadableUrlError(HFHubIntegrationError, OSError):
    """A URL that cannot be opened or read."""


class ConfigLoadError(HFHubIntegrationError, OSError, ValueError):
    """The configuration of a model cannot be found or read. (transformers raises either built-in for that.)"""


class SeveralModelsError(ConfigLoadError):
    """A folder or repo that holds files of several models, and nothing says which is meant."""


class UntrustedCodeError(ConfigLoadError):
    """A config that would make a library import Python code which the user has not trusted."""


class ConfigFileNotFoundError(ConfigLoadError):
    """The repo is there, at the commit, and has no such config file."""


class WrongTaskError(ConfigLoadError):
    """An ONNX file that was exported for another task than the class is for that was to load it."""


class PreprocessorLoadError(HFHubIntegrationError, OSError, ValueError):
    """The tokenizer, processor, image processor or feature extractor of a model cannot be loaded.

    transformers raises either built-in for that, and tokenizers bare exceptions.
    """


class MetadataError(HFHubIntegrationError, ValueError):
    """A metadata property of an ONNX file has a value that its key does not allow.

    Attributes:
        key: The property (`hf_hub_sha`), None where no single one is at fault.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class EmbeddedFilesError(MetadataError):
    """The files embedded in an ONNX file are not what it says that they are, or more than anybody should unpack."""


class InvalidOnnxFileError(OptimumHTPError, ValueError):
    """A file that is not an ONNX model, or is damaged."""


class InvalidWeightsError(OptimumHTPError, ValueError):
    """A file of weights that is not what its name says, or is damaged."""


class UnprovableWeightsError(OptimumHTPError):
    """A commit whose weights cannot be read tensor by tensor, so that nothing can be held against them."""


class OnnxWriteError(OptimumHTPError, OSError):
    """An ONNX file that cannot be written. The one that was there still is."""


class FileTooLargeError(OnnxWriteError):
    """An ONNX file that would have more than the 2 GiB of a protobuf message. Nothing was written."""


class FileChangedError(OnnxWriteError):
    """An ONNX file, or its external data, that was replaced or changed while it was read. Nothing was written."""


class SharedFileError(OnnxWriteError):
    """A file in a cache that other commits and programs share, such as the Hub's. Nothing was written."""


class OnnxReadError(OptimumHTPError, OSError):
    """A file that is there and cannot be read: no permission, or a name that the system does not take."""


class OnnxFileNotFoundError(OptimumHTPError, FileNotFoundError):
    """An `.onnx` path at which there is no file."""


class MissingSiblingError(OnnxFileNotFoundError):
    """One of the files of a multi-file model is there, another that belongs to it is not."""


class ModelBeingReplacedError(MissingSiblingError):
    """Some files of a multi-file model are those of a new export already, others still those of the old one.

    An export into their folder goes on, or was killed while it put its files there: the next one finishes that.
    """


class MisfitError(OptimumHTPError, ValueError):
    """An ONNX file that plainly is not an export of the model that it is said to come from."""


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
        """Return the error that says what is near.

        Args:
            pattern: The pattern.
            nearest: What looks like it.
            where: What has no such module, for the message.
        """
        hint = f" Near it: {', '.join(nearest)}." if nearest else ""
        return cls(
            f"{where} has no module, and no class of modules, that {pattern!r} matches.{hint} `optimum-cli htp info "
            "--tree` shows all.",
            pattern,
            nearest,
        )


class BillOfMaterialsError(OptimumHTPError, ValueError):
    """What a file says of itself is nothing that a bill of materials may hold."""


class ReportError(OptimumHTPError, ValueError):
    """A report in a format that is not known."""


class ExportError(OptimumHTPError, RuntimeError):
    """An export that was refused or failed. What stood at the output path before still stands there.

    Unless the message says that some files were replaced already: the next export into the folder replaces the rest.
    """


class UnfinishedExportError(ExportError):
    """An output folder with a hidden folder of an unfinished export that this user's exports did not leave there."""


class ExtractError(OptimumHTPError, ValueError):
    """A module that cannot be cut out of a file as a model of its own; the message says why."""


class VerificationError(ExportError):
    """The Hub does not confirm what an export is about to claim (`--verify-hub`)."""


class InferenceError(OptimumHTPError, RuntimeError):
    """ONNX Runtime fails on a model's inputs."""


class ChatTemplateError(OptimumHTPError, ValueError):
    """A chat template of a model that fails, or does what no template may."""


class ComparisonError(OptimumHTPError, ValueError):
    """Two models that cannot be compared: one does not run, or has nothing that the other has."""


class DeviceError(OptimumHTPError, ValueError):
    """A device that is not known, or that the installed onnxruntime has no provider for."""


class BatchListError(OptimumHTPError, ValueError):
    """A list of models that cannot be read, or contradicts itself."""


class ModelListNotFoundError(BatchListError):
    """A collection that the Hub does not have, or an author without models."""


class ManifestError(OptimumHTPError, ValueError):
    """A manifest of a batch that cannot be read, or says what none may say."""


# Not a RuntimeError: Dask's pickling (tblib) could then not build the one that is a TimeoutError too.
class JobError(OptimumHTPError):
    """A job of a batch whose process did not finish."""


class JobTimeoutError(JobError, TimeoutError):
    """A job that took longer than it may."""


class JobMemoryError(JobError):
    """A job that needed more memory than it may have."""


class JobLostError(JobError):
    """A job whose process or worker is gone; it says nothing of the model."""


class OutputError(OptimumHTPError, OSError):
    """A location that exports, or a standard stream, cannot be written to."""


class ClusterError(OptimumHTPError, RuntimeError):
    """A cluster that cannot be reached, or whose workers cannot export."""


class PushError(HFHubIntegrationError, RuntimeError):
    """Files that cannot be pushed to a Hub, or that it refuses. None of them is in the repo."""


class EndpointError(OptimumHTPError, ValueError):
    """A model that no pipeline serves, or a folder that an endpoint cannot be written to."""


class MissingDependencyError(OptimumHTPError, ImportError):
    """Another distribution is needed for this, and is not installed or cannot be imported."""


class PluginError(OptimumHTPError):
    """A plugin fails where its answer is needed, gives one that it may not give, or contradicts another."""


class UnknownHubError(PluginError, HFHubIntegrationError, LookupError):
    """A model of a Hub that no installed plugin provides."""
