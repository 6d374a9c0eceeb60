"""What is put into Optimum and transformers, module by module, and how it is taken out again.

Every hook looks at what it is given and passes on, untouched, what is not an ONNX file with a record.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, Final

__all__ = ["HOOKS", "uninstall"]

_MODELING: Final = "optimum.onnxruntime.modeling"
# The modules that hold Optimum's search for files under a global name of their own.
_SEARCH: Final = "find_files_matching_pattern"
_SEARCHING: Final = (
    "optimum.utils.file_utils",
    _MODELING,
    "optimum.onnxruntime.modeling_decoder",
    "optimum.onnxruntime.modeling_seq2seq",
)
# transformers' loaders of what belongs to a model, by the module that defines each.
_AUTO_CLASSES: Final = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.feature_extraction_auto": "AutoFeatureExtractor",
    "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
    "transformers.models.auto.processing_auto": "AutoProcessor",
    "transformers.models.auto.tokenization_auto": "AutoTokenizer",
    "transformers.generation.configuration_utils": "GenerationConfig",
}
_PIPELINES: Final = "transformers.pipelines"
# Where the function that makes pipelines is bound, by modules that may have been imported before us.
_PIPELINE_NAMES: Final = {
    _PIPELINES: "pipeline",
    "transformers": "pipeline",
    "optimum.onnxruntime.pipelines": "transformers_pipeline",
}
_CONFIG_CLASSES: Final = ("AutoConfig", "GenerationConfig")
_HUB_OPTIONS: Final = ("token", "cache_dir", "local_files_only", "force_download")
# What loaders raise for a repo without configs; a tokenizer without files fails as it happens to.
_FAILURES: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
_ORIGINAL: Final = "_optimum_htp_original"


def _install_loading(module: ModuleType) -> None:
    """Make `ORTModel.from_pretrained` load our files, and Optimum's search find exactly those of the model."""
    model = module.ORTModel
    _replace(model, "from_pretrained", _loading_files)
    _replace(model, "_cached_file", _serving_files)
    for searching in filter(None, map(sys.modules.get, _SEARCHING)):
        search = getattr(searching, _SEARCH, None)
        if search is not None and not hasattr(search, _ORIGINAL):
            setattr(searching, _SEARCH, _finding_files(search))


def _install_auto_class(module: ModuleType) -> None:
    """Make a loader of transformers take what it loads from where our files say."""
    name = _AUTO_CLASSES[module.__name__]
    _replace(getattr(module, name), "from_pretrained", functools.partial(_loading_beside, name))


def _install_pipeline(module: ModuleType) -> None:
    """Make `transformers.pipeline` take our files, and the preprocessors of models loaded from them."""
    original = module.pipeline
    if hasattr(original, _ORIGINAL):
        return
    hooked = _completing(original)
    for path, name in _PIPELINE_NAMES.items():
        holder = sys.modules.get(path)
        if holder is not None and vars(holder).get(name) is original:
            setattr(holder, name, hooked)


HOOKS: Final[Mapping[str, Callable[[ModuleType], None]]] = {
    _MODELING: _install_loading,
    **dict.fromkeys(_AUTO_CLASSES, _install_auto_class),
    _PIPELINES: _install_pipeline,
}
"""What to install right after a module was imported."""


def uninstall() -> None:
    """Give every hooked class and module back as it was."""
    for owner, name in _hooked():
        current = vars(owner).get(name)
        original = getattr(getattr(current, "__func__", current), _ORIGINAL, None)
        if original is not None:
            setattr(owner, name, original)


def _hooked() -> Iterator[tuple[Any, str]]:
    if (module := sys.modules.get(_MODELING)) is not None:
        yield module.ORTModel, "from_pretrained"
        yield module.ORTModel, "_cached_file"
    for searching in filter(None, map(sys.modules.get, _SEARCHING)):
        yield searching, _SEARCH
    for path, name in _PIPELINE_NAMES.items():
        if (holder := sys.modules.get(path)) is not None:
            yield holder, name
    for path, name in _AUTO_CLASSES.items():
        if (owner := getattr(sys.modules.get(path), name, None)) is not None:
            yield owner, "from_pretrained"


