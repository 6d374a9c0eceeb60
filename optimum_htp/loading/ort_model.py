"""Loading an ONNX file through Optimum's own class: `ORTModelForX.from_pretrained("model.onnx")`.

The file says which model it is; its config comes from beside it or from the Hub at its commit; Optimum's class
does the rest, in place. Optimum looks for ONNX files by searching a folder. While one of our loads runs, that
search is answered with exactly the files of the model, under the names that Optimum expects.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import (
    InvalidOnnxFileError,
    MetadataError,
    MissingSiblingError,
    OnnxFileNotFoundError,
    WrongTaskError,
)
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.ort_classes import class_for
from optimum_htp.loading.preprocessors import LazyPreprocessors
from optimum_htp.loading.recognize import ModelFiles, files_being_loaded, may_be_ours, names_a_file
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import contained_files, external_files, read_metadata, read_signature
from optimum_htp.onnxfile.publication import Watch, read_whole
from optimum_htp.origin.commit_files import ConfigFolder, load_config
from optimum_htp.origin.config_folder import config_folder, file_in_folder
from optimum_htp.origin.repo_files import MODEL_CONFIGS

if TYPE_CHECKING:
    from optimum.onnxruntime import ORTModel

__all__ = ["load", "stamped_file"]

logger = logging.getLogger(__name__)

_, _GENERATION_CONFIG = MODEL_CONFIGS
_SINGLE_FILE: Final = "model.onnx"
_GENERATION: Final = "text-generation"
_PART_NAMES: Final = ("encoder_file_name", "decoder_file_name", "decoder_with_past_file_name")


def stamped_file(model_id: Any, options: Mapping[str, Any]) -> Path | None:
    """Return the ONNX file that a call of `from_pretrained` means where it is ours to load, else None.

    Ours are paths that end in `.onnx`, and folders of stamped files without the configs that Optimum needs.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments.
    """
    if names_a_file(model_id):
        return Path(os.fspath(model_id)).expanduser()
    if options.get("export") or not may_be_ours(model_id, options.get("subfolder")):
        return None
    name = options.get("file_name") or options.get("encoder_file_name")
    folder = Path(model_id, options.get("subfolder") or "")

    def search(watch: Watch) -> Path | None:
        for one in folder.glob("*.onnx"):
            watch.see(one)
        return file_in_folder(folder, name)

    return read_whole(folder, search)


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
    **options: Any,
) -> ORTModel:
    """Load an ONNX file with one of Optimum's `ORTModel` classes; the arguments are Optimum's.

    `revision` overrides the commit that the file is pinned to. While an export replaces the model's files, this waits,
    and what it loads is the old model or the new one.

    Raises:
        OnnxFileNotFoundError: There is no such file, or one that belongs to it is missing.
        ModelBeingReplacedError: Some of its files are those of a new export, and the others do not come.
        InvalidOnnxFileError: The file is not an ONNX model, or keeps data outside its folder.
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
    return read_whole(
        path.parent,
        lambda watch: _loaded(cls, path, config, access, revision, trust_remote_code, dict(options), watch),
    )


def _loaded(
    cls: type[ORTModel],
    path: Path,
    config: Any,
    access: HubAccess,
    revision: str | None,
    trust_remote_code: bool,
    options: dict[str, Any],
    watch: Watch,
) -> ORTModel:
    given = {name: options[name] for name in _PART_NAMES if options.get(name) is not None}
    watch.see(path)
    metadata = ExportMetadata.from_properties(read_metadata(path))
    if _is_generator(cls):
        source = config_folder(path, metadata, access, revision, trust_remote_code, needed=config is None)
        config = _config(cls, config, source, metadata, access, trust_remote_code)
        if options.get("generation_config") is None:
            options["generation_config"] = _generation_config(source, config)
    else:
        source = None
        if config is None:
            source = config_folder(path, metadata, access, revision, trust_remote_code, needed=True)
        config = _config(cls, config, source, metadata, access, trust_remote_code)
    files = _files_of_names(path, given, watch) if given else _model_files(cls, path, metadata, watch)
    wrong = _wrong_task(cls, path, metadata) if _cannot_generate(cls, path, metadata) else None
    if wrong is not None:
        raise wrong
    try:
        with _answering_with(files):
            model = cls._from_pretrained(files.folder, config=config, local_files_only=True, **options)
    except Exception as error:
        for file in files.by_name.values():
            contained_files(file)  # ONNX Runtime repeats a location as it is, control characters included
        if (wrong := _wrong_task(cls, path, metadata)) is not None:
            raise wrong from error
        raise
    if not hasattr(model, "main_input_name"):  # of all models of transformers; its speech pipeline asks for it
        model.main_input_name = next(iter(model.input_names), None)
    if metadata is not None and metadata.preprocessors:
        model.preprocessors = LazyPreprocessors(path, metadata, access, revision, trust_remote_code)
    return model


