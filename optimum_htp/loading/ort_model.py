"""Loads an ONNX file with Optimum's own class: `ORTModelForX.from_pretrained("model.onnx")`.

The record names the model. The config comes from next to the file, from the file itself, or from the Hub at the file's
commit. Optimum's class does the rest. Optimum searches a folder for ONNX files. During a load, a hook makes this
search return exactly the files of the model, under the names that Optimum expects.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OnnxFileNotFoundError, WrongTaskError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.code_references import refuse_code_in_axes
from optimum_htp.libraries.names import ONNX_FILE, ONNX_PATTERN
from optimum_htp.libraries.ort_classes import class_for, is_a
from optimum_htp.loading.other_commits import has_changed, overriding_commit
from optimum_htp.loading.preprocessors import LazyPreprocessors
from optimum_htp.loading.recognize import files_being_loaded, setting
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import contained_files, external_files, read_signature
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.config_folder import Carrier, carrier_of, find, overriding
from optimum_htp.resolve.configs import load_config, load_generation_config
from optimum_htp.resolve.export_manifest import carries_manifest
from optimum_htp.resolve.model_files import ModelFiles, parts_of

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["complete", "load"]

logger = get_logger(__name__)

_GENERATION: Final = "text-generation"
_REPO_OPTIONS: Final = ("subfolder", "file_name", "revision", "force_download", "export")
_PART_NAMES: Final = ("encoder_file_name", "decoder_file_name", "decoder_with_past_file_name")


def load(
    cls: type[ORTModel],
    model_id: str | os.PathLike[str],
    *,
    config: Any = None,
    export: bool = False,
    subfolder: str = "",
    revision: str | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    preprocessors_too: bool = False,
    folder: Path | None = None,
    **options: Any,
) -> ORTModel:
    """Load an ONNX file with one of Optimum's `ORTModel` classes. The other arguments are Optimum's.

    `revision` overrides the commit in the file's record. While an export replaces the model's files, the load waits,
    and returns the old model or the new one. With `preprocessors_too`, `model.preprocessors` are loaded at the same
    time; an error is raised at their first use. `folder` is the folder that the user named, if any.

    Raises:
        OnnxFileNotFoundError: The file, or another file of its model, does not exist.
        ModelBeingReplacedError: Some files belong to a new export, and the others do not arrive.
        InvalidOnnxFileError: The file is not an ONNX model, has external data outside its folder, or has axes that run
            code.
        ConfigLoadError: No config is available.
        WrongTaskError: The file is for another class, and this class fails to load it or would fail in every call.
        HFHubIntegrationError: The config cannot be downloaded; the subclass gives the reason.
    """
    path = Path(os.fspath(model_id)).expanduser()
    if not path.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.")
    if export:
        raise ValueError(f"{path} is already an ONNX file. Remove export=True.")
    if subfolder:
        raise ValueError(f"{path} is a file. Put subfolder={subfolder!r} into its path.")
    if options.get("file_name") not in (None, path.name):
        raise ValueError(f"{path} is a file. Remove file_name={options['file_name']!r}.")
    options.pop("file_name", None)
    access = HubAccess(
        token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
    )
    request = _Request(cls, path, folder, config, access, revision, trust_remote_code, preprocessors_too, options)
    return read_whole(path.parent, lambda watch: _loaded(request, watch))


@dataclass(frozen=True)
class _Request:
    """The arguments of a load; `options` are for Optimum."""

    cls: type[ORTModel]
    path: Path
    folder: Path | None
    config: Any
    access: HubAccess
    revision: str | None
    trust_remote_code: bool
    preprocessors_too: bool
    options: Mapping[str, Any]


def _loaded(request: _Request, watch: Watch) -> ORTModel:
    cls, path = request.cls, request.path
    watch.see(path)
    metadata = read_record(path)
    files = _files(request, metadata, watch)
    carrier = carrier_of(path, metadata, request.access, request.folder)
    config, options = _configured(request, carrier)
    preprocessors = _preprocessors(carrier, request.access, request.revision, request.trust_remote_code)
    try:
        with setting(files_being_loaded, files), ThreadPoolExecutor(1) as pool:
            if preprocessors is not None and request.preprocessors_too:
                pool.submit(len, preprocessors)  # onnxruntime releases the interpreter lock while it creates a session
            model = cls._from_pretrained(files.folder, config=config, local_files_only=True, **options)
    except Exception as error:
        for file in files.by_name.values():
            contained_files(file)  # check first: ONNX Runtime's message repeats control characters in a location
        if (wrong := _wrong_task(cls, path, metadata)) is not None:
            raise wrong from error
        if isinstance(error, FileNotFoundError) and files.missing is not None:  # the class opens a missing file
            raise files.missing from error
        raise
    for part in getattr(model, "parts", None) or [model]:
        refuse_code_in_axes(getattr(part, "output_shapes", {}), path)
    _complete(model, preprocessors)
    return model


def complete(cls: type[ORTModel], model: ORTModel, path: Path, options: Mapping[str, Any]) -> ORTModel:
    """Add preprocessors to a model that Optimum has loaded itself, from a repo with an ONNX file and a config.

    If the config is of another commit than the file, and has changed, the file is loaded again with its own config,
    and the new model is returned.
    """
    metadata = read_record(path)
    access = HubAccess.from_options({**options, "force_download": None})
    trusted = bool(options.get("trust_remote_code"))
    carrier = carrier_of(path, metadata, access)
    kept = options.get("config") is not None or overriding(metadata, options.get("revision")) is not None
    if not kept and has_changed(carrier, access, with_code=trusted, model_only=True):
        return load(cls, path, **{name: options[name] for name in options if name not in _REPO_OPTIONS})
    revision = overriding_commit(carrier, options, access)
    _complete(model, _preprocessors(carrier, access, revision, trusted))
    return model


def _complete(model: ORTModel, preprocessors: LazyPreprocessors | None) -> None:
    if not hasattr(model, "main_input_name"):  # transformers' speech pipeline reads it
        model.main_input_name = next(iter(model.input_names), None)
    if preprocessors is not None:
        model.preprocessors = preprocessors


def _preprocessors(
    carrier: Carrier, access: HubAccess, revision: str | None, trusted: bool
) -> LazyPreprocessors | None:
    if carrier.record is None or not carrier.record.preprocessors:
        return None
    return LazyPreprocessors(carrier, carrier.record, access, revision, trusted)


def _files(request: _Request, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files of the model, or raise WrongTaskError if the class cannot run them."""
    cls, path = request.cls, request.path
    if metadata is not None and metadata.submodule is not None:
        raise WrongTaskError(
            f"{path} contains only the module {metadata.submodule} of {metadata.source}. Run it with "
            f"onnxruntime.InferenceSession, or load the file of the whole model with {cls.__name__}."
        )
    if metadata is not None and metadata.onnx_files and carries_manifest(metadata):
        raise WrongTaskError(
            f"{path} is one of {len(metadata.onnx_files)} components of a model exported with transformers' engine. "
            "Load it with transformers.exporters.ExportedModel, or export it again with --engine optimum."
        )
    given = {name: request.options[name] for name in _PART_NAMES if request.options.get(name) is not None}
    files = _named_files(path, given, watch) if given else _model_files(cls, path, metadata, watch)
    wrong = _wrong_task(cls, path, metadata) if _lacks_output(cls, path, metadata) else None
    if wrong is not None:
        raise wrong
    return files


