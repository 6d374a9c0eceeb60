"""Hooks `from_pretrained` of transformers' configs and preprocessors (Auto classes and others) to accept an ONNX file.

The class then loads from the folder with the files of the ONNX file's model, or from the embedded files.
"""

from __future__ import annotations

import functools
import os
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks.dispatch import FAILURES, Answer, file_or_result
from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.libraries.names import CONFIG, CONFIG_CLASSES, GENERATION_CONFIG
from optimum_htp.libraries.preprocessors import EXTRACTORS, LOADERS, SAVED_AS
from optimum_htp.loading.recognize import setting

if TYPE_CHECKING:
    from pathlib import Path

    from optimum_htp.loading.named import Named
    from optimum_htp.resolve.embedded import EmbeddedFiles

__all__ = ["install"]

_FAST: Final = ("tokenizer.json",)
# The files that each class needs. The library loads a folder with these files itself.
_SAVED: Final = {
    "AutoConfig": (CONFIG,),
    **{name: SAVED_AS[name] for name in EXTRACTORS},
    "AutoTokenizer": (*SAVED_AS["AutoTokenizer"], *_FAST),
    "GenerationConfig": SAVED_AS["GenerationConfig"],
}
_is_inside: Final[ContextVar[bool]] = ContextVar("optimum_htp_inside", default=False)
"""Whether the call is inside another of these loaders. An inner loader ignores missing files."""
# The options that have no further effect once the folder is known.
_RESOLVED: Final = ("revision", "force_download", "subfolder")


def install(module: ModuleType) -> None:
    """Hook into a module that defines some of the classes."""
    for name, what in LOADERS[module.__name__].items():
        cls = vars(module).get(name)
        if cls is not None and cls.__name__ == name:  # skip aliases of a class
            owner = next(base for base in cls.__mro__ if "from_pretrained" in vars(base))
            wrap_attribute(owner, "from_pretrained", functools.partial(_hook_from_pretrained, what, name == what))


def _hook_from_pretrained(what: str, is_auto: bool, call: Call) -> Any:
    """Hook of `from_pretrained`: loads an ONNX file's config or preprocessor from its folder or the embedded files."""
    inside = _is_inside.get()
    enough = _SAVED.get(what, ())
    with setting(_is_inside, True):
        try:
            found = file_or_result(call, bare=what in CONFIG_CLASSES, enough=enough, is_made_up=_is_made_up)
        except FAILURES as error:
            folder = _folder_of_reference(call, error)
            if folder is None:
                raise
            return _of_folder(what, folder, call)
    if isinstance(found, Answer):
        return found.result
    from optimum_htp.loading.direct import check_class, wants_slow
    from optimum_htp.resolve.config_folder import find
    from optimum_htp.resolve.configs import folder_of
    from optimum_htp.resolve.embedded import EmbeddedFiles

    carrier, options = found.carrier(), found.options
    trusted = bool(options.get("trust_remote_code"))
    slow = options.get("use_fast") is False or (not is_auto and wants_slow(call.args[0], what))
    revision = options.get("revision")
    source = find(carrier, what, found.access, revision, with_code=trusted, slow=slow, needed=not inside)
    if source is None:
        return call.pass_on()
    if is_auto and isinstance(source, EmbeddedFiles) and what in CONFIG_CLASSES:
        return _from_memory(what, source, found, call)
    if not is_auto and not inside:
        check_class(call.args[0], what, carrier, folder_of(source))
    return _of_folder(what, folder_of(source), call)


def _of_folder(what: str, folder: Path, call: Call) -> Any:
    """Load from the folder of an ONNX file's model. Errors name the file too, not only the folder."""
    from optimum_htp.errors import ConfigLoadError, OptimumHTPError, PreprocessorLoadError

    try:
        with setting(_is_inside, True):
            return call.pass_on_with(folder, _RESOLVED)
    except (OptimumHTPError, ImportError):  # an ImportError names the package to install
        raise
    except Exception as error:  # a class can raise anything for damaged files
        kind = ConfigLoadError if what in CONFIG_CLASSES else PreprocessorLoadError
        name = getattr(call.args[0] if call.args else None, "__name__", what)
        other = f" Use {what}, which selects the right class." if name != what else ""
        raise kind(
            f"{name} of {call.subject} cannot be loaded from {folder}. If a cached file is damaged, download it again "
            f"with force_download=True.{other} {type(error).__name__}: {error}"
        ) from error


def _folder_of_reference(call: Call, error: Exception) -> Path | None:
    """Return the folder with the configs of a model that is named with its Hub (`ms://org/name`), or None."""
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.origin.checkpoint import fetch_configs
    from optimum_htp.origin.references import names_a_hub

    model_id, options = call.subject, call.options()
    if isinstance(error, OptimumHTPError) or options is None:
        return None
    if not isinstance(model_id, str) or not names_a_hub(model_id):
        return None
    trusted = bool(options.get("trust_remote_code"))
    return fetch_configs(model_id, options.get("revision"), HubAccess.from_options(options), with_code=trusted)


def _is_made_up(call: Call, loaded: Any) -> bool:
    """Whether a loaded object does not come from files, because the repo has none of its files.

    Then a config class returns its defaults, `AutoConfig` derives the model type from the repo's name, and a tokenizer
    of transformers 5 has an empty vocabulary.
    """
    loaded = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple contains the unused arguments too
    names = getattr(type(loaded), "vocab_files_names", None)
    if names is not None:
        names = [*SAVED_AS["AutoTokenizer"], *_FAST, *names.values()]
    elif hasattr(type(loaded), "get_config_dict"):
        names = [CONFIG]
    else:
        return False
    from optimum_htp.hubs.huggingface.cache import is_known_missing

    subfolder, where = call.get("subfolder"), (call.get("cache_dir"), call.get("revision"))
    places = [f"{subfolder}/{name}" if subfolder else name for name in names]
    return all(is_known_missing(os.fspath(call.subject), name, *where) for name in places)


def _from_memory(what: str, source: EmbeddedFiles, found: Named, call: Call) -> Any:
    """Make a config from embedded files. If only transformers can read it, unpack them to a folder and load that."""
    from optimum_htp.libraries.config_content import config_of_content, generation_config_of_content, needs_folder
    from optimum_htp.resolve.configs import embedded_object

    options = {key: value for key, value in found.options.items() if key not in _RESOLVED}
    if what == "AutoConfig" and not needs_folder(content := embedded_object(source, CONFIG), options):
        return config_of_content(content, source.path, **options)
    if what == "GenerationConfig" and GENERATION_CONFIG in source.names and not options.get("config_file_name"):
        return generation_config_of_content(embedded_object(source, GENERATION_CONFIG), **options)
    return _of_folder(what, source.folder(), call)
