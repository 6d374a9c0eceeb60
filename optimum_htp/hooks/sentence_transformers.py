"""sentence_transformers' search for a model's files: those that a folder of ONNX files lacks are its commit's."""

from __future__ import annotations

import os
import sys
from pathlib import Path, PurePosixPath
from types import ModuleType

from optimum_htp.hooks.patching import Call, wrap_function
from optimum_htp.origin.names import CONFIG

__all__ = ["install"]


def install(module: ModuleType) -> None:
    """Hook into the module that defines the function, and those that have bound it."""
    wrap_function(module, "load_file_path", _finding_files)


def _finding_files(call: Call) -> str | None:
    found: str | None = call.pass_on()
    if found is not None:
        return found
    folder, options = Path(call.subject), call.options()
    if options is None or not folder.is_dir() or (folder / CONFIG).is_file():
        return None
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.loading.sentence_transformers import sentence_file

    access = HubAccess(
        token=options.get("token"),
        cache_dir=options.get("cache_folder"),
        local_files_only=bool(options.get("local_files_only")),
    )
    name = PurePosixPath(options.get("subfolder") or "", options["filename"]).as_posix()
    path = sentence_file(folder, name, access, _code_is_trusted)
    return os.fspath(path) if path is not None else None


def _code_is_trusted() -> bool:
    """Whether the load that wants a file was given `trust_remote_code=True`: the search for files is not told."""
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__"))
        if module.startswith("sentence_transformers.") and "trust_remote_code" in frame.f_locals:
            return frame.f_locals["trust_remote_code"] is True
        frame = frame.f_back  # type: ignore[assignment]
    return False
