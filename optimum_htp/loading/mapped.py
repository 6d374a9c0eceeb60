"""Creates ONNX Runtime sessions whose weights are memory-mapped from the model's own file.

A normal session copies the weights twice: into the parsed model and into initializers. A session of the model's bytes
without weights maps them instead. It takes half the time, and processes share the pages of the file's cache. Files
that cannot be mapped are opened normally.
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
from optimum_htp.profiling import DATA_FOLDER, can_map_weights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

__all__ = ["has_entry", "open_session", "reason_against"]

logger = get_logger(__name__)

_SWITCH: Final = "OPTIMUM_HTP_MMAP"
_OFF: Final = ("0", "false", "no", "off")
_PROVIDERS: Final = frozenset({"CPUExecutionProvider", "CUDAExecutionProvider"})
"""Execution providers that do not need the model's path. Others name compiled files after it."""

# IR version 8, a named empty graph, opset 13
_EMPTY_MODEL: Final = b"\x08\x08" + encode_bytes_field(7, encode_bytes_field(2, b"empty")) + b"\x42\x02\x10\x0d"


def open_session(
    path: str | os.PathLike[str],
    sess_options: SessionOptions | None = None,
    providers: Any = None,
    provider_options: Any = None,
    **options: Any,
) -> InferenceSession:
    """Return `onnxruntime.InferenceSession` of the same arguments, with mapped weights if possible.

    The session reports the given path. If the weights cannot be mapped, the reason is logged at debug level, and the
    session is created normally, with the exceptions of ONNX Runtime.

    Raises:
        InvalidOnnxFileError: ONNX Runtime cannot load the file, or the file has external data outside its folder.
        FileChangedError: The file or its data was replaced meanwhile.
    """
    from onnxruntime import InferenceSession
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, InvalidGraph, InvalidProtobuf

    try:
        reason = reason_against(path, sess_options, providers, options)
        model = read_without_weights(path) if reason is None else None
        if model is not None:
            session = _session(model, path, sess_options, providers, provider_options)
            if model.is_current():
                return session
            reason = "it was replaced meanwhile"
        elif reason is None:
            reason = "some of its weights are in other files, or none are large"
    except Exception as error:  # noqa: BLE001 - the normal session reports errors of the file or the call
        reason = f"{type(error).__name__}: {error}"
    logger.debug("%s is loaded without mapping: %s", path, reason)
    is_file = _is_onnx_file(path) and Path(path).is_file()
    if is_file:
        contained_files(path)  # earlier versions of ONNX Runtime read any location
    try:
        with unchanged(*(path,) if is_file else ()):  # the file and its data are not opened at the same time
            return InferenceSession(
                path, sess_options=sess_options, providers=providers, provider_options=provider_options, **options
            )
    except (
        Fail,
        InvalidArgument,
        InvalidGraph,
        InvalidProtobuf,
        UnicodeDecodeError,
    ) as error:  # UnicodeDecodeError: of its message
        raise InvalidOnnxFileError(
            f"ONNX Runtime cannot load {path}: {error}. If the file is damaged, download it or export it again."
        ) from error


def _is_onnx_file(path: Any) -> bool:
    return isinstance(path, (str, os.PathLike)) and str(os.fspath(path)).lower().endswith(".onnx")


def reason_against(path: Any, sess_options: Any, providers: Any, options: Any) -> str | None:
    """Return why the arguments of a session rule out mapped weights, or None."""
    if os.environ.get(_SWITCH, "1").lower() in _OFF:
        return f"{_SWITCH} is {os.environ[_SWITCH]}"
    if not _is_onnx_file(path) or options:
        return "it is not opened by the path of an ONNX file alone"
    if not can_map_weights():
        return "this version of ONNX Runtime cannot map weights"
    names = [provider[0] if isinstance(provider, tuple) else provider for provider in providers or ()]
    if not names or not all(isinstance(name, str) and name in _PROVIDERS for name in names):
        return f"execution providers {', '.join(map(str, names)) or '(unnamed)'} can require its path"
    if sess_options is not None and (reason := _reason_in(sess_options)) is not None:
        return f"its session options {reason}"
    return None


def _reason_in(sess_options: SessionOptions) -> str | None:
    """Return which feature of session options a copy of them does not support, or None."""
    from onnxruntime import SessionOptions

    if not isinstance(sess_options, SessionOptions):
        return "are not SessionOptions"
    if sess_options.optimized_model_filepath:
        return "write a model"
    if sess_options.enable_profiling:
        return "write a profile"
    if getattr(sess_options, "has_providers", bool)():
        return "contain execution providers"
    if has_entry(sess_options, DATA_FOLDER):
        return "have a folder for external data"
    return None


def has_entry(sess_options: SessionOptions, key: str) -> bool:
    """Whether session options have a config entry with this key."""
    try:
        sess_options.get_session_config_entry(key)
    except RuntimeError:  # not set
        return False
    return True


def _copy(sess_options: SessionOptions) -> SessionOptions:
    """Return a copy of session options.

    Only a session copies its options, so this creates one of an empty model and does not initialize it. Custom
    operators are not copied. A model that needs them fails with the copy, and is then opened normally.
    """
    from onnxruntime.capi import _pybind_state

    return _pybind_state.InferenceSession(sess_options, _EMPTY_MODEL, False, False).session_options


def _session(
    model: ModelWithoutWeights, path: Any, given: SessionOptions | None, providers: Any, provider_options: Any
) -> InferenceSession:
    from onnxruntime import InferenceSession
    from onnxruntime.capi import _pybind_state

    sess_options = _copy(_pybind_state.get_default_session_options() if given is None else given)
    sess_options.add_session_config_entry(DATA_FOLDER, str(model.file.parent))
    session = InferenceSession(
        model.content,
        sess_options=sess_options,
        providers=providers,
        provider_options=provider_options,
        enable_fallback=0,  # it would print an error that the normal session reports
    )
    # Make it the session of a file: set_providers creates it again from the path.
    session.enable_fallback()
    session._model_path = os.fspath(path)
    session._model_bytes = None
    session._sess_options_initial = given
    return session
