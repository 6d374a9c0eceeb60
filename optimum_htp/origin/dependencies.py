"""What this package can do without, said in one line where it is missing.

Exporting and Optimum's own classes need optimum-onnx. Everything else has to run where it is not installed, or where
the versions beside it are none that it can be imported with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Final

from optimum_htp.errors import MissingDependencyError

__all__ = ["needing_optimum_onnx"]

_NAME: Final = "optimum-onnx"
# What its modules, and the lazy ones of Optimum and transformers, raise where they cannot be imported.
_FAILURES: Final = (ImportError, AttributeError, RuntimeError)


@contextmanager
def needing_optimum_onnx(what: str) -> Iterator[None]:
    """Import from optimum-onnx in the block.

    Args:
        what: What it is needed for; the message begins with it.

    Raises:
        MissingDependencyError: It is not installed, or cannot be imported.
    """
    try:
        yield
    except _FAILURES as error:
        raise MissingDependencyError(
            f'{what} needs {_NAME}, which {_state(error)}. Run `pip install "{_NAME}[onnxruntime]"`.'
        ) from error


def _state(error: Exception) -> str:
    try:
        installed = metadata.version(_NAME)
    except metadata.PackageNotFoundError:
        return "is not installed"
    others = []
    for name in ("optimum", "transformers"):
        try:
            others.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            others.append(f"no {name}")
    reason = " ".join(str(error).split())
    return f"is installed ({installed}), but cannot be imported beside {' and '.join(others)} ({reason})"
