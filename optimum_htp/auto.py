"""OptimumONNXModel: an ONNX file loaded as the class that its own record names."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.configs import preprocessor_folder
from optimum_htp.diffusion import pipeline_record
from optimum_htp.errors import ConfigLoadError, HFHubIntegrationError, OnnxFileNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loader import load, stamped_file
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnx_repos import find_onnx_repo
from optimum_htp.onnxfile import read_metadata, read_signature
from optimum_htp.preprocessors import class_names, load_preprocessor
from optimum_htp.tasks import canonical_task

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["OptimumONNXModel"]

_AUTO: Final = "auto"
_WITH_PAST: Final = "-with-past"
_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OptimumONNXModel:
    """Picks the `ORTModel` class for a file. Not a model itself: both methods return an instance of that class."""

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, task: str = _AUTO, **kwargs: Any) -> ORTModel:
        """Load an ONNX file, or a folder of them, as the class of Optimum's that its task is for.

        Args:
            path: The file, the folder, or a repo of the Hub that holds them.
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
        return load(_class_for(file, record, task), file, **kwargs)

    @classmethod
    def from_onnx(
        cls, onnx_path: str | os.PathLike[str], task: str = _AUTO, device: str = "cpu", **kwargs: Any
    ) -> tuple[ORTModel, Any]:
        """Load an ONNX file and the preprocessor of its model.

        Args:
            onnx_path: The file, a folder of them, or a repo of the Hub that holds them.
            task: Optimum task; `auto` for the one in the file.
            device: `cpu`, `cuda` or `cuda:N`.
            **kwargs: Arguments of `ORTModel.from_pretrained`.

        Returns:
            The model, and the first preprocessor that the file names; None for a model that has none.

        Raises:
            HFHubIntegrationError: As `from_pretrained`; also a device that onnxruntime has no provider for here.
            PreprocessorLoadError: The preprocessor cannot be loaded.
        """
        if pipeline_record(onnx_path) is not None:
            pipeline = _diffusion_pipeline(onnx_path, {**_provider(device), **kwargs})
            return pipeline, getattr(pipeline, "tokenizer", None)
        file, record = _file_and_record(onnx_path, kwargs)
        cls_for_file, provider = _class_for(file, record, task), _provider(device)
        if record is None:
            return load(cls_for_file, file, **provider, **kwargs), None
        access = HubAccess.from_options(kwargs)
        trusted = bool(kwargs.get("trust_remote_code"))
        folder = preprocessor_folder(file, record, access, kwargs.get("revision"), with_code=trusted)  # and the config
        if not (names := class_names(record, folder)):
            return load(cls_for_file, file, **provider, **kwargs), None
        with ThreadPoolExecutor(1) as pool:  # onnxruntime makes its session without the interpreter's lock
            preprocessor = pool.submit(load_preprocessor, names[0], folder, record, trust_remote_code=trusted)
            return load(cls_for_file, file, **provider, **kwargs), preprocessor.result()


def _diffusion_pipeline(path: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    try:
        from optimum.onnxruntime import ORTDiffusionPipeline

        return ORTDiffusionPipeline.from_pretrained(path, **options)
    except ImportError as error:
        raise HFHubIntegrationError(
            f"{path} is a diffusion pipeline: run `pip install diffusers` to load it."
        ) from error


def _file_and_record(path: str | os.PathLike[str], options: dict[str, Any]) -> tuple[Path, ExportMetadata | None]:
    file = stamped_file(path, options)
    if file is None and (repo := find_onnx_repo(path, options)) is not None:
        file = repo.fetch()
        for name in ("revision", "force_download"):  # were those of the repo
            options.pop(name, None)
    if file is None or not file.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file with a record at {path}. Check the path.")
    options.pop("file_name", None)
    options.pop("subfolder", None)
    return file, ExportMetadata.from_properties(read_metadata(file))


def _class_for(file: Path, record: ExportMetadata | None, task: str) -> type[ORTModel]:
    """Return the class of optimum-onnx that runs a task; found by looking, so that new ones are found too."""
    import optimum.onnxruntime as ort
    from optimum.exporters.tasks import TasksManager
    from optimum.onnxruntime.modeling_seq2seq import ORTModelForConditionalGeneration

    if task == _AUTO and (record is None or record.task is None):
        raise ConfigLoadError(f"{file} does not say its task: pass task=, or stamp it with `optimum-cli htp inject`.")
    name = canonical_task(str(record.task if record is not None and task == _AUTO else task)).removesuffix(_WITH_PAST)
    several = record is not None and len(record.onnx_files) > 1
    fallback: type[ORTModel] = ort.ORTModelForCustomTasks
    loaders = TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS.get(name, ())
    loaders = (loaders,) if isinstance(loaders, str) else loaders
    found: list[type[ORTModel]] = []
    for attribute in dir(ort):
        if attribute.startswith("ORTModelFor") and attribute != fallback.__name__:
            candidate = getattr(ort, attribute)
            if several != issubclass(candidate, ORTModelForConditionalGeneration):
                continue
            if candidate.auto_model_class.__name__ in loaders or _is_for(candidate, name):
                found.append(candidate)
    outputs = {spec.name for spec in read_signature(file)[1]}
    if not found or (
        not several and found == [ort.ORTModelForFeatureExtraction] and "last_hidden_state" not in outputs
    ):
        return fallback
    architecture = record.model_class if record is not None else None
    for candidate in found:  # where several run one task, the class of the model decides
        names = getattr(getattr(candidate.auto_model_class, "_model_mapping", None), "_model_mapping", {})
        if architecture in names.values():
            return candidate
    return found[0]


def _is_for(candidate: type[ORTModel], task: str) -> bool:
    """Whether the model class behind a class of Optimum's is one that Optimum infers a task from."""
    from optimum.exporters.tasks import TasksManager

    try:
        inferred = TasksManager._infer_task_from_model_or_model_class(model_class=candidate.auto_model_class)
    except ValueError:  # a class for models that are none of transformers' tasks
        return False
    return bool(inferred == task)


def _provider(device: str) -> dict[str, Any]:
    """Return the arguments that put a session on a device."""
    import onnxruntime

    kind, _, index = device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider is None or (index and not index.isdigit()):
        raise HFHubIntegrationError(f"device={device!r} is not known: pass cpu, cuda or cuda:N, or provider=.")
    if provider not in onnxruntime.get_available_providers():
        raise HFHubIntegrationError(
            f"device={device!r} needs onnxruntime's {provider}, which is not here "
            f"({', '.join(onnxruntime.get_available_providers())}). Install onnxruntime-gpu in place of onnxruntime."
        )
    return {"provider": provider, **({"provider_options": {"device_id": index}} if index else {})}
