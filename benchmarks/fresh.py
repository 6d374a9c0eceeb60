"""New processes with finished imports: forked from a process that has imported PyTorch and Optimum once.

A first load is the first one of a process, so each needs a new process. Starting an interpreter and importing PyTorch
takes twenty times as long as most measurements. The standard library's fork server does the imports, and forks a
process for each measurement. Sessions, threads and caches exist only in that process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.pairs import forget_peak, peak_kilobytes

__all__ = ["PRELOADED", "Cost", "called", "cost", "evaluated", "started"]

PRELOADED = [
    *("torch", "onnx", "onnxruntime", "optimum.onnxruntime", "optimum.onnxruntime.modeling_seq2seq", "transformers"),
    *("transformers.models.bert.tokenization_bert_fast", "transformers.models.vit.image_processing_vit"),
    "transformers.models.bart.configuration_bart",
    *("transformers.models.llama.configuration_llama", "huggingface_hub.hf_api", "concurrent.futures"),
    *("optimum_htp.loading.ort_model", "optimum_htp.loading.mapped", "optimum_htp.loading.direct"),
    *("optimum_htp.loading.in_parallel", "optimum_htp.loading.named", "optimum_htp.resolve.config_folder"),
    *("optimum_htp.resolve.commit_files", "optimum_htp.onnxfile", "benchmarks.pairs"),
]


@dataclass(frozen=True)
class Cost:
    """The cost of a call.

    Attributes:
        seconds: Its wall time.
        mib: Growth of the process's peak of resident memory.
    """

    seconds: float
    mib: float


def cost(function: Callable[..., Any], *arguments: Any, preloaded: Sequence[str]) -> Cost:
    """Call a function of a module in a new process, and return the cost.

    Args:
        function: The function.
        *arguments: Its arguments.
        preloaded: As in `called`.

    Raises:
        RuntimeError: As in `called`.
    """
    found: Cost = called(_cost, function, arguments, preloaded=preloaded)
    return found


def evaluated(code: str, **names: Any) -> Any:
    """Run Python code in a new process, and return its variable `result`.

    Args:
        code: The code. The modules of `PRELOADED` are already imported.
        **names: Variables for the code.

    Raises:
        RuntimeError: It ended without a result; its exception is on standard error.
    """
    return called(_result, code, names, preloaded=PRELOADED)


def started(log: Path) -> None:
    """Start the server with `PRELOADED`, and wait for it. Its output and that of its processes goes into a file."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    own = os.dup(1), os.dup(2)
    with log.open("wb") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    forkserver.ensure_running()
    os.dup2(own[0], 1)
    os.dup2(own[1], 2)
    called(os.getpid, preloaded=PRELOADED)


def called(function: Callable[..., Any], *arguments: Any, preloaded: Sequence[str]) -> Any:
    """Call a function of a module in a new process, and return its result.

    Args:
        function: The function.
        *arguments: Its arguments.
        preloaded: The modules to import before; the same in all calls of a process.

    Raises:
        RuntimeError: It raised an exception, which is on standard error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(function, arguments, dict(os.environ), sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        raise RuntimeError("a measurement ended without a result") from None
    finally:
        receiving.close()
        process.join()


def _send(
    function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], sending: Connection
) -> None:
    os.environ.update(environment)
    if (tools := sys.modules.get("onnxruntime.transformers")) is not None:
        sys.path += tools.__path__  # Its import adds this path in the server, and a new process does not inherit it.
    sending.send(function(*arguments))


def _cost(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    before, start = forget_peak(), time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - start
    return Cost(seconds, (peak_kilobytes() - before) / 1024)


def _result(code: str, names: dict[str, Any]) -> Any:
    exec(code, names)
    return names["result"]