def _replace(owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
    """Put a wrapper in the place of a class's method, once."""
    original = vars(owner)[name]
    if not hasattr(original.__func__, _ORIGINAL):
        setattr(owner, name, wrap(original))


def _marked(function: Any, original: Any) -> Any:
    """Note on a wrapper what it wraps, for `uninstall`."""
    setattr(function, _ORIGINAL, original)
    return function


def _loading_files(original: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
    from optimum_htp import loader
    from optimum_htp.onnx_repos import find_onnx_repo

    function = original.__func__
    signature = inspect.signature(function)

    @functools.wraps(function)
    def from_pretrained(cls: Any, model_id: Any, *args: Any, **kwargs: Any) -> Any:
        arguments = dict(signature.bind(cls, model_id, *args, **kwargs).arguments)
        options = {**arguments, **arguments.pop("kwargs", {})}
        path = loader.stamped_file(model_id, options)
        if path is None:
            try:
                return function(cls, model_id, *args, **kwargs)
            except _FAILURES:
                repo = find_onnx_repo(model_id, options)
                if repo is None:
                    raise
            path = repo.fetch()
            options = {name: value for name, value in options.items() if name not in ("revision", "force_download")}
        for name in ("cls", "model_id", "kwargs"):
            options.pop(name, None)
        if not loader.names_a_file(model_id):  # the folder has been looked into
            options = {name: value for name, value in options.items() if name not in ("subfolder", "file_name")}
        return loader.load(cls, path, **options)

    return classmethod(_marked(from_pretrained, original))


def _serving_files(original: staticmethod[..., Any]) -> staticmethod[..., Any]:
    from optimum_htp.loader import files_being_loaded

    function = original.__func__

    @functools.wraps(function)
    def _cached_file(path_or_repo_id: Any, filename: str, subfolder: str = "", *args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return function(path_or_repo_id, filename, subfolder, *args, **kwargs)
        return files.by_name[filename if subfolder in ("", ".") else f"{subfolder}/{filename}"]

    return staticmethod(_marked(_cached_file, original))


def _finding_files(original: Any) -> Any:
    from optimum_htp.loader import files_being_loaded

    @functools.wraps(original)
    def find_files_matching_pattern(*args: Any, **kwargs: Any) -> Any:
        files = files_being_loaded.get()
        if files is None:
            return original(*args, **kwargs)
        return [files.folder / name for name in files.by_name]

    return _marked(find_files_matching_pattern, original)


def _completing(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def pipeline(*args: Any, **kwargs: Any) -> Any:
        from optimum_htp.pipelines import completed_arguments

        bound = signature.bind(*args, **kwargs).arguments
        extra = {key: value for name in _variadic(signature) for key, value in bound.pop(name, {}).items()}
        return original(**completed_arguments({**bound, **extra}))

    return _marked(pipeline, original)


def _variadic(signature: inspect.Signature) -> list[str]:
    return [one.name for one in signature.parameters.values() if one.kind is inspect.Parameter.VAR_KEYWORD]


def _loading_beside(name: str, original: classmethod[Any, ..., Any]) -> classmethod[Any, ..., Any]:
    """Wrap a loader of configs or preprocessors: for an ONNX file it gets the folder that they are in."""
    function = original.__func__
    is_config = name in _CONFIG_CLASSES

    @functools.wraps(function)
    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        model_id = pretrained_model_name_or_path
        if not isinstance(model_id, (str, os.PathLike)):
            return function(cls, model_id, *args, **kwargs)
        if _may_be_ours(os.fspath(model_id)):
            folder = _folder_of(model_id, kwargs, is_config=is_config)
            return function(cls, folder or model_id, *args, **(_of_a_folder(kwargs) if folder else kwargs))
        try:
            result = function(cls, model_id, *args, **kwargs)
            if name != "AutoConfig" or not _lacks_config(model_id, kwargs):
                return result
        except _FAILURES:
            folder = _folder_of_repo(model_id, kwargs, is_config=is_config)
            if folder is None:
                raise
        else:
            folder = _folder_of_repo(model_id, kwargs, is_config=is_config)
            if folder is None:
                return result
        return function(cls, folder, *args, **_of_a_folder(kwargs))

    return classmethod(_marked(from_pretrained, original))


def _of_a_folder(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for a folder that has been resolved."""
    return {key: value for key, value in kwargs.items() if key not in ("revision", "force_download", "subfolder")}


def _lacks_config(model_id: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether a config was made up: for a repo without one, AutoConfig takes the model's type from its name."""
    from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(
            os.fspath(model_id), "config.json", cache_dir=kwargs.get("cache_dir"), revision=kwargs.get("revision")
        )
    except HFValidationError:
        return False
    return found is _CACHED_NO_EXIST


def _folder_of_repo(model_id: Any, kwargs: Mapping[str, Any], *, is_config: bool) -> Any:
    """Return the folder with the configs of a repo of stamped ONNX files, None where it is no such repo."""
    from optimum_htp.onnx_repos import find_onnx_repo
    from optimum_htp.resolve import resolve_configs, resolve_preprocessors

    repo = find_onnx_repo(model_id, kwargs)
    record = repo.record() if repo is not None else None
    if repo is None or record is None or record.model_type != "hub":
        return None
    if is_config:
        return resolve_configs(record, repo.access, with_code=bool(kwargs.get("trust_remote_code"))).folder
    return resolve_preprocessors(record, repo.access).folder


def _may_be_ours(text: str) -> bool:
    """Whether a name is worth a second look: an ONNX file, or a folder without a config."""
    return text.endswith(".onnx") or (os.path.isdir(text) and not os.path.isfile(os.path.join(text, "config.json")))  # noqa: PTH112, PTH113, PTH118


def _folder_of(name: str | os.PathLike[str], kwargs: Mapping[str, Any], *, is_config: bool) -> Any:
    from optimum_htp.configs import config_folder, preprocessor_folder
    from optimum_htp.errors import OnnxFileNotFoundError
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loader import stamped_file
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import read_metadata

    path = stamped_file(name, kwargs)
    if path is None:
        return None
    if not path.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.")
    metadata = ExportMetadata.from_properties(read_metadata(path))
    access = HubAccess(**{key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key) is not None})
    revision = kwargs.get("revision")
    if is_config:
        trusted = bool(kwargs.get("trust_remote_code"))
        source = config_folder(path, metadata, access, revision, trusted, needed=True)
        return source.folder if source is not None else None
    return preprocessor_folder(path, metadata, access, revision)
