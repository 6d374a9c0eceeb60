"""The versions of what an export's bytes depend on, as they are in this process."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from optimum_htp.version import __version__

__all__ = ["versions_here"]

_STACK: Final = ("optimum", "optimum-onnx", "transformers", "diffusers", "huggingface_hub", "torch", "onnx")


def versions_here() -> dict[str, str]:
    """Return the versions of what an export's bytes depend on, by distribution."""
    found = {"optimum-htp": __version__}
    for name in _STACK:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
