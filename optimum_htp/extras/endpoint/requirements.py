"""Requirements files with the exact versions of the installed distributions."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from importlib import metadata
from typing import Final

from optimum_htp.errors import MissingDependencyError

__all__ = ["HEADING", "are_pinned", "pinned"]

HEADING: Final = "# What the handler was made with"
_PYTORCH: Final = "https://download.pytorch.org/whl/"

_LINES: Final = re.compile(
    rf"{HEADING}, on Python [0-9][0-9a-z.+]{{,20}}\.\n(--extra-index-url {_PYTORCH}(cpu|cu[0-9]{{1,4}})\n)*"
    r"([a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.!]{,40}\n)+",
    re.ASCII,
)


def pinned(names: Iterable[str]) -> str:
    """Return a requirements file of distributions and their dependencies.

    Args:
        names: Requirements, with extras (`optimum-onnx[onnxruntime]`).

    Raises:
        MissingDependencyError: A distribution is not installed, so its version is unknown.
    """
    found: dict[str, str] = {}
    for name in names:
        _add(name, found, needed=True)
    builds = sorted({local for version in found.values() if (local := version.partition("+")[2])})
    lines = [f"{HEADING}, on Python {platform.python_version()}."]
    lines += [f"--extra-index-url {_PYTORCH}{build}" for build in builds if build == "cpu" or build.startswith("cu")]
    lines += [f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items())]
    return "\n".join(lines) + "\n"


def are_pinned(text: str) -> bool:
    """Whether a text has the form of a result of `pinned`, without additions."""
    return _LINES.fullmatch(text) is not None


def _add(text: str, found: dict[str, str], *, needed: bool = False) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted = Requirement(text)
    try:
        distribution = metadata.distribution(wanted.name)
    except metadata.PackageNotFoundError as error:
        if needed:
            raise MissingDependencyError(
                f"{wanted.name} is not installed, so its version cannot be pinned. Run `pip install {wanted.name}`."
            ) from error
        return  # an optional dependency, or a dependency on another system
    name = canonicalize_name(distribution.metadata["Name"])
    new = name not in found
    found[name] = distribution.version
    if new or wanted.extras:
        for inner in _requirements(distribution, wanted.extras):
            _add(inner, found)


def _requirements(distribution: metadata.Distribution, extras: Iterable[str]) -> Iterator[str]:
    from packaging.requirements import Requirement

    for text in distribution.requires or ():
        marker = Requirement(text).marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield text.partition(";")[0]
