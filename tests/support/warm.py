"""Commands and Python code in processes of their own that need not import PyTorch once more.

The standard library's fork server imports what takes longest, once for all tests of a worker, and forks each
process. Nothing of Hugging Face's is imported in it: that reads its environment variables when it is imported,
and each process brings its own. An environment in which a second command is run gets a server of its own: a fork of
the first one, which imports Hugging Face's packages with exactly these variables, and forks the commands.
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
# What commands import of Hugging Face's and of ours, in a server for one environment.
IMPORTED = [
    *("optimum.commands.optimum_cli", "optimum.exporters.onnx.convert", "optimum.onnxruntime", "peft"),
    *("transformers.models.auto", "transformers.pipelines", "optimum_htp.export", "optimum_htp.loading"),
]
# Read when a command runs, so they may differ within an environment.
READ_LATER = ("PYTEST_CURRENT_TEST", "OPTIMUM_HTP_", "SOURCE_DATE_EPOCH")
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
    known = frozenset((name, value) for name, value in env.items() if not name.startswith(READ_LATER))
    _commands[known] += 1
    if _commands[known] == 2:
        _servers[known] = _Server(env)
    return _forked(_servers[known].run if known in _servers else _exit_code, _command, arguments, cwd, env)


def python(code: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python code with exactly these environment variables, where nothing of Hugging Face's is imported yet."""
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
    """A process that runs commands in forks of itself, all of them in one environment."""

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
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # some warn when they are imported
    for module in IMPORTED:
        with contextlib.suppress(ImportError):  # what is not installed, the commands do without
            importlib.import_module(module)
    os.dup2(stderr, 2)
    gc.freeze()  # so that forks neither look at nor copy what is here
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
    """Return how a process ended that was forked for the call, or None for one that had to be killed."""
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
        atexit._run_exitfuncs()  # a forked process ends without them


def _command(arguments: list[str]) -> object:
    from optimum.commands.optimum_cli import main

    sys.argv = ["optimum-cli", *arguments]
    return main()


def _code(arguments: list[str]) -> None:
    exec(arguments[0], {"__name__": "__main__"})
