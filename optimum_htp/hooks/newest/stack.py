"""The installed versions, the tested versions, and the breaks between them."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from optimum_htp.hooks.newest import BRIDGED
from optimum_htp.version import __version__

__all__ = ["Package", "Stack", "inspect_stack"]

# The newest version of each package that has passed the tests of the bridges.
TESTED: Final = {
    "torch": "2.13.0",
    "transformers": "5.24.0",
    "huggingface_hub": "2.4.0",
    "optimum": "2.3.0",
    "optimum-onnx": "0.1.0",
    "onnx": "1.23.2",
    "onnxruntime": "1.32.0",
    "diffusers": "0.42.1",
    "sentence-transformers": "6.2.0",
}
_OPTIONAL: Final = "diffusers"  # needed by a module of Optimum; its absence is not a fault
_OTHER_NAMES: Final = {"optimum-onnx": ("optimum-onnx-naf",), "onnxruntime": ("onnxruntime-gpu",)}


@dataclass(frozen=True)
class Package:
    """A distribution, its installed version, and the newest tested one."""

    name: str
    version: str | None
    tested: str | None
    is_newer: bool


@dataclass(frozen=True)
class Stack:
    """The installed packages, this one first, and the breaks between them.

    `faults` has the reason for each module of Optimum that cannot be imported. `enabled` is whether hooks are active.
    """

    packages: tuple[Package, ...]
    breaks: tuple[dict[str, Any], ...]
    faults: dict[str, str]
    enabled: bool


def inspect_stack() -> Stack:
    """Import Optimum's ONNX code, and return the installed packages and the breaks bridged for them."""
    from optimum_htp.hooks import newest
    from optimum_htp.hooks.activation import activate
    from optimum_htp.hooks.patching import is_active
    from optimum_htp.libraries.import_failures import broken_package, root_cause

    packages = (Package("optimum-htp", __version__, None, False), *map(_package, TESTED))
    logging.getLogger("optimum").setLevel(logging.ERROR)
    activate()
    faults = {}
    for name in sorted(BRIDGED):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - all import failures are reported
            if getattr(error, "name", None) == _OPTIONAL:
                continue
            cause = root_cause(error)
            faults[name] = broken_package(error) or f"{type(cause).__name__}: {cause}"
    return Stack(packages, tuple(_breaks() if newest.is_needed() else ()), faults, is_active())


def _breaks() -> list[dict[str, Any]]:
    from optimum_htp.hooks.newest.breaks import breaks

    return [
        {"name": item.name, "module": item.module, "summary": item.summary, "bridged": bridged}
        for item, bridged in breaks().items()
    ]


def _package(name: str) -> Package:
    version = None
    for candidate in (name, *_OTHER_NAMES.get(name, ())):
        try:
            version, name = metadata.version(candidate), candidate
            break
        except metadata.PackageNotFoundError:
            continue
    tested = TESTED.get(name)
    return Package(name, version, tested, version is not None and tested is not None and _is_newer(version, tested))


def _is_newer(version: str, tested: str) -> bool:
    from packaging.version import Version

    return Version(Version(version).public) > Version(tested)
