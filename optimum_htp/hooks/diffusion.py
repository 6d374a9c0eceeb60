"""`from_pretrained` of Optimum's diffusion classes: it loads folders of ONNX files without configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.dispatch import FAILURES
from optimum_htp.hooks.patching import Call, wrap_attribute
from optimum_htp.hooks.sessions import opening_sessions
from optimum_htp.loading.recognize import names_a_file

__all__ = ["install"]

_RESOLVED: Final = ("token", "cache_dir", "local_files_only", "force_download", "revision")
_SESSION_OPTIONS: Final = ("provider", "providers", "provider_options", "session_options")


def install(module: ModuleType) -> None:
    """Hook into the module that defines the classes: of pipelines, and those that pick one of these for a task."""
    for owner in list(vars(module).values()):
        if isinstance(owner, type) and owner.__module__ == module.__name__ and "from_pretrained" in vars(owner):
            wrap_attribute(owner, "from_pretrained", _loading_files)


def _loading_files(call: Call) -> Any:
    from optimum_htp.loading.diffusion import fetched_pipeline, pipeline_record

    source = call.subject
    options = call.options() if isinstance(source, (str, os.PathLike)) and not call.get("export") else None
    if options is None:
        return call.pass_on()
    found = pipeline_record(source) if names_a_file(source) or os.path.isdir(source) else None  # noqa: PTH112
    if found is not None:
        return _load(call, *found, options)
    try:
        return call.pass_on()
    except FAILURES:
        found = fetched_pipeline(source, options)
        if found is None:
            raise
    options.pop("revision", None)  # was that of the repo
    return _load(call, *found, options)


def _load(call: Call, folder: Path, record: Any, options: Mapping[str, Any]) -> Any:
    """Load a pipeline; again where an export replaced its files meanwhile."""
    from optimum_htp.loading.diffusion import pipeline_record
    from optimum_htp.onnxfile.publication import Watch, read_whole

    def load(watch: Watch) -> Any:
        for name in record.onnx_files:
            watch.see(folder / name)
        _, current = pipeline_record(folder) or (folder, record)
        return _loaded(call, folder, current, options)

    return read_whole(folder, load)


def _loaded(call: Call, folder: Path, record: Any, options: Mapping[str, Any]) -> Any:
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loading.diffusion import presented
    from optimum_htp.onnxfile import external_files, read_signature
    from optimum_htp.origin.axes import refuse_code_in_axes

    access = HubAccess.from_options(options)
    trusted = bool(options.get("trust_remote_code"))
    made = presented(folder, record, access, options.get("revision"), trust_remote_code=trusted)
    sessions, inside = {}, []
    with ExitStack() as undo:
        undo.callback(made.cleanup)
        for name in record.onnx_files:
            outputs = read_signature(folder / name)[1]
            refuse_code_in_axes({spec.name: spec.shape for spec in outputs}, folder / name)
            part = PurePosixPath(name).parent.as_posix()
            session = f"{part}_session"
            if part in options or session in options:
                continue
            if external_files(folder / name):
                sessions[session] = _session(folder / name, Path(made.name, name), options)
            else:
                inside.append(Path(made.name, name))
        with opening_sessions(inside):
            pipeline = call.pass_on_with(made.name, _RESOLVED, export=False, **sessions)
        undo.pop_all()  # it lives as long as the pipeline
    pipeline.model_save_dir = made  # as Optimum keeps its own temporary folders alive
    pipeline.register_to_config(_name_or_path=os.fspath(folder))
    return pipeline


def _session(file: Path, link: Path, options: Mapping[str, Any]) -> Any:
    """Open a file whose weights lie beside it: ONNX Runtime refuses those that a link leads to.

    Optimum reads the part's config beside the path that the session says.
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
