"""Commands and Python code in new processes that do not import PyTorch again.

The standard library's fork server imports the slowest packages once for all tests of a worker, and forks each process.
It imports no package of Hugging Face, because those read environment variables at import, and each process has its
own. For an environment with a second command, there is another server: a fork of the first one, which imports Hugging
Face's packages with these variables, and forks the commands.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PRELOADED = [
    *("torch", "torch._dynamo", "torch.onnx", "onnx", "onnxruntime", "sklearn.metrics", "PIL.Image"),
    *("requests", "httpx", "jinja2", "yaml", "regex", "tokenizers", "safetensors.torch", "boto3", "fsspec"),
]
# Packages of Hugging Face and of ours that commands import, for the server of one environment.
IMPORTED = [
    *("optimum.commands.optimum_cli", "optimum.exporters.onnx.convert", "optimum.onnxruntime", "peft"),
    *("transformers.models.auto", "transformers.pipelines", "optimum_htp.export", "optimum_htp.loading"),
]
# Read when a command runs, so they may differ within an environment.
READ_LATER = ("PYTEST_CURRENT_TEST", "OPTIMUM_HTP_", "SOURCE_DATE_EPOCH")
# An interpreter or PyTorch reads these at its start only.
READ_AT_START = ("PYTHON", "TORCH", "OMP_", "OPTIMUM_HTP_DISABLE")
TIMEOUT = 300  # seconds


def can_run(env: dict[str, str]) -> bool:
    """Whether a forked process behaves like a new one with these additional variables."""
    return "forkserver" in multiprocessing.get_all_start_methods() and not any(
        name.startswith(READ_AT_START) for name in env
    )


def optimum_cli(arguments: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command of optimum-cli with exactly these environment variables.

    Raises:
        TimeoutError: It has not ended after five minutes.
    """
    known = frozenset((name, value) for name, value in env.items() if not name.startswith(READ_LATER))
    _commands[known] += 1
    if _commands[known] == 2:
        _servers[known] = _Server(env)
    return _forked(_servers[known].run if known in _servers else _exit_code, _command, arguments, cwd, env)


def python(code: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code with exactly these environment variables, without imported packages of Hugging Face."""
    return _forked(_exit_code, _code, [code], cwd, env)


def _forked(
    run: Callable[..., int | None],
    target: Callable[[list[str]], object],
    arguments: list[str],
    cwd: Path,
    env: dict[str, str],
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="command-") as folder:
        streams = [Path(folder, name) for name in ("stdout", "stderr")]
        code = run(target, arguments, cwd, env, streams)
        if code is None:
            raise TimeoutError(f"{arguments} has not ended after {TIMEOUT} s")
        texts = [path.read_text() if path.exists() else "" for path in streams]
        return subprocess.CompletedProcess(arguments, code, *texts)


class _Server:
    """A process that runs commands in forks of itself, all in one environment."""

    def __init__(self, env: dict[str, str]) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        _context("forkserver").Process(target=_serve, args=(theirs, env)).start()
        theirs.close()
        atexit.register(self._connection.close)  # before multiprocessing waits for the process

    def run(self, *call: object) -> int | None:
        self._connection.send(call)
        return self._connection.recv()


_commands: Counter[frozenset[tuple[str, str]]] = Counter()
_servers: dict[frozenset[tuple[str, str]], _Server] = {}


def _serve(connection: Connection, env: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    stderr = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # some packages warn at import
    for module in IMPORTED:
        with contextlib.suppress(ImportError):  # commands work without missing packages
            importlib.import_module(module)
    os.dup2(stderr, 2)
    gc.freeze()  # forks neither scan nor copy these objects
    while True:
        try:
            call = connection.recv()
        except EOFError:
            return
        connection.send(_exit_code(*call, method="fork"))


def _context(method: str) -> Any:
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(PRELOADED)
    return context


def _exit_code(*call: object, method: str = "forkserver") -> int | None:
    """Return the exit of a process forked for the call, or None for one that was killed."""
    process = _context(method).Process(target=_run, args=call)
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        return None
    return process.exitcode


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
        atexit._run_exitfuncs()  # a forked process ends without these


def _command(arguments: list[str]) -> object:
    from optimum.commands.optimum_cli import main

    sys.argv = ["optimum-cli", *arguments]
    return main()


def _code(arguments: list[str]) -> None:
    exec(arguments[0], {"__name__": "__main__"})
