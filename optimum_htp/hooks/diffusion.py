"""Hooks `from_pretrained` of Optimum's diffusion classes to load folders of ONNX files without configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.hooks.dispatch import FAILURES
from optimum_htp.hooks.loading import opening_sessions
from optimum_htp.hooks.patching import Call, classes_of, wrap_attribute
from optimum_htp.loading.recognize import names_a_file

if TYPE_CHECKING:
    from optimum_htp.resolve.model_files import ModelFiles

__all__ = ["install"]

_RESOLVED: Final = ("token", "cache_dir", "local_files_only", "force_download", "revision")
_OF_TEXTS: Final = "text-to-image"
_SESSION_OPTIONS: Final = ("provider", "providers", "provider_options", "session_options")


def install(module: ModuleType) -> None:
    """Hook into the module that defines the pipeline classes and the Auto classes for tasks."""
    for owner in classes_of(module):
        if "from_pretrained" in vars(owner):
            wrap_attribute(owner, "from_pretrained", _hook_from_pretrained)


def _hook_from_pretrained(call: Call) -> Any:
    from optimum_htp.loading.diffusion import fetched_pipeline, pipeline_of_its_commit, pipeline_record

    source = call.subject
    options = call.options() if isinstance(source, (str, os.PathLike)) and not call.get("export") else None
    if options is None:
        return call.pass_on()
    found = pipeline_record(source, options) if names_a_file(source) or os.path.isdir(source) else None  # noqa: PTH112
    if found is not None:
        return _load(call, *found, options)
    try:
        pipeline = call.pass_on()
        found = pipeline_of_its_commit(pipeline, options)
        if found is None:
            return pipeline
    except FAILURES:
        found = fetched_pipeline(source, options)
        if found is None:
            raise
    options.pop("revision", None)  # the revision applied to the repo
    return _load(call, *found, options)


def _load(call: Call, folder: Path, record: Any, options: Mapping[str, Any]) -> Any:
    """Load a pipeline. Repeats the load if an export replaces the files meanwhile."""
    from optimum_htp.loading.diffusion import pipeline_record
    from optimum_htp.onnxfile.replace_files import Watch, read_whole
    from optimum_htp.resolve.model_files import parts_of

    def load(watch: Watch) -> Any:
        _, current = pipeline_record(folder, options) or (folder, record)
        return _loaded(call, parts_of(folder / str(current.onnx_file), current, watch), current, options)

    return read_whole(folder, load)


def _loaded(call: Call, parts: ModelFiles, record: Any, options: Mapping[str, Any]) -> Any:
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.libraries.code_references import refuse_code_in_axes
    from optimum_htp.loading.diffusion import link_pipeline_folder
    from optimum_htp.onnxfile import external_files, read_signature

    access = HubAccess.from_options(options)
    trusted = bool(options.get("trust_remote_code"))
    made = link_pipeline_folder(parts, record, access, options.get("revision"), trust_remote_code=trusted)
    sessions, inside = {}, []
    with ExitStack() as undo:
        undo.callback(made.cleanup)
        for name, file in parts.by_name.items():
            refuse_code_in_axes({spec.name: spec.shape for spec in read_signature(file)[1]}, file)
            part = PurePosixPath(name).parent.as_posix()
            session = f"{part}_session"
            if part in options or session in options:
                continue
            if external_files(file):
                sessions[session] = _session(file, Path(made.name, name), options)
            else:
                inside.append(Path(made.name, name))
        with opening_sessions(inside):
            pipeline = call.pass_on_with(made.name, _RESOLVED, export=False, **sessions)
        if parts.missing is not None and pipeline.task != _OF_TEXTS and pipeline.vae_encoder is None:
            raise parts.missing
        undo.pop_all()  # keep the folder as long as the pipeline
    pipeline.model_save_dir = made  # like Optimum's own temporary folders
    pipeline.register_to_config(_name_or_path=os.fspath(parts.folder))
    return pipeline


def _session(file: Path, link: Path, options: Mapping[str, Any]) -> Any:
    """Return a session of a file with external data. ONNX Runtime rejects external data behind a symlink.

    Optimum reads the part's config next to the session's path, so that is the link's path.
    """
    from onnxruntime import InferenceSession
    from optimum.onnxruntime.utils import prepare_providers_and_provider_options

    given = {name: options[name] for name in _SESSION_OPTIONS if options.get(name) is not None}
    session_options = given.pop("session_options", None)
    providers, provider_options = prepare_providers_and_provider_options(**given)
    session = InferenceSession(
        os.fspath(file), providers=providers, provider_options=provider_options, sess_options=session_options
    )
    session._model_path = os.fspath(link)
    return session
