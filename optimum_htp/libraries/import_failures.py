"""Why a package cannot be imported, and which packages to install.

This module reads the versions of installed packages, which takes as long as a load without PyTorch. So it is imported
only after a failed import.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from traceback import walk_tb
from typing import Final

from packaging.requirements import Requirement
from packaging.version import Version

__all__ = ["broken_package", "lack_of_optimum_onnx", "root_cause"]

_NAME: Final = "optimum-onnx"
_BRIDGED: Final = 5  # The first major version of transformers for which optimum-onnx needs bridges.
_OWN: Final = ("optimum", "transformers")  # A missing module of these packages is a wrong version of theirs.
_DISTRIBUTIONS: Final = {"PIL": "pillow", "cv2": "opencv-python", "google": "protobuf", "sklearn": "scikit-learn"}
"""Names to install, for packages whose import name differs."""


def lack_of_optimum_onnx(what: str, error: Exception) -> str:
    """Return the message for a failed import from optimum-onnx. It starts with `what`, the feature that needs it."""
    lacking = next((name for name in _missing_modules(error) if name not in _OWN), None)
    if lacking is not None:  # A library that optimum-onnx imports, such as diffusers.
        reason, name = " ".join(str(error).split()), _DISTRIBUTIONS.get(lacking, lacking)
        return f"{what} needs {lacking}, which is not installed ({reason}). Run `pip install {name}`."
    if (broken := broken_package(error)) is not None:
        return f"{what} needs {_NAME}, which cannot be imported: {broken}"
    return f"{what} needs {_NAME}, which {_state(error)}. Run `{_command()}`."


def broken_package(error: BaseException) -> str | None:
    """Return a message about a third package whose own code failed, such as a torchvision built for another torch.

    None if the code of Optimum or transformers failed. Their lazy modules hide the first exception behind others.
    """
    cause = root_cause(error)
    package = _imported(cause)
    if package is None or package in _OWN:
        return None
    name = _DISTRIBUTIONS.get(package, package)
    if (installed := _version(name)) is not None:
        package = f"{name} {installed}"
    reason = f"{type(cause).__name__}: {' '.join(str(cause).split())}"
    return (
        f"{package} fails with {reason}. Install a version of {name} that matches the other packages, or uninstall it "
        "if no package needs it."
    )


def root_cause(error: BaseException) -> BaseException:
    """Return the first exception in a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _imported(error: BaseException) -> str | None:
    """Return the package whose import raised an exception; None if there was none."""
    frames = [frame for frame, _ in walk_tb(error.__traceback__) if frame.f_code.co_name == "<module>"]
    return str(frames[-1].f_globals["__name__"]).partition(".")[0] if frames else None


def _command() -> str:
    """Return the command that installs the missing dependencies of optimum-onnx.

    optimum-onnx requires transformers 4. An installed transformers 5 is kept, because this package bridges the
    differences.
    """
    if _major("transformers") >= _BRIDGED:
        command = f'pip install --no-deps "optimum>=2.3" {_NAME}'
        again = " --upgrade --force-reinstall"
        return f"{command}{again}" if _major(_NAME) >= 0 else f"{command} && pip install onnx onnxruntime requests"
    command = f'pip install "{_NAME}[onnxruntime]"'
    try:
        wanted = [Requirement(text) for text in metadata.requires(_NAME) or ()]
    except metadata.PackageNotFoundError:
        return command
    others = [req for req in wanted if req.marker is None and req.specifier and not _is_met(req)]
    if others:
        return " ".join([command, *(f'"{req.name}{req.specifier}"' for req in others)])
    return f"{command} --upgrade --force-reinstall"


def _major(name: str) -> int:
    """Return the major version of a package, -1 if it is not installed."""
    installed = _version(name)
    return -1 if installed is None else Version(installed).major


def _is_met(requirement: Requirement) -> bool:
    installed = _version(requirement.name)
    return installed is not None and requirement.specifier.contains(installed, prereleases=True)


def _version(name: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None


def _missing_modules(error: BaseException | None) -> Iterator[str]:
    """Yield the packages whose modules were not found, the last one first."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            yield error.name.partition(".")[0]
        error = error.__cause__ or error.__context__


def _state(error: Exception) -> str:
    installed = _version(_NAME)
    if installed is None:
        return "is not installed"
    others = [f"{name} {found}" if (found := _version(name)) is not None else f"no {name}" for name in _OWN]
    reason = " ".join(str(root_cause(error)).split())
    return f"is installed ({installed}), but cannot be imported with {' and '.join(others)} ({reason})"
