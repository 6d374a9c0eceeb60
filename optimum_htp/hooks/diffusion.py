"""Optimum's `ORTDiffusionPipeline.from_pretrained`: it loads folders of ONNX files without configs."""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.loading import FAILURES
from optimum_htp.hooks.patching import wrap_attribute

__all__ = ["install"]

_RESOLVED: Final = ("token", "cache_dir", "local_files_only", "force_download", "revision")
_SESSION_OPTIONS: Final = ("provider", "providers", "provider_options", "session_options")


def install(module: ModuleType) -> None:
    """Hook into the module that defines the class."""
    wrap_attribute(module.ORTDiffusionPipeline, "from_pretrained", _loading_files)


def _loading_files(function: Any) -> Any:
    @functools.wraps(function)
    def from_pretrained(cls: Any, model_name_or_path: Any, export: bool | None = None, **kwargs: Any) -> Any:
        from optimum_htp.diffusion import fetched_pipeline, pipeline_record

        if not isinstance(model_name_or_path, (str, os.PathLike)) or export:
            return function(cls, model_name_or_path, export, **kwargs)
        found = pipeline_record(model_name_or_path)
        if found is None:
            try:
                return function(cls, model_name_or_path, export, **kwargs)
            except FAILURES:
                found = fetched_pipeline(model_name_or_path, kwargs)
                if found is None:
                    raise
                kwargs.pop("revision", None)  # was that of the repo
        return _load(function, cls, *found, kwargs)

    return from_pretrained


def _load(function: Any, cls: Any, folder: Path, record: Any, options: dict[str, Any]) -> Any:
    from optimum_htp.diffusion import presented
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.onnxfile import external_files

    access = HubAccess.from_options(options)
    made = presented(folder, record, access, options.get("revision"))
    options = {name: value for name, value in options.items() if name not in _RESOLVED}
    with ExitStack() as undo:
        undo.callback(made.cleanup)
        for name in record.onnx_files:
            part = PurePosixPath(name).parent.as_posix()
            if external_files(folder / name) and f"{part}_session" not in options and part not in options:
                options[f"{part}_session"] = _session(folder / name, Path(made.name, name), options)
        pipeline = function(cls, made.name, False, **options)
        undo.pop_all()  # it lives as long as the pipeline
    pipeline.model_save_dir = made  # as Optimum keeps its own temporary folders alive
    pipeline.register_to_config(_name_or_path=os.fspath(folder))
    return pipeline


def _session(file: Path, link: Path, options: dict[str, Any]) -> Any:
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
