"""ONNX Runtime sessions whose weights are mapped from the model's own file, where they are otherwise copied twice.

A session of a file parses its weights into one copy and makes its initializers as a second. A session of the model's
lean bytes maps them: it is made in half the time, and the pages are those of the file's cache, shared by processes.
What cannot be mapped is opened as ever.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import InvalidOnnxFileError
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import ModelWithoutWeights, contained_files, read_without_weights
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.onnxfile.wire import encode_bytes_field
from optimum_htp.profiling.runtime import DATA_FOLDER, can_map_weights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

__all__ = ["has_entry", "open_session", "reason_against"]

logger = get_logger(__name__)

_SWITCH: Final = "OPTIMUM_HTP_MMAP"
_OFF: Final = ("0", "false", "no", "off")
_PROVIDERS: Final = frozenset({"CPUExecutionProvider", "CUDAExecutionProvider"})
"""Those that need no path of the model: others name what they compile after it."""

# IR version 8, a graph that has a name, opset 13
_EMPTY_MODEL: Final = b"\x08\x08" + encode_bytes_field(7, encode_bytes_field(2, b"empty")) + b"\x42\x02\x10\x0d"


def open_session(
    path: str | os.PathLike[str],
    sess_options: SessionOptions | None = None,
    providers: Any = None,
    provider_options: Any = None,
    **options: Any,
) -> InferenceSession:
    """Return `onnxruntime.InferenceSession` of the same arguments, with mapped weights where that can be.

    The session says the path that it was given. Whatever keeps it from being made of mapped weights is told to the
    log, once, at debug level; then it is made as ONNX Runtime does, and what that raises is raised.

    Raises:
        InvalidOnnxFileError: ONNX Runtime cannot load the file, or it keeps data outside its folder.
        FileChangedError: The file or its data was replaced meanwhile.
    """
    from onnxruntime import InferenceSession
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

    try:
        reason = reason_against(path, sess_options, providers, options)
        lean = read_without_weights(path) if reason is None else None
        if lean is not None:
            session = _session(lean, path, sess_options, providers, provider_options)
            if lean.is_current():
                return session
            reason = "it was replaced meanwhile"
        elif reason is None:
            reason = "some of its weights lie in other files, or none are large"
    except Exception as error:  # noqa: BLE001 - the usual way tells what is wrong with the file, or with the call
        reason = f"{type(error).__name__}: {error}"
    logger.debug("%s is loaded without mapping: %s", path, reason)
    is_file = _is_onnx_file(path) and Path(path).is_file()
    if is_file:
        contained_files(path)  # earlier versions of ONNX Runtime follow a location wherever it leads
    try:
        with unchanged(*(path,) if is_file else ()):  # the file and its data are opened one after the other
            return InferenceSession(
                path, sess_options=sess_options, providers=providers, provider_options=provider_options, **options
            )
    except (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        UnicodeDecodeError,
    ) as error:  # the last in its words
        raise InvalidOnnxFileError(
            f"ONNX Runtime does not load {path}: {error}. If the file is damaged, get it again or export it again."
        ) from error


def _is_onnx_file(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and str(os.fspath(path)).lower().endswith(".onnx")


def reason_against(path: Any, sess_options: Any, providers: Any, options: Any) -> str | None:
    """Return why a session cannot be made of mapped weights, as far as its arguments tell."""
    if os.environ.get(_SWITCH, "1").lower() in _OFF:
        return f"{_SWITCH} is {os.environ[_SWITCH]}"
    if not _is_onnx_file(path) or options:
        return "it is not opened by the name of an ONNX file alone"
    if not can_map_weights():
        return "this version of ONNX Runtime cannot"
    names = [provider[0] if isinstance(provider, tuple) else provider for provider in providers or ()]
    if not names or not all(isinstance(name, str) and name in _PROVIDERS for name in names):
        return f"execution providers {', '.join(map(str, names)) or 'that are not named'} may need its path"
    if sess_options is not None and (reason := _reason_in(sess_options)) is not None:
        return f"its session options {reason}"
    return None


def _reason_in(sess_options: SessionOptions) -> str | None:
    """Return what in session options a copy of them would not do, or not once."""
    from onnxruntime import SessionOptions

    if not isinstance(sess_options, SessionOptions):
        return "are none"
    if sess_options.optimized_model_filepath:
        return "write a model"
    if sess_options.enable_profiling:
        return "write a profile"
    if getattr(sess_options, "has_providers", bool)():
        return "bring execution providers"
    if has_entry(sess_options, DATA_FOLDER):
        return "have a folder for external data"
    return None


def has_entry(sess_options: SessionOptions, key: str) -> bool:
    """Tell whether session options have a config entry of this key."""
    try:
        sess_options.get_session_config_entry(key)
    except RuntimeError:  # it was never set
        return False
    return True


def _copy(sess_options: SessionOptions) -> SessionOptions:
    """Return session options with the same content, which are nobody else's.

    They can only be copied by a session, which has its own: one of an empty model, that is never initialized. What is
    not copied are registered custom operators: who needs some cannot be made of the copy, and is made the usual way.
    """
    from onnxruntime.capi import _pybind_state

    return _pybind_state.InferenceSession(sess_options, _EMPTY_MODEL, False, False).session_options


def _session(
    lean: ModelWithoutWeights, path: Any, given: SessionOptions | None, providers: Any, provider_options: Any
) -> InferenceSession:
    from onnxruntime import InferenceSession
    from onnxruntime.capi import _pybind_state

    sess_options = _copy(_pybind_state.get_default_session_options() if given is None else given)
    sess_options.add_session_config_entry(DATA_FOLDER, str(lean.file.parent))
    session = InferenceSession(
        lean.content,
        sess_options=sess_options,
        providers=providers,
        provider_options=provider_options,
        enable_fallback=0,  # it would print what the usual way can tell
    )
    # From here on it is the session of a file: set_providers makes it anew from the path.
    session.enable_fallback()
    session._model_path = os.fspath(path)
    session._model_bytes = None
    session._sess_options_initial = given
    return session
