"""transformers' Auto classes and `GenerationConfig`: they load what belongs to an ONNX file from where it says."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks.loading import FAILURES
from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.loading.recognize import may_be_ours, names_a_file, names_a_remote_file
from optimum_htp.origin.names import CONFIG, GENERATION_CONFIG, SAVED_AS

if TYPE_CHECKING:
    from optimum_htp.origin.embedded import EmbeddedFiles

__all__ = ["install"]

# The loaders of what belongs to a model, by the module that defines each.
_AUTO_CLASSES: Final = {
    "transformers.models.auto.configuration_auto": "AutoConfig",
    "transformers.models.auto.feature_extraction_auto": "AutoFeatureExtractor",
    "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
    "transformers.models.auto.processing_auto": "AutoProcessor",
    "transformers.models.auto.tokenization_auto": "AutoTokenizer",
    "transformers.generation.configuration_utils": "GenerationConfig",
}
# What these make up for a repo without files, and from which files they read it otherwise: AutoConfig takes the
# model's type from the repo's name, and AutoTokenizer of transformers 5 then makes a tokenizer without words.
_MADE_UP: Final = {"AutoConfig": (CONFIG,), "AutoTokenizer": (CONFIG, *SAVED_AS["AutoTokenizer"])}
_CONFIG_CLASSES: Final = ("AutoConfig", "GenerationConfig")
# The options that have played their part where a folder has been found.
_RESOLVED: Final = ("revision", "force_download", "subfolder")


def install(module: ModuleType) -> None:
    """Hook into a module that defines one of the classes."""
    name = _AUTO_CLASSES[module.__name__]
    wrap_attribute(getattr(module, name), "from_pretrained", functools.partial(_loading_beside, name))


def _loading_beside(name: str, call: Call) -> Any:
    """Answer a loader of configs or preprocessors: for an ONNX file it gets the folder that they are in."""
    is_config = name in _CONFIG_CLASSES
    model_id = call.subject
    if not isinstance(model_id, (str, os.PathLike)):
        return call.pass_on()
    if may_be_ours(model_id, call.get("subfolder")):
        options = call.options()
        if options is None or _lies_in_folder(name, model_id, options):
            return call.pass_on()
        source = _source_of(model_id, options, is_config=is_config)
        if source is None:
            return call.pass_on()
        if isinstance(source, Path):
            return _of_folder(name, source, call)
        return _from_memory(name, source, call, options or {})
    if names_a_remote_file(model_id) and (options := call.options()) is not None:
        folder = _folder_of_repo(model_id, options, is_config=is_config)
        return call.pass_on() if folder is None else _of_folder(name, folder, call)
    try:
        result = call.pass_on()
        if name not in _MADE_UP or not _lacks_files(model_id, _MADE_UP[name], call):
            return result
    except FAILURES:
        options = call.options()
        folder = _folder_of_repo(model_id, options, is_config=is_config) if options is not None else None
        if folder is None:
            raise
    else:
        folder = _folder_of_repo(model_id, call.options() or {}, is_config=is_config)
        if folder is None:
            return result
    return _of_folder(name, folder, call)


def _lies_in_folder(name: str, model_id: str | os.PathLike[str], options: Mapping[str, Any]) -> bool:
    """Whether a folder was named in which somebody has saved what is to be loaded: that is what counts then."""
    if names_a_file(model_id):
        return False
    folder = Path(model_id, options.get("subfolder") or "")
    return any((folder / file).is_file() for file in SAVED_AS.get(name, ()))


def _of_folder(name: str, folder: Path, call: Call) -> Any:
    """Load from the folder that belongs to an ONNX file, which knows what it is of: transformers names the folder."""
    from optimum_htp.errors import ConfigLoadError, HFHubIntegrationError, PreprocessorLoadError

    try:
        return call.pass_on_with(folder, _RESOLVED)
    except (HFHubIntegrationError, ImportError):  # the latter says what to install
        raise
    except Exception as error:  # a class is given what the files say, and raises anything
        kind = ConfigLoadError if name in _CONFIG_CLASSES else PreprocessorLoadError
        raise kind(
            f"{name} of {call.subject} cannot be loaded from {folder} (where a file in the cache is damaged, "
            f"force_download=True fetches it anew): {type(error).__name__}: {error}"
        ) from error


def _lacks_files(model_id: Any, names: Sequence[str], call: Call) -> bool:
    """Whether what was loaded is made up, because the repo has none of the files that it is read from."""
    if os.path.exists(model_id):  # noqa: PTH110 - for every config that is loaded; pathlib takes three times as long
        return False
    from optimum_htp.hubs.huggingface.cache import is_known_missing

    repo, cache_dir, revision = os.fspath(model_id), call.get("cache_dir"), call.get("revision")
    return all(is_known_missing(repo, name, cache_dir, revision) for name in names)


def _folder_of_repo(model_id: Any, options: Mapping[str, Any], *, is_config: bool) -> Any:
    """Return the folder with the configs of a repo of stamped ONNX files, None where it is no such repo."""
    from optimum_htp.loading.onnx_repos import find_onnx_repo
    from optimum_htp.origin.config_folder import folder_of_record

    repo = find_onnx_repo(model_id, options)
    if repo is None:
        return _folder_of_reference(model_id, options) if isinstance(model_id, str) else None
    record = repo.record()
    embedded = repo.embedded(record)
    trusted, slow = bool(options.get("trust_remote_code")), options.get("use_fast") is False
    return folder_of_record(record, embedded, repo.access, is_config=is_config, with_code=trusted, slow=slow)


def _folder_of_reference(model_id: str, options: Mapping[str, Any]) -> Any:
    """Return the folder with the configs of a model whose Hub is named (`ms://org/name`), None where none is."""
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.origin.checkpoint import fetch_configs
    from optimum_htp.origin.references import names_a_hub

    if not names_a_hub(model_id):
        return None
    trusted = bool(options.get("trust_remote_code"))
    return fetch_configs(model_id, options.get("revision"), HubAccess.from_options(options), with_code=trusted)


def _from_memory(name: str, source: EmbeddedFiles, call: Call, options: Mapping[str, Any]) -> Any:
    """Make a config of what is embedded in an ONNX file, or leave that to transformers where only it can tell how."""
    from optimum_htp.origin.config_content import config_of_content, generation_config_of_content, needs_folder
    from optimum_htp.origin.configs import embedded_object

    options = {key: value for key, value in options.items() if key not in _RESOLVED}
    if name == "AutoConfig" and not needs_folder(content := embedded_object(source, CONFIG), options):
        return config_of_content(content, source.path, **options)
    if name == "GenerationConfig" and GENERATION_CONFIG in source.names and not options.get("config_file_name"):
        return generation_config_of_content(embedded_object(source, GENERATION_CONFIG), **options)
    return _of_folder(name, source.folder(), call)


def _source_of(name: str | os.PathLike[str], options: Mapping[str, Any], *, is_config: bool) -> Any:
    """Return the folder that a loader is to be given, or where its config is embedded; None for files of others."""
    from optimum_htp.errors import OnnxFileNotFoundError
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loading.stamped_files import stamped_file
    from optimum_htp.metadata import read_record
    from optimum_htp.origin.config_folder import config_source, preprocessor_folder
    from optimum_htp.origin.embedded import EmbeddedFiles

    path = stamped_file(name, options)
    if path is None:
        return None
    if not path.is_file():
        raise OnnxFileNotFoundError(f"There is no ONNX file at {path}. Check the path.")
    metadata = read_record(path)
    access = HubAccess.from_options(options)
    revision, trusted = options.get("revision"), bool(options.get("trust_remote_code"))
    if is_config:
        source = config_source(path, metadata, access, revision, trusted, needed=True)
        return source if source is None or isinstance(source, EmbeddedFiles) else source.folder
    slow = options.get("use_fast") is False
    return preprocessor_folder(path, metadata, access, revision, with_code=trusted, slow=slow)
