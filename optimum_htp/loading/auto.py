"""OptimumONNXModel: loads an ONNX file with the class for the task in its record."""

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
    """Selects the `ORTModel` class for a file. Not a model itself: both methods return an instance of that class."""

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, task: str = AUTO, **kwargs: Any) -> ORTModel:
        """Load an ONNX file, or a folder of ONNX files, with Optimum's class for its task.

        Args:
            path: The file, the folder, a Hub repo that contains them, or `hf://org/name[@revision]/model.onnx`.
            task: Optimum task; `auto` for the task in the file's record.
            **kwargs: Arguments of `ORTModel.from_pretrained`.

        Raises:
            OnnxFileNotFoundError: The file does not exist.
            ConfigLoadError: The file does not record its task.
            HFHubIntegrationError: The config is not available; the subclass gives the reason.
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
            task: Optimum task; `auto` for the task in the file's record.
            device: `cpu`, `cuda` or `cuda:N`.
            **kwargs: Arguments of `ORTModel.from_pretrained`.

        Returns:
            The model, and the first preprocessor that the file names. The second is None for a model without
            preprocessors, and, with `config=`, for a local model whose preprocessors are neither next to nor in the
            file.

        Raises:
            DeviceError: The device is unknown, or the installed onnxruntime has no provider for it.
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
        with ThreadPoolExecutor(1) as pool:  # onnxruntime releases the interpreter lock while it creates a session
            preprocessor = pool.submit(make)
            return load(cls_for_file, file, **options), preprocessor.result()


def _diffusion_pipeline(path: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    with needing_optimum_onnx(f"Loading {path}"):
        from optimum.onnxruntime import ORTDiffusionPipeline
    try:
        return ORTDiffusionPipeline.from_pretrained(path, **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a diffusion pipeline. Run `pip install diffusers` to load it."
        ) from error


def _provider(device: str) -> dict[str, Any]:
    """Return the arguments of a session on a device."""
    import onnxruntime

    kind, _, index = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider is None or (index and not index.isdigit()):
        raise DeviceError(f"device={device!r} is unknown. Use cpu, cuda or cuda:N, or pass provider=.")
    if provider not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"device={device!r} requires {provider}, which is not available (available: "
            f"{', '.join(onnxruntime.get_available_providers())}). Install onnxruntime-gpu in place of onnxruntime."
        )
    return {"provider": provider, **({"provider_options": {"device_id": index}} if index else {})}
