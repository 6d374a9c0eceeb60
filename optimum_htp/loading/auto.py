"""OptimumONNXModel: an ONNX file loaded as the class that its own record names."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import DeviceError, MissingDependencyError
from optimum_htp.libraries.dependencies import needing_optimum_onnx
from optimum_htp.libraries.ort_classes import AUTO, class_for
from optimum_htp.loading.diffusion import pipeline_record
from optimum_htp.loading.named import named_or_error
from optimum_htp.loading.ort_model import load
from optimum_htp.loading.preprocessors import first_preprocessor
from optimum_htp.metadata import read_record
from optimum_htp.resolve.config_folder import carrier_of

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["OptimumONNXModel"]

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OptimumONNXModel:
    """Picks the `ORTModel` class for a file. Not a model itself: both methods return an instance of that class."""

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, task: str = AUTO, **kwargs: Any) -> ORTModel:
        """Load an ONNX file, or a folder of them, as the class of Optimum's that its task is for.

        Args:
            path: The file, the folder, a repo of the Hub that holds them, or `hf://org/name[@revision]/model.onnx`.
            task: Optimum task; `auto` for the one in the file.
            **kwargs: Arguments of `ORTModel.from_pretrained`.

        Raises:
            OnnxFileNotFoundError: There is no such file.
            ConfigLoadError: The file does not say its task.
            HFHubIntegrationError: Its config cannot be had; the subclass says why.
        """
        if pipeline_record(path, kwargs) is not None:
            return _diffusion_pipeline(path, kwargs)
        found = named_or_error(path, kwargs)
        file = found.fetched()
        return load(class_for(file, read_record(file), task), file, folder=found.folder, **found.options)

    @classmethod
    def from_onnx(
        cls, onnx_path: str | os.PathLike[str], task: str = AUTO, device: str = "cpu", **kwargs: Any
    ) -> tuple[ORTModel, Any]:
        """Load an ONNX file and the preprocessor of its model.

        Args:
            onnx_path: As `path` of `from_pretrained`.
            task: Optimum task; `auto` for the one in the file.
            device: `cpu`, `cuda` or `cuda:N`.
            **kwargs: Arguments of `ORTModel.from_pretrained`.

        Returns:
            The model, and the first preprocessor that the file names; None for a model that has none, and with
            `config=` for a local one whose preprocessors are neither beside nor in it.

        Raises:
            DeviceError: The device is not known, or onnxruntime has no provider for it here.
            HFHubIntegrationError: As `from_pretrained`.
            PreprocessorLoadError: The preprocessor cannot be loaded.
        """
        if pipeline_record(onnx_path, kwargs) is not None:
            pipeline = _diffusion_pipeline(onnx_path, {**_provider(device), **kwargs})
            return pipeline, getattr(pipeline, "tokenizer", None)
        found = named_or_error(onnx_path, kwargs)
        file, options = found.fetched(), {"folder": found.folder, **_provider(device), **found.options}
        carrier = carrier_of(file, read_record(file), found.access, found.folder)
        cls_for_file = class_for(file, carrier.record, task)
        trusted, revision = bool(options.get("trust_remote_code")), options.get("revision")
        needed = options.get("config") is None
        make = first_preprocessor(carrier, found.access, revision, trusted=trusted, needed=needed)
        if make is None:
            return load(cls_for_file, file, **options), None
        with ThreadPoolExecutor(1) as pool:  # onnxruntime makes its session without the interpreter's lock
            preprocessor = pool.submit(make)
            return load(cls_for_file, file, **options), preprocessor.result()


def _diffusion_pipeline(path: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    with needing_optimum_onnx(f"Loading {path}"):
        from optimum.onnxruntime import ORTDiffusionPipeline
    try:
        return ORTDiffusionPipeline.from_pretrained(path, **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a diffusion pipeline: run `pip install diffusers` to load it."
        ) from error


def _provider(device: str) -> dict[str, Any]:
    """Return the arguments that put a session on a device."""
    import onnxruntime

    kind, _, index = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider is None or (index and not index.isdigit()):
        raise DeviceError(f"device={device!r} is not known: pass cpu, cuda or cuda:N, or provider=.")
    if provider not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"device={device!r} needs onnxruntime's {provider}, which is not here "
            f"({', '.join(onnxruntime.get_available_providers())}). Install onnxruntime-gpu in place of onnxruntime."
        )
    return {"provider": provider, **({"provider_options": {"device_id": index}} if index else {})}
