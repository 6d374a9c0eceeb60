"""What an endpoint runs with: `requirements.txt`, and without PyTorch the ZIP archive of this package.

`requirements.txt` has the exact versions of the installed distributions. It cannot exclude dependencies of a
distribution, and optimum-htp depends on PyTorch. So an endpoint without PyTorch contains this package as a ZIP file
that Python imports from. The ZIP includes the bytecode for the running Python.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import platform
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from importlib._bootstrap_external import _code_to_hash_pyc  # type: ignore[attr-defined]
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from optimum_htp.errors import MissingDependencyError, OptimumHTPError
from optimum_htp.libraries.names import CONFIG, GENERATION_CONFIG, WEIGHTS
from optimum_htp.parsing import json_or_none
from optimum_htp.runtime.generation.settings import settings_of
from optimum_htp.runtime.images import load_image_processor
from optimum_htp.runtime.model import GENERATING, TASKS
from optimum_htp.runtime.rejections import WITH_OPTIMUM
from optimum_htp.runtime.tokenizer_files import load_tokenizer

__all__ = ["ARCHIVE", "archive", "are_pinned", "distributions", "is_archive", "pinned", "reason_against"]

ARCHIVE: Final = "optimum_htp.zip"
_PACKAGE: Final = "optimum_htp"
_BASE: Final = ("numpy", "onnxruntime", "packaging", "pluggy", "tokenizers")
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # the earliest date in a ZIP
_HEADING: Final = "# What the handler was made with"
_PYTORCH: Final = "https://download.pytorch.org/whl/"
_LINES: Final = re.compile(
    rf"{_HEADING}, on Python [0-9][0-9a-z.+]{{,20}}\.\n(--extra-index-url {_PYTORCH}(cpu|cu[0-9]{{1,4}})\n)*"
    r"([a-z0-9]+(-[a-z0-9]+)*==[0-9][0-9a-z.!]{,40}\n)+",
    re.ASCII,
)


def reason_against(task: str, name: str, configs: Mapping[str, Path]) -> str | None:
    """Return why a model (with a name for messages) cannot be served without PyTorch; None if it can."""
    if task not in TASKS:
        return f"{task} is not supported without transformers"
    contents = {file: path.read_bytes() for file, path in configs.items() if "/" not in file}
    config = json_or_none(contents.get(CONFIG, b"null"))
    if not isinstance(config, dict):
        return f"it has no {CONFIG}"
    try:
        if task == "image-classification":
            load_image_processor(contents, name)
        else:
            load_tokenizer(contents, config, name)
        if task in GENERATING:
            settings_of(json_or_none(contents.get(GENERATION_CONFIG, b"{}")) or {}, config, {}, {}, name, task)
    except OptimumHTPError as error:
        return str(error).partition(f" {WITH_OPTIMUM}")[0].rstrip(".")
    return None


def distributions(task: str, configs: Mapping[str, Path]) -> list[str]:
    """Return the names of the distributions that an endpoint without PyTorch requires."""
    return [
        *_BASE,
        *(["pillow"] if task == "image-classification" else []),
        *(["jinja2"] if task == "text-generation" else []),
        *(["safetensors"] if any(name.endswith(f"/{WEIGHTS}") for name in configs) else []),
    ]


@functools.cache
def archive() -> bytes:
    """Return this package as a ZIP, with bytecode for the running Python."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as made:
        for name, source in _sources().items():
            made.writestr(zipfile.ZipInfo(name, _TIME), source, zipfile.ZIP_DEFLATED)
            code = compile(source, name, "exec", dont_inherit=True)
            compiled = _code_to_hash_pyc(code, importlib.util.source_hash(source), False)
            made.writestr(zipfile.ZipInfo(f"{name}c", _TIME), compiled, zipfile.ZIP_STORED)
    return stream.getvalue()


def is_archive(content: bytes) -> bool:
    """Whether a file is a ZIP of this package, from any Python version."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as existing:
            names = {name for name in existing.namelist() if name.endswith(".py")}
            own = _sources()
            return names == own.keys() and all(existing.read(name) == own[name] for name in names)
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError):
        return False


def _sources() -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def add(folder: Traversable, name: str) -> None:
        for entry in sorted(folder.iterdir(), key=lambda one: one.name):
            inner = f"{name}/{entry.name}"
            if entry.is_dir() and entry.name.isidentifier() and entry.name not in ("_site", "__pycache__"):
                add(entry, inner)
            elif entry.name.endswith(".py"):
                found[inner] = entry.read_bytes()

    add(files(_PACKAGE), _PACKAGE)
    return found


def pinned(names: Iterable[str]) -> str:
    """Return a requirements file of distributions (`optimum-onnx[onnxruntime]`) and their dependencies."""
    found: dict[str, str] = {}
    for name in names:
        _add(name, found, needed=True)
    builds = sorted({local for version in found.values() if (local := version.partition("+")[2])})
    lines = [f"{_HEADING}, on Python {platform.python_version()}."]
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