def _cannot_generate(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None) -> bool:
    """Whether a decoder's class is to load what gives no logits for each token, so that its every call would fail."""
    from optimum.onnxruntime import ORTModelForCausalLM

    if not issubclass(cls, ORTModelForCausalLM) or metadata is None or metadata.task is None:
        return False
    if metadata.task.startswith(_GENERATION):
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
    return WrongTaskError(
        f"{path} was exported for {metadata.task}, and {cls.__name__} cannot run that: use {fitting.__name__}, or "
        "export the model again for another task."
    )


def _config(
    cls: type[ORTModel],
    config: Any,
    source: ConfigFolder | None,
    metadata: ExportMetadata | None,
    access: HubAccess,
    trust_remote_code: bool,
) -> Any:
    if isinstance(config, (str, os.PathLike)):
        return cls._load_config(
            os.fspath(config),
            token=access.token,
            force_download=access.force_download,
            trust_remote_code=trust_remote_code,
            **({} if access.cache_dir is None else {"cache_dir": access.cache_dir}),
        )
    if config is None and source is not None:
        return load_config(source, metadata, trust_remote_code=trust_remote_code, anew=access.force_download)
    return config


def _generation_config(source: ConfigFolder | None, config: Any) -> Any:
    from transformers import GenerationConfig

    if source is not None and (source.folder / _GENERATION_CONFIG).is_file():
        return GenerationConfig.from_pretrained(source.folder)
    return GenerationConfig.from_model_config(config)


def _is_generator(cls: type[ORTModel]) -> bool:
    from transformers import GenerationMixin

    return issubclass(cls, GenerationMixin)


def _model_files(cls: type[ORTModel], path: Path, metadata: ExportMetadata | None, watch: Watch) -> ModelFiles:
    """Return the files that the class opens, under the names that it looks for."""
    from optimum.onnxruntime.modeling_seq2seq import ORTModelForConditionalGeneration

    if not issubclass(cls, ORTModelForConditionalGeneration):
        return ModelFiles(path.parent, {_SINGLE_FILE: _openable(path)})
    if metadata is None:
        return ModelFiles(path.parent, {one.name: one for one in sorted(path.parent.glob("*.onnx"))})
    if not metadata.onnx_files:
        raise OnnxFileNotFoundError(
            f"{path} is a whole model in one file, and {cls.__name__} needs an encoder and a decoder. It was "
            f"exported for the task {metadata.task}: export it for another one, without --monolith."
        )
    folder, found = path.parent, {}
    if metadata.onnx_file is not None:
        folder = path.parents[metadata.onnx_file.count("/")]
        watch.see_folder(folder)
    for name in metadata.onnx_files:
        found[name] = path if name == metadata.onnx_file else _sibling(folder, name, path, metadata, watch)
    return ModelFiles(folder, {name: _openable(one) for name, one in found.items()})


def _files_of_names(path: Path, given: Mapping[str, str], watch: Watch) -> ModelFiles:
    """Return the files that the user named one by one; Optimum finds them by these names."""
    for name in given.values():
        watch.see(path.parent / name)
        if not (path.parent / name).is_file():
            raise OnnxFileNotFoundError(f"There is no ONNX file at {path.parent / name}. Check the name.")
    return ModelFiles(path.parent, {name: _openable(path.parent / name) for name in given.values()})


def _sibling(folder: Path, name: str, path: Path, metadata: ExportMetadata, watch: Watch) -> Path:
    """Return the file that had this name in the same export, renamed or not."""
    expected = folder / name
    for candidate in (expected, *sorted(expected.parent.glob("*.onnx"))):
        watch.see(candidate)
        other = _record_of(candidate)
        if other is not None and other.belongs_with(metadata) and other.onnx_file in (None, name):
            return candidate
    stranger = " (the one there is of another export)" if expected.is_file() else ""
    raise MissingSiblingError(
        f"{expected} is missing{stranger}: {path.name} is part of a model of {len(metadata.onnx_files)} files "
        f"({', '.join(metadata.onnx_files)}), which have to stay together. Copy it there, or export again."
    )


def _record_of(path: Path) -> ExportMetadata | None:
    """Return a neighbour's record, None where it has none that can be read."""
    try:
        return ExportMetadata.from_properties(read_metadata(path))
    except (InvalidOnnxFileError, MetadataError, OSError):
        return None


def _openable(path: Path) -> Path:
    """Return the path under which ONNX Runtime finds a file's external data, where the file is a link."""
    if path.is_symlink() and not all((path.parent / name).exists() for name in external_files(path)):
        return path.resolve()
    return path


@contextmanager
def _answering_with(files: ModelFiles) -> Iterator[None]:
    token = files_being_loaded.set(files)
    try:
        yield
    finally:
        files_being_loaded.reset(token)
