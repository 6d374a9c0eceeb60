"""A process with only the content of its ONNX files: no Hub, no cache, and no sockets."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tests.support.environments import python_of_users

__all__ = ["moved", "run_alone"]

# CPython's audit events report a socket of any library.
_FORBID = """
import sys
def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
        raise RuntimeError(f"a socket: {event} {arguments}")
sys.addaudithook(forbid)
"""


def run_alone(
    code: str,
    home: str | Path,
    env: dict[str, str | None] | None = None,
    *,
    python: str | Path | None = None,
    **options: Any,
) -> str:
    """Run Python code with an empty Hugging Face home, and return its output.

    Args:
        code: The code.
        home: The Hugging Face home.
        env: Additional variables; None removes one.
        python: The interpreter; by default, a Python with a user's packages.
        **options: Arguments of `subprocess.run`.
    """
    variables = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": "http://127.0.0.1:9", **(env or {})}
    known = {name: value for name, value in variables.items() if value is not None}
    done = subprocess.run(
        [python or python_of_users(), "-c", _FORBID + code],
        env=known,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def moved(output: Path, target: Path) -> Path:
    """Copy only the ONNX files of an export into a new folder; return the first of them."""
    files = sorted(path.relative_to(output) for path in output.rglob("*.onnx"))
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(output / name, target / name)
    return target / files[0]
