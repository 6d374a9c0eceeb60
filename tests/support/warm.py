"""Commands and Python code in processes of their own that need not import PyTorch once more.

The standard library's fork server imports what takes longest, once for all tests of a worker, and forks a process for
each command. Nothing of Hugging Face's is imported in it: that reads its environment variables when it is imported,
and each command brings its own.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

PRELOADED = [
    *("torch", "torch._dynamo", "torch.onnx", "onnx", "onnxruntime", "sklearn.metrics", "PIL.Image"),
    *("requests", "httpx", "jinja2", "yaml", "regex", "tokenizers", "safetensors.torch", "boto3", "fsspec"),
]
# What an interpreter or PyTorch reads when it starts, nobody can bring along later.
READ_AT_START = ("PYTHON", "TORCH", "OMP_", "OPTIMUM_HTP_DISABLE")
TIMEOUT = 300  # seconds


def can_run(env: dict[str, str]) -> bool:
    """Tell whether a forked process behaves like one that is started with these further variables."""
    return "forkserver" in multiprocessing.get_all_start_methods() and not any(
        name.startswith(READ_AT_START) for name in env
    )


def optimum_cli(arguments: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of optimum-cli with exactly these environment variables.

    Raises:
        TimeoutError: It has not ended after five minutes.
    """
    return _forked(_command, arguments, cwd, env)


def python(code: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code as `optimum_cli` runs a command."""
    return _forked(_code, [code], cwd, env)


def _forked(
    target: Callable[[list[str]], object], arguments: list[str], cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory(prefix="command-") as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        process = context.Process(target=_run, args=(target, arguments, cwd, env, streams))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{arguments} has not ended after {TIMEOUT} s")
        texts = [path.read_text() if path.exists() else "" for path in streams]
        return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def _run(
    target: Callable[[list[str]], object], arguments: list[str], cwd: Path, env: dict[str, str], streams: list[Path]
) -> None:
    for descriptor, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    try:
        sys.exit(target(arguments))
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them


def _command(arguments: list[str]) -> object:
    from optimum.commands.optimum_cli import main

    sys.argv = ["optimum-cli", *arguments]
    return main()


def _code(arguments: list[str]) -> None:
    exec(arguments[0], {"__name__": "__main__"})
