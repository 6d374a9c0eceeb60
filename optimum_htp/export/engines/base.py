"""The interface of an engine: a library that exports PyTorch models to ONNX files."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from optimum_htp.errors import ExportError, OptimumHTPError, OptionError
from optimum_htp.export.subject import ExportSubject
from optimum_htp.forking import ForkSafeLock
from optimum_htp.hierarchy.capture import ExportedParts
from optimum_htp.hubs.base import HubAccess

__all__ = ["EXPORTING", "Engine", "Work", "check_precision", "refusals_as_export_errors", "torch_dtype"]

_PRECISIONS: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
EXPORTING: Final = ForkSafeLock(threading.RLock)
"""Held during an export: engines patch the model's modules, PyTorch and themselves."""


@dataclass(frozen=True)
class Work:
    """One export: of a subject, into an empty folder, with options as `Engine.options` returned them.

    `hierarchy` is whether the modules of the nodes are recorded.
    """

    subject: ExportSubject
    folder: Path
    task: str
    access: HubAccess
    options: Mapping[str, Any]
    hierarchy: bool


class Engine(Protocol):
    """Exports models.

    Attributes:
        name: What users call it.
    """

    name: str

    def missing(self) -> str | None:
        """Return what keeps the engine from running here, with the command that helps; None if nothing does."""

    def options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return a user's options under the engine's own names.

        Raises:
            OptionError: The engine has no such option.
        """

    def infer_task(self, subject: ExportSubject, options: Mapping[str, Any]) -> str:
        """Return the Optimum task that a model is exported for if the user names none.

        Raises:
            ExportError: The task is unknown.
        """

    def export(self, work: Work) -> tuple[type, ExportedParts]:
        """Export a model; return the exported class, and its parts.

        Raises:
            ExportError: The engine rejects the model or fails.
        """


def torch_dtype(name: str | None) -> Any:
    """Return the precision of PyTorch for Optimum's name of it; float32 for None."""
    import torch

    return getattr(torch, _PRECISIONS[name or "fp32"])


def check_precision(options: Mapping[str, Any]) -> None:
    """Reject a precision that no engine has. Optimum's exporter would ignore it."""
    if (name := options.get("dtype")) is not None and name not in _PRECISIONS:
        raise OptionError(f"dtype={name!r} is not known: use {', '.join(_PRECISIONS)}.")


@contextmanager
def refusals_as_export_errors(exporter: str, model: object, hint: str = "") -> Iterator[None]:
    """Convert the exceptions of an exporter that are not ours to `ExportError`; the message ends with `hint`."""
    try:
        yield
    except OptimumHTPError:
        raise
    except Exception as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = f"{exporter} cannot export {model}: {type(error).__name__}: {text}"
        raise ExportError(message.rstrip(".") + "." + hint if hint else message) from error
