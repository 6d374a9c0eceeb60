"""Processes of their own whose imports are done: forked from one that has imported PyTorch and Optimum once.

A first load is a process's first, so each needs one of its own; starting an interpreter and importing PyTorch takes
twenty times as long as most of what is measured. The standard library's fork server imports, and forks a process for
each measurement; sessions, threads and caches of models are made in that alone.
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
    *("optimum_htp.loading.ort_model", "optimum_htp.loading.mapped", "optimum_htp.resolve.config_folder"),
    *("optimum_htp.resolve.commit_files", "optimum_htp.onnxfile", "benchmarks.pairs"),
]


@dataclass(frozen=True)
class Cost:
    """What a call took.

    Attributes:
        seconds: Its wall time.
        mib: How much the process's peak of resident memory grew.
    """

    seconds: float
    mib: float


def cost(function: Callable[..., Any], *arguments: Any, preloaded: Sequence[str]) -> Cost:
    """Call a function of a module in a process of its own, and return what that took.

    Args:
        function: What is measured.
        *arguments: Its arguments.
        preloaded: As of `called`.

    Raises:
        RuntimeError: As of `called`.
    """
    found: Cost = called(_cost, function, arguments, preloaded=preloaded)
    return found


def evaluated(code: str, **names: Any) -> Any:
    """Run Python code in a process of its own, and return what it leaves under the name `result`.

    Args:
        code: The code; its imports are those of `PRELOADED` and what it brings itself.
        **names: What it finds under these names.

    Raises:
        RuntimeError: It ended without a result; what it raised is on standard error.
    """
    return called(_result, code, names, preloaded=PRELOADED)


def started(log: Path) -> None:
    """Start the server with `PRELOADED`, and wait for it; what it and its processes print goes into a file."""
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
    """Call a function of a module in a process of its own, and return what it returns.

    Args:
        function: What is called.
        *arguments: Its arguments.
        preloaded: The modules that it finds imported; the same in all calls of a process.

    Raises:
        RuntimeError: It raised; what it raised is on standard error.
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
        sys.path += tools.__path__  # which its import adds in the server, and a new process does not take from there
    sending.send(function(*arguments))


def _cost(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    before, start = forget_peak(), time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - start
    return Cost(seconds, (peak_kilobytes() - before) / 1024)


def _result(code: str, names: dict[str, Any]) -> Any:
    exec(code, names)
    return names["result"]
