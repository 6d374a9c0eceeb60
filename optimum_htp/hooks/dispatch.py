"""Finds the ONNX file that a call of a loader names, before the library runs or after it has found nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from optimum_htp.hooks.patching import Call
from optimum_htp.loading.recognize import find_onnx, pinned_path, setting

if TYPE_CHECKING:
    from optimum_htp.loading.named import Local, Named

__all__ = ["FAILURES", "Answer", "file_or_result"]

FAILURES: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
"""The exceptions of loaders for a repo without configs or without files of a tokenizer."""

# The subject and subfolder of the call that the library runs now. Inner loaders of the same subject do not search
# again.
_current: Final[ContextVar[Any]] = ContextVar("optimum_htp_passed_on", default=None)


class Answer(NamedTuple):
    """The result of a call that the library has handled."""

    result: Any


def file_or_result(
    call: Call,
    *,
    opens: bool = False,
    bare: bool = False,
    enough: Collection[str] = (),
    is_made_up: Callable[[Call, Any], bool] | None = None,
    local: Local | None = None,
) -> Named | Answer:
    """Return the ONNX file that a call of a loader names, or the library's result if it names no ONNX file.

    Args:
        call: The call.
        opens, bare, local: As in `named`.
        enough: File names. A folder that contains them is left to the library.
        is_made_up: Whether the library's result does not come from files of the repo. The library does not always
            fail.
    """
    subject, subfolder = call.subject, call.get("subfolder")
    if not isinstance(subject, (str, os.PathLike)) or (subject, subfolder) == _current.get():
        return Answer(call.pass_on())
    how = {"opens": opens, "bare": bare, "local": local}
    seen = pinned_path(subject) is not None or find_onnx(subject, subfolder, enough)
    if seen is not None:
        found = _named(call, failed=False, **how) if seen else None
        return Answer(call.pass_on()) if found is None else found
    with setting(_current, (subject, subfolder)):
        try:
            result = call.pass_on()
        except FAILURES as error:
            found = _named(call, failed=True, **how)
            if found is None and opens:
                found = _in_cache(call, error)
            if found is None:
                raise
            return found
    if is_made_up is None or not is_made_up(call, result):
        return Answer(result)
    return _named(call, failed=True, **how) or Answer(result)


def _named(call: Call, **how: Any) -> Named | None:
    if (options := call.options()) is None:
        return None
    from optimum_htp.loading.named import named

    return named(call.subject, options, **how)


def _in_cache(call: Call, error: Exception) -> Named | None:
    """Return the cached ONNX file of a repo that has a config, or None.

    The library fails on such a repo without a connection, or because the config is of another commit than the file.
    """
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.hubs.error_translation import is_away
    from optimum_htp.loading.named import named

    options = call.options()
    if options is None or options.get("force_download"):
        return None
    offline = {**options, "local_files_only": True}
    if is_away(error):
        return named(call.subject, offline, failed=True, opens=True)
    if options.get("config") is not None:
        return None
    with suppress(OptimumHTPError):
        found = named(call.subject, offline, failed=True, opens=True)
        return found.of_its_commit(options) if found is not None else None
    return None
