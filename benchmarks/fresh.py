"""Processes of their own whose imports are done: forked from one that has imported PyTorch and Optimum once.

A first load is a process's first, so each needs one of its own; starting an interpreter and importing PyTorch takes
twenty times as long as most of what is measured. The standard library's fork server imports, and forks a process for
each measurement; sessions, threads and caches of models are made in that alone.
"""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["evaluated"]

PRELOADED = [
    *("torch", "onnx", "onnxruntime", "optimum.onnxruntime", "optimum.onnxruntime.modeling_seq2seq", "transformers"),
    *("transformers.models.bert.tokenization_bert_fast", "transformers.models.vit.image_processing_vit"),
    "transformers.models.bart.configuration_bart",
    *("transformers.models.llama.configuration_llama", "huggingface_hub.hf_api", "concurrent.futures"),
    *("optimum_htp.loading.ort_model", "optimum_htp.loading.mapped", "optimum_htp.origin.config_folder"),
    *("optimum_htp.origin.commit_files", "optimum_htp.onnxfile", "benchmarks.pairs"),
]


def evaluated(code: str, **names: Any) -> Any:
    """Run Python code in a process of its own, and return what it leaves under the name `result`.

    Args:
        code: The code; its imports are those of `PRELOADED` and what it brings itself.
        **names: What it finds under these names.

    Raises:
        RuntimeError: It ended without a result; what it raised is on standard error.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_evaluate, args=(code, names, dict(os.environ), sending))
    process.start()
    sending.close()
    try:
        return receiving.recv()
    except EOFError:
        raise RuntimeError("a measurement ended without a result") from None
    finally:
        receiving.close()
        process.join()


def _evaluate(code: str, names: dict[str, Any], environment: dict[str, str], sending: Connection) -> None:
    os.environ.update(environment)
    exec(code, names)
    sending.send(names["result"])
