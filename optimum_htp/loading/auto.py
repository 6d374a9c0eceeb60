"""OptimumONNXModel: an ONNX file loaded as the class that its own record names."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import DeviceError, MissingDependencyError, OnnxFileNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.diffusion import pipeline_record
from optimum_htp.loading.onnx_repos import find_onnx_repo
from optimum_htp.loading.ort_model import load
from optimum_htp.loading.preprocessors import class_names, load_preprocessor
from optimum_htp.loading.recognize import names_a_file
from optimum_htp.loading.stamped_files import stamped_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.origin.config_folder import embedded_preprocessors, has_preprocessors, preprocessor_folder
from optimum_htp.origin.dependencies import needing_optimum_onnx
from optimum_htp.origin.ort_classes import AUTO, class_for

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["OptimumONNXModel"]

logger = get_logger(__name__)

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
        if pipeline_record(path) is not None:
            return _diffusion_pipeline(path, kwargs)
        file, record = _file_and_record(path, kwargs)
        return load(class_for(file, record, task), file, **kwargs)

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
        if pipeline_record(onnx_path) is not None:
            pipeline = _diffusion_pipeline(onnx_path, {**_provider(device), **kwargs})
            return pipeline, getattr(pipeline, "tokenizer", None)
        file, record = _file_and_record(onnx_path, kwargs)
        cls_for_file, provider = class_for(file, record, task), _provider(device)
        if record is None:
            return load(cls_for_file, file, **provider, **kwargs), None
        access = HubAccess.from_options(kwargs)
        trusted = bool(kwargs.get("trust_remote_code"))
        bare = not has_preprocessors(file.parent) and embedded_preprocessors(file, record, access) is None
        if kwargs.get("config") is not None and record.model_type == "local" and bare:
            logger.warning("%s is of a local model, and there are no preprocessors beside it.", file)
            return load(cls_for_file, file, **provider, **kwargs), None
        folder = preprocessor_folder(file, record, access, kwargs.get("revision"), with_code=trusted)  # and the config
        if not (names := class_names(record, folder)):
            return load(cls_for_file, file, **provider, **kwargs), None
        with ThreadPoolExecutor(1) as pool:  # onnxruntime makes its session without the interpreter's lock
            preprocessor = pool.submit(load_preprocessor, names[0], folder, record, trust_remote_code=trusted)
            return load(cls_for_file, file, **provider, **kwargs), preprocessor.result()


def _diffusion_pipeline(path: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    with needing_optimum_onnx(f"Loading {path}"):
        from optimum.onnxruntime import ORTDiffusionPipeline
    try:
        return ORTDiffusionPipeline.from_pretrained(path, **options)
    except ImportError as error:
        raise MissingDependencyError(
            f"{path} is a diffusion pipeline: run `pip install diffusers` to load it."
        ) from error


def _file_and_record(path: str | os.PathLike[str], options: dict[str, Any]) -> tuple[Path, ExportMetadata | None]:
    file = stamped_file(path, options)
    if file is None and (repo := find_onnx_repo(path, options)) is not None:
        if options.get("config") is None:
            repo.record()  # says why it cannot be loaded, before anything is fetched
        file = repo.fetch()
        for name in ("revision", "force_download", "file_name", "subfolder"):  # were those of the repo
            options.pop(name, None)
    if file is None or not file.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file with a record at {path}. Check the path.")
    if not names_a_file(path):  # of a file, the load says that they are too much
        options.pop("file_name", None)
        options.pop("subfolder", None)
    return file, read_record(file)


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
