"""Whether a call of a loader is ours to answer: at once, or because the library has found nothing in a repo."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from optimum_htp.hooks.patching import Call
from optimum_htp.loading.recognize import looked_at

if TYPE_CHECKING:
    from optimum_htp.loading.named import Named

__all__ = ["FAILURES", "Answer", "asked"]

FAILURES: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError)
"""What loaders raise for a repo without configs; a tokenizer without files fails as it happens to."""

# What is being passed on: the loaders inside of a loader that are sent to the same place do not look again.
_passed_on: Final[ContextVar[Any]] = ContextVar("optimum_htp_passed_on", default=None)


class Answer(NamedTuple):
    """The result of a call that the library itself has answered."""

    result: Any


def asked(
    call: Call,
    *,
    opens: bool = False,
    bare: bool = False,
    enough: Collection[str] = (),
    is_made_up: Callable[[Call, Any], bool] | None = None,
) -> Named | Answer:
    """Return the ONNX file that a call names, or the library's result if it names none.

    Args:
        call: Of a loader.
        opens, bare: As of `named`.
        enough: Files that are all that is wanted, where a folder that is named has them.
        is_made_up: Whether what the library has loaded from a repo is made up: it does not always fail.
    """
    subject, subfolder = call.subject, call.get("subfolder")
    if not isinstance(subject, (str, os.PathLike)) or (subject, subfolder) == _passed_on.get():
        return Answer(call.pass_on())
    seen = looked_at(subject, subfolder, enough)
    if seen is not None:
        found = _named(call, failed=False, opens=opens, bare=bare) if seen else None
        return Answer(call.pass_on()) if found is None else found
    token = _passed_on.set((subject, subfolder))
    try:
        result = call.pass_on()
    except FAILURES:
        found = _named(call, failed=True, opens=opens, bare=bare)
        if found is None:
            raise
        return found
    finally:
        _passed_on.reset(token)
    if is_made_up is None or not is_made_up(call, result):
        return Answer(result)
    return _named(call, failed=True, opens=opens, bare=bare) or Answer(result)


def _named(call: Call, **how: bool) -> Named | None:
    if (options := call.options()) is None:
        return None
    from optimum_htp.loading.named import named

    return named(call.subject, options, **how)
