"""Hooks sentence_transformers to load an ONNX file with a record. Missing files come from the model's commit."""

from __future__ import annotations

import os
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.dispatch import FAILURES
from optimum_htp.hooks.patching import Call, classes_of, wrap_attribute, wrap_function
from optimum_htp.libraries.names import CONFIG
from optimum_htp.loading.recognize import (
    chosen_file,
    files_of_names,
    local_path,
    names_a_file,
    pinned_file,
    pinned_path,
    setting,
)

__all__ = ["install"]

_MODELS: Final = ("BaseModel", "CrossEncoder", "SentenceTransformer")
# The options of the current load. The search for files gets only some of them.
_load: Final[ContextVar[dict[str, Any]]] = ContextVar("optimum_htp_sentence_load")


def install(module: ModuleType) -> None:
    """Hook into the module that defines the search for files, or the classes of models."""
    if module.__name__.endswith(".file_io"):
        wrap_function(module, "load_file_path", _hook_load_file_path)
    elif module.__name__.endswith(".utils"):
        wrap_function(module, "backend_should_export", _hook_should_export)
    for cls in classes_of(module):
        if cls.__name__ in _MODELS:
            wrap_attribute(cls, "__init__", _hook_init)


def _hook_init(call: Call) -> Any:
    options, source = call.options(), call.subject
    if options is None or options.get("backend") != "onnx" or not isinstance(source, (str, os.PathLike)):
        return call.pass_on()
    given = dict(options.get("model_kwargs") or {})
    if (fetched := _fetched(source, options, given)) is not None:
        source, options = fetched, {**options, "revision": None}
        given.pop("subfolder", None)
    source = local_path(source)
    if names_a_file(source) and (file := Path(source)).is_file():
        source, given["file_name"] = os.fspath(file.parent), file.name
    naming = {name: given[name] for name in ("subfolder", "file_name") if isinstance(given.get(name), str)}
    chosen = (source, naming) if naming else chosen_file.get()
    with setting(_load, options), setting(chosen_file, chosen), setting(files_of_names, []):
        result = call.pass_on_with(source, model_kwargs=given, revision=options.get("revision"))
        for name, file in files_of_names.get() or ():
            if name == source:
                from optimum_htp.loading.other_commits import needs_reload

                if needs_reload(file, _named_options(options, given)):
                    with setting(pinned_file, (call.subject, file)):  # the configs of the file's commit
                        return call.pass_on_with(call.subject, model_kwargs=given)
        return result


def _fetched(source: str | os.PathLike[str], options: dict[str, Any], given: dict[str, Any]) -> Path | None:
    """Download and return the file that a reference names (`hf://org/name/model.onnx`), or None for another name."""
    if not isinstance(source, str) or "://" not in source or source.startswith("file://"):
        return None
    from optimum_htp.loading.named import named

    found = named(source, _named_options(options, given), failed=True, opens=True)
    return found.fetched() if found is not None else None


def _named_options(load: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a load under transformers' names."""
    options = {name: load[name] for name in ("token", "revision", "local_files_only") if load.get(name) is not None}
    return options | {"cache_dir": load.get("cache_folder"), **given}


def _hook_load_file_path(call: Call) -> str | None:
    found: str | None = call.pass_on() if pinned_path(call.subject) is None else None
    source, options = call.subject, call.options() if found is None else None
    if options is None or not isinstance(source, (str, os.PathLike)):
        return found
    load = _load.get({})
    if not load and (not Path(source).is_dir() or Path(source, CONFIG).is_file()):
        return None  # the files of a PyTorch model
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loading.sentence_transformers import sentence_file

    access = HubAccess(
        token=options.get("token"),
        cache_dir=options.get("cache_folder"),
        local_files_only=bool(options.get("local_files_only")),
    )
    name = PurePosixPath(options.get("subfolder") or "", options["filename"]).as_posix()
    trusted = load.get("trust_remote_code") is True
    path = sentence_file(source, name, access, options.get("revision"), with_code=trusted)
    return os.fspath(path) if path is not None else None


def _hook_should_export(call: Call) -> Any:
    """Hook of `backend_should_export`: a model that has an ONNX file with a record is not exported."""
    try:
        export, left = call.pass_on()
    except FAILURES:  # it requests the list of the repo's files from the Hub, even if the files are cached
        options = (call.options() or {}).get("model_kwargs")
        if not isinstance(options, dict):
            raise
        given = {name: value for name, value in options.items() if name != "export"}
        if not _is_stamped(call, given):
            raise
        return False, given
    return export and not _is_stamped(call, left), left


def _is_stamped(call: Call, given: dict[str, Any]) -> bool:
    """Whether the current load is of an ONNX file with a record."""
    load = _load.get({})
    if not load or (load.get("model_kwargs") or {}).get("export"):
        return False
    from optimum_htp.loading.named import named

    name = Path(call.subject).as_posix()
    options = _named_options(load, given)
    return named(name, options, failed=not call.get("is_local"), opens=True) is not None
