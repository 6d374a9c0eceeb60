"""The first answer of a new process, and many answers, without PyTorch and with Optimum.

The models are classifiers: a BERT of 0.3 MB, and one with the real weights of MiniLM, 90 MB. ONNX Runtime repacks the
weights of its matrix products in every load. The answers are compared before the measurement.

Each first answer is a new process, in turn. Memory is the peak of resident pages. The endpoints are written by
`htp endpoint`, and started in new processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.pairs import empty_hub, interleaved
from benchmarks.rows import Row, main, paired, single
from tests.support import models
from tests.support.environments import python_of_users

TEXT = "a cat sat on the mat, and the dog ran"
HAS_EXPORTERS = int(metadata.version("transformers").partition(".")[0]) >= 5
_END = """
import json
if hasattr(answer, "tolist"):
    answer = answer.tolist()
with open("/proc/self/status") as status:
    (peak,) = [line.split()[1] for line in status if line.startswith("VmHWM")]
print(json.dumps([answer, int(peak) / 1024]))
"""
OURS = """
from optimum_htp.runtime import load
answer = load({file!r})({text!r})
"""
OPTIMUM = """
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
folder = {folder!r}
model, tokenizer = ORTModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
answer = pipeline("text-classification", model=model, tokenizer=tokenizer)({text!r})
"""
EXPORTED = """
from transformers import AutoTokenizer
from transformers.exporters import ExportedModel
model, tokenizer = ExportedModel.from_pretrained({folder!r}), AutoTokenizer.from_pretrained({folder!r})
answer = model(**tokenizer({text!r}, return_tensors="pt")).logits.tolist()
"""
HAND = """
import numpy, onnxruntime, tokenizers
session = onnxruntime.InferenceSession({file!r}, providers=["CPUExecutionProvider"])
encoding = tokenizers.Tokenizer.from_file({folder!r} + "/tokenizer.json").encode({text!r})
given = {{"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}}
(answer,) = session.run(None, {{name: numpy.array([values]) for name, values in given.items()}})
"""
ENDPOINT = """
import runpy
answer = runpy.run_path({folder!r} + "/handler.py")["EndpointHandler"]({folder!r})({{"inputs": {text!r}}})
"""


def answered(code: str) -> tuple[float, float, Any]:
    """Return the seconds and MiB of a process for code with an answer, and the answer."""
    start = time.perf_counter()
    done = subprocess.run(
        [python_of_users(), "-c", code + _END], capture_output=True, text=True, check=True, env=_alone()
    )
    seconds = time.perf_counter() - start
    answer, mib = json.loads(done.stdout.splitlines()[-1])
    return seconds, mib, answer


def _alone() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def classifier(home: Path) -> Path:
    """Return a classifier with MiniLM's weights and its own head."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    set_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(models.minilm(), num_labels=3)
    model.save_pretrained(home / "classifier")
    AutoTokenizer.from_pretrained(models.minilm()).save_pretrained(home / "classifier")
    return home / "classifier"


def compared(
    name: str, code: str, peer: str, against: str, runs: int, targets: tuple[float | None, float | None]
) -> Iterator[Row]:
    """Yield the rows of time and memory of two processes."""
    pairs = []
    for index in range(runs + 1):
        taken = {one: answered(one)[:2] for one in ((code, peer) if index % 2 else (peer, code))}
        pairs.append((taken[code], taken[peer]))
    del pairs[0]  # The first process reads the files from the disk.
    yield paired(name, [(ours[0], other[0]) for ours, other in pairs], against, target=targets[0])
    memory = [(ours[1], other[1]) for ours, other in pairs]
    yield paired(f"{name}: memory", memory, against, unit="MiB", target=targets[1])


def rows(quick: bool) -> Iterator[Row]:
    from optimum_htp import HTPExporter
    from optimum_htp.extras.endpoint.folder import write_endpoint

    runs = 2 if quick else 7
    with empty_hub() as (hub, home):
        for name, model in (("small", models.bert(home / "bert")), ("large", classifier(home))):
            hub.add(f"bench/{name}", model, pipeline_tag="text-classification")
            HTPExporter().export(f"bench/{name}", home / name, task="text-classification", with_config=True)
        small, large = home / "small", home / "large"
        ours, optimum = codes(small, OURS, OPTIMUM)
        yield from compared("first answer", ours, optimum, "Optimum", runs, (0.10, 0.25))
        if HAS_EXPORTERS:
            HTPExporter().export("bench/small", home / "traced", engine="transformers", with_config=True)
            (traced,) = codes(home / "traced", EXPORTED)
            yield from compared("first answer", ours, traced, "ExportedModel", runs, (0.10, 0.25))
        ours, optimum, hand = codes(large, OURS, OPTIMUM, HAND)
        yield from compared("first answer, 90 MB", ours, optimum, "Optimum", runs, (0.10, None))
        yield from compared("first answer, 90 MB", ours, hand, "onnxruntime, by hand", runs, (2.0, 1.1))
        yield run_command(small, runs)
        write_endpoint(small / "model.onnx", home / "light", is_light=True)
        write_endpoint(small / "model.onnx", home / "full", is_light=False)
        light, full = (codes(home / name, ENDPOINT)[0] for name in ("light", "full"))
        yield from compared("endpoint: start to first answer", light, full, "with Optimum", runs, (0.15, 0.25))
        yield many(large, runs)


def codes(folder: Path, *templates: str) -> list[str]:
    """Return the programs for the model in a folder; their answers are equal.

    Raises:
        AssertionError: They are not.
    """
    names = {"file": str(folder / "model.onnx"), "folder": str(folder), "text": TEXT}
    found = [template.format(**names) for template in templates]
    if len(templates) > 1:
        (mine,), (theirs,) = answered(found[0])[2], answered(found[1])[2]
        assert mine["label"] == theirs["label"], (mine, theirs)
        assert abs(mine["score"] - theirs["score"]) < 1e-5, (mine, theirs)
    return found


def run_command(folder: Path, runs: int) -> Row:
    """Compare `htp run` with half a second."""

    def seconds() -> float:
        start = time.perf_counter()
        command = [python_of_users().with_name("optimum-cli"), "htp", "run", folder / "model.onnx", TEXT]
        subprocess.run(command, check=True, capture_output=True, env=_alone())
        return time.perf_counter() - start

    return single("htp run", statistics.median(seconds() for _ in range(runs)), 0.5, "0.5 s", unit="s", target=1.0)


def many(folder: Path, runs: int) -> Row:
    """Compare the time of many texts, in batches of eight."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    from optimum_htp.runtime import load

    texts = [f"{TEXT} {'once more ' * (index % 9)}" for index in range(64)]
    model = ORTModelForSequenceClassification.from_pretrained(folder)
    theirs = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder))
    ours = load(folder)
    pairs = interleaved(lambda: ours(texts, batch_size=8), lambda: theirs(texts, batch_size=8), runs)
    return paired("64 texts in batches of 8", pairs, "Optimum", target=1.0)


if __name__ == "__main__":
    sys.exit(main(__doc__, rows))
