"""Loading an ONNX file through Optimum's own class: `ORTModelForX.from_pretrained("model.onnx")`.

The file says which model it is; its config comes from beside it, from itself or from the Hub at its commit; Optimum's
class does the rest, in place. Optimum looks for ONNX files by searching a folder. While one of our loads runs, that
search is answered with exactly the files of the model, under the names that Optimum expects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OnnxFileNotFoundError, WrongTaskError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.axes import refuse_code_in_axes
from optimum_htp.libraries.ort_classes import class_for, is_a
from optimum_htp.loading.other_commits import has_changed, overriding_commit
from optimum_htp.loading.preprocessors import LazyPreprocessors
from optimum_htp.loading.recognize import files_being_loaded
from optimum_htp.loading.stamped_files import files_of_names, model_files
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import contained_files, read_signature
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.config_folder import Carrier, carrier_of, find, overriding
from optimum_htp.resolve.configs import ConfigSource, load_config, load_generation_config
from optimum_htp.resolve.export_manifest import carries_manifest
from optimum_htp.resolve.model_files import ModelFiles

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["complete", "load"]

logger = get_logger(__name__)

_GENERATION: Final = "text-generation"
_OF_REPOS: Final = ("subfolder", "file_name", "revision", "force_download", "export")
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
    """Load an ONNX file with one of Optimum's `ORTModel` classes; the other arguments are Optimum's.

    `revision` overrides the commit that the file is pinned to. While an export replaces the model's files, this waits,
    and what it loads is the old model or the new one. With `preprocessors_too`, `model.preprocessors` are loaded
    meanwhile; one that cannot be says so when it is looked at. `folder` is the one that the user named, if it was one.

    Raises:
        OnnxFileNotFoundError: There is no such file, or one that belongs to it is missing.
        ModelBeingReplacedError: Some of its files are those of a new export, and the others do not come.
        InvalidOnnxFileError: The file is not an ONNX model, keeps data outside its folder, or has axes that run code.
        ConfigLoadError: There is no config to load it with.
        WrongTaskError: The class fails on it, or would in every call, and it is for another one.
        HFHubIntegrationError: The Hub does not give the config; the subclass says why.
    """
    path = Path(os.fspath(model_id)).expanduser()
    if not path.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.")
    if export:
        raise ValueError(f"{path} is an ONNX file already: leave out export=True.")
    if subfolder:
        raise ValueError(f"{path} is a file: put subfolder={subfolder!r} into its path.")
    if options.get("file_name") not in (None, path.name):
        raise ValueError(f"{path} is a file: leave out file_name={options['file_name']!r}.")
    options.pop("file_name", None)
    access = HubAccess(
        token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
    )
    asked = _Asked(cls, path, folder, config, access, revision, trust_remote_code, preprocessors_too, options)
    return read_whole(path.parent, lambda watch: _loaded(asked, watch))


@dataclass(frozen=True)
class _Asked:
    """What a load was asked for; `options` are for Optimum."""

    cls: type[ORTModel]
    path: Path
    folder: Path | None
    config: Any
    access: HubAccess
    revision: str | None
    trust_remote_code: bool
    preprocessors_too: bool
    options: Mapping[str, Any]


def _loaded(asked: _Asked, watch: Watch) -> ORTModel:
    cls, path = asked.cls, asked.path
    watch.see(path)
    metadata = read_record(path)
    files = _files(asked, metadata, watch)
    carrier = carrier_of(path, metadata, asked.access, asked.folder)
    config, options = _configured(asked, carrier)
    preprocessors = _preprocessors(carrier, asked.access, asked.revision, asked.trust_remote_code)
    try:
        with _answering_with(files), ThreadPoolExecutor(1) as pool:
            if preprocessors is not None and asked.preprocessors_too:
                pool.submit(len, preprocessors)  # onnxruntime makes its session without the interpreter's lock
            model = cls._from_pretrained(files.folder, config=config, local_files_only=True, **options)
    except Exception as error:
        for file in files.by_name.values():
            contained_files(file)  # ONNX Runtime repeats a location as it is, control characters included
        if (wrong := _wrong_task(cls, path, metadata)) is not None:
            raise wrong from error
        if isinstance(error, FileNotFoundError) and files.missing is not None:  # the class opens one that is not there
            raise files.missing from error
        raise
    for part in getattr(model, "parts", None) or [model]:
        refuse_code_in_axes(getattr(part, "output_shapes", {}), path)
    _complete(model, preprocessors)
    return model


def complete(cls: type[ORTModel], model: ORTModel, path: Path, options: Mapping[str, Any]) -> ORTModel:
    """Return a model with what Optimum has left out: it loads a stamped file itself where a repo has a config too.

    Where that config is of another commit than the file, and has changed, the file is loaded anew with its own.

    Args:
        cls: The class that was asked for.
        model: The model.
        path: The file that it was loaded from.
        options: Of the call.
    """
    metadata = read_record(path)
    access = HubAccess.from_options({**options, "force_download": None})
    trusted = bool(options.get("trust_remote_code"))
    carrier = carrier_of(path, metadata, access)
    kept = options.get("config") is not None or overriding(metadata, options.get("revision")) is not None
    if not kept and has_changed(carrier, access, with_code=trusted, model_only=True):
        return load(cls, path, **{name: options[name] for name in options if name not in _OF_REPOS})
    revision = overriding_commit(carrier, options, access)
    _complete(model, _preprocessors(carrier, access, revision, trusted))
    return model


def _complete(model: ORTModel, preprocessors: LazyPreprocessors | None) -> None:
    if not hasattr(model, "main_input_name"):  # of all models of transformers; its speech pipeline asks for it
        model.main_input_name = next(iter(model.input_names), None)
    if preprocessors is not None:
        model.preprocessors = preprocessors


def _preprocessors(
    carrier: Carrier, access: HubAccess, revision: str | None, trusted: bool
) -> LazyPreprocessors | None:
    if carrier.record is None or not carrier.record.preprocessors:
        return None
    return LazyPreprocessors(carrier, carrier.record, access, revision, trusted)


def _files(asked: _Asked, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files of the model, where the class can run them."""
    cls, path = asked.cls, asked.path
    if metadata is not None and metadata.submodule is not None:
        raise WrongTaskError(
            f"{path} is one module of {metadata.source}, {metadata.submodule}, cut out of its file: run it with "
            f"onnxruntime.InferenceSession, and load the whole model's file with {cls.__name__}."
        )
    if metadata is not None and metadata.onnx_files and carries_manifest(metadata):
        raise WrongTaskError(
            f"{path} is one of {len(metadata.onnx_files)} components of a model exported with transformers' "
            "exporters. Load it with transformers.exporters.ExportedModel, or export again with --engine optimum."
        )
    given = {name: asked.options[name] for name in _PART_NAMES if asked.options.get(name) is not None}
    files = files_of_names(path, given, watch) if given else model_files(cls, path, metadata, watch)
    wrong = _wrong_task(cls, path, metadata) if _lacks_output(cls, path, metadata) else None
    if wrong is not None:
        raise wrong
    return files