def _model_files(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files that the class opens, by the names that it searches."""
    if not is_a(cls, "ORTModelForConditionalGeneration"):
        return ModelFiles(path.parent, {ONNX_FILE: _openable(path)})
    if metadata is None:
        return ModelFiles(path.parent, {file.name: file for file in sorted(path.parent.glob("*.onnx"))})
    if not metadata.onnx_files:
        raise OnnxFileNotFoundError(
            f"{path} contains a whole model, but {cls.__name__} requires an encoder and a decoder. It was exported "
            f"for the task {metadata.task}. Export the model for another task, without --monolith."
        )
    parts = parts_of(path, metadata, watch)
    return parts._replace(by_name={name: _openable(file) for name, file in parts.by_name.items()})


def _named_files(path: Path, given: Mapping[str, str], watch: Watch) -> ModelFiles:
    """Return the files that the user named, by these names."""
    for name in given.values():
        watch.see(path.parent / name)
        if not (path.parent / name).is_file():
            existing = ", ".join(sorted(file.name for file in path.parent.glob(ONNX_PATTERN)))
            raise OnnxFileNotFoundError(f"There is no {name} in {path.parent}. It has {existing}. Pass one of these.")
    return ModelFiles(path.parent, {name: _openable(path.parent / name) for name in given.values()})


def _openable(path: Path) -> Path:
    """Return the path at which ONNX Runtime finds a file's external data, also if the file is a symlink."""
    if path.is_symlink() and not all((path.parent / name).exists() for name in external_files(path)):
        return path.resolve()
    return path


def _configured(request: _Request, carrier: Carrier) -> tuple[Any, Mapping[str, Any]]:
    """Return the config, and the options, which contain the generation config if the model generates."""
    from transformers import GenerationMixin

    config, options, access = request.config, request.options, request.access
    revision, trusted = request.revision, request.trust_remote_code
    if isinstance(config, (str, os.PathLike)):
        config = request.cls._load_config(
            os.fspath(config),
            token=access.token,
            force_download=access.force_download,
            trust_remote_code=trusted,
            **({} if access.cache_dir is None else {"cache_dir": access.cache_dir}),
            **({} if revision is None else {"revision": revision}),
        )
    elif config is None:
        source = find(carrier, "AutoConfig", access, revision, with_code=trusted)
        assert source is not None  # `find` raises otherwise
        config = load_config(source, carrier.record, trust_remote_code=trusted, anew=access.force_download)
    if issubclass(request.cls, GenerationMixin) and options.get("generation_config") is None:
        own = find(carrier, "GenerationConfig", access, revision, with_code=trusted, needed=False)
        options = {**options, "generation_config": load_generation_config(own, config)}
    return config, options


def _lacks_output(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None) -> bool:
    """Whether a file lacks the output that a class reads, so that every call would fail.

    A decoder class reads logits for each token. A file of a sentence_transformers model can have only sentence
    vectors.
    """
    if metadata is None or metadata.task is None:
        return False
    if metadata.export_library == "sentence_transformers" and is_a(cls, "ORTModelForFeatureExtraction"):
        return all(spec.name != "last_hidden_state" for spec in read_signature(path)[1])
    if not is_a(cls, "ORTModelForCausalLM") or metadata.task.startswith(_GENERATION):
        return False
    logits = next((spec for spec in read_signature(path)[1] if spec.name == "logits"), None)
    return logits is None or (logits.shape is not None and len(logits.shape) != len(("batch", "token", "vocabulary")))


def _wrong_task(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None) -> WrongTaskError | None:
    """Return the error for a file that was exported for another class, or None if the class is right."""
    if metadata is None or metadata.task is None:
        return None
    fitting = class_for(path, metadata)
    if issubclass(cls, fitting) or issubclass(fitting, cls):
        return None
    if metadata.export_library == "sentence_transformers":
        return WrongTaskError(
            f"{path} was exported with --library sentence_transformers, so it includes the pooling. {cls.__name__} "
            f"and SentenceTransformer cannot run it. Use {fitting.__name__} and its output sentence_embedding, or "
            "export the model again without --library."
        )
    return WrongTaskError(
        f"{path} was exported for {metadata.task}, which {cls.__name__} cannot run. Use {fitting.__name__}, or export "
        "the model again for another task."
    )
