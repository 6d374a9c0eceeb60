"""Optional dependencies, with a one-line message if one is missing.

Exporting and Optimum's own classes need optimum-onnx. Everything else works without it, also if it is installed but
cannot be imported with the other installed versions.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optimum_htp.errors import MissingDependencyError

__all__ = ["has_transformers_exporters", "needing_optimum_onnx"]

# Exceptions at a failed import of optimum-onnx, or of a lazy module of Optimum and transformers.
_FAILURES: Final = (ImportError, AttributeError, RuntimeError)


def has_transformers_exporters() -> bool:
    """Whether the installed transformers has its own exporters. It is not imported for this check."""
    spec = importlib.util.find_spec("transformers")
    places = spec.submodule_search_locations if spec is not None else None
    return any(Path(place, "exporters").is_dir() for place in places or ())


@contextmanager
def needing_optimum_onnx(what: str) -> Iterator[None]:
    """Import from optimum-onnx in the block. The message of a `MissingDependencyError` starts with `what` needs it."""
    try:
        yield
    except _FAILURES as error:
        from optimum_htp.libraries.import_failures import lack_of_optimum_onnx

        raise MissingDependencyError(lack_of_optimum_onnx(what, error)) from error