def _configured(asked: _Asked, carrier: Carrier) -> tuple[Any, Mapping[str, Any]]:
    """Return the config, and the options with the generation config, where the model generates."""
    options, trusted = asked.options, asked.trust_remote_code
    source = None
    if asked.config is None:
        source = find(carrier, "AutoConfig", asked.access, asked.revision, with_code=trusted)
    config = _config(asked, source, carrier.record)
    if _is_generator(asked.cls) and options.get("generation_config") is None:
        own = find(carrier, "GenerationConfig", asked.access, asked.revision, with_code=trusted, needed=False)
        options = {**options, "generation_config": load_generation_config(own, config)}
    return config, options


def _lacks_output(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None) -> bool:
    """Whether a class is to load what does not give the output that it reads, so that its every call would fail.

    A decoder's reads logits for each token. Of a model of sentence_transformers there may be its vectors alone.
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
    """Return what to say where a file was exported for another class than the one that does not load it."""
    if metadata is None or metadata.task is None:
        return None
    fitting = class_for(path, metadata)
    if issubclass(cls, fitting) or issubclass(fitting, cls):
        return None
    if metadata.export_library == "sentence_transformers":
        return WrongTaskError(
            f"{path} was exported with --library sentence_transformers: it pools too, and {cls.__name__} and "
            f"SentenceTransformer cannot run that. Use {fitting.__name__}, whose sentence_embedding is the vector, or "
            "export the model again without --library."
        )
    return WrongTaskError(
        f"{path} was exported for {metadata.task}, and {cls.__name__} cannot run that: use {fitting.__name__}, or "
        "export the model again for another task."
    )


def _config(asked: _Asked, source: ConfigSource | None, metadata: ExportMetadata | None) -> Any:
    config, access = asked.config, asked.access
    if isinstance(config, (str, os.PathLike)):
        return asked.cls._load_config(
            os.fspath(config),
            token=access.token,
            force_download=access.force_download,
            trust_remote_code=asked.trust_remote_code,
            **({} if access.cache_dir is None else {"cache_dir": access.cache_dir}),
            **({} if asked.revision is None else {"revision": asked.revision}),
        )
    if config is None and source is not None:
        return load_config(source, metadata, trust_remote_code=asked.trust_remote_code, anew=access.force_download)
    return config


def _is_generator(cls: type[ORTModel]) -> bool:
    from transformers import GenerationMixin

    return issubclass(cls, GenerationMixin)


@contextmanager
def _answering_with(files: ModelFiles) -> Iterator[None]:
    token = files_being_loaded.set(files)
    try:
        yield
    finally:
        files_being_loaded.reset(token)
