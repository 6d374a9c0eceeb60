"""Virtual environments that are created fast: their packages are links to those of the current one."""

from __future__ import annotations

import atexit
import functools
import shutil
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterable
from pathlib import Path

__all__ = ["NOT_NEEDED", "linked", "python_of_users"]

NOT_NEEDED = ("diffusers", "sklearn", "scikit_learn", "scipy", "sentence_transformers", "timm", "pandas")
"""Packages that some tests need, and that transformers and Optimum import if installed: as slow as PyTorch."""


def linked(folder: Path, *, copied: Iterable[str] = (), leaving_out: Iterable[str] = ()) -> Path:
    """Make a virtual environment with links to the packages of this one; return its `site-packages`.

    Args:
        folder: The environment's folder.
        copied: Packages to copy, for tests that write to them.
        leaving_out: Beginnings of names of packages to leave out.
    """
    venv.create(folder, symlinks=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if path.name in copied:
            shutil.copytree(path, site_packages / path.name)
        elif not path.name.startswith(tuple(leaving_out)):
            (site_packages / path.name).symlink_to(path)
    return site_packages


@functools.cache
def python_of_users() -> Path:
    """Return a Python with this package installed as here, and with the packages of most users."""
    if sys.platform == "win32":  # links need a privilege on Windows
        return Path(sys.executable)
    folder = Path(tempfile.mkdtemp(prefix="users-environment-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    linked(folder, leaving_out=NOT_NEEDED)
    python = folder / "bin" / "python"
    for script in Path(sys.executable).parent.glob("optimum-cli"):
        _, rest = script.read_text().split("\n", 1)
        copy = python.with_name(script.name)
        copy.write_text(f"#!{python}\n{rest}")
        copy.chmod(0o755)
    return python
