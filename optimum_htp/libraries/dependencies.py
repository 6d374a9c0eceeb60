"""What this package can do without, said in one line where it is missing.

Exporting and Optimum's own classes need optimum-onnx. Everything else has to run where it is not installed, or where
the versions beside it are none that it can be imported with.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from optimum_htp.errors import MissingDependencyError

__all__ = ["has_transformers_exporters", "needing_optimum_onnx"]

# What the modules of optimum-onnx, and the lazy ones of Optimum and transformers, raise where they cannot be imported.
_FAILURES: Final = (ImportError, AttributeError, RuntimeError)


def has_transformers_exporters() -> bool:
    """Whether the installed transformers has exporters of its own; it is not imported for that."""
    spec = importlib.util.find_spec("transformers")
    places = spec.submodule_search_locations if spec is not None else None
    return any(Path(place, "exporters").is_dir() for place in places or ())


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
        from optimum_htp.libraries.import_failures import lack_of_optimum_onnx

        raise MissingDependencyError(lack_of_optimum_onnx(what, error)) from error
