"""What loading costs, against Optimum and transformers in the same run.

    python -m benchmarks.loading

Warm: a model and its tokenizer from a file alone, against Optimum's load from a folder with configs, interleaved in
one process. Cold: config and preprocessors with an empty cache against a Hub on the loopback interface, with and
without a latency for every answer; each in a process of its own, imports done before the clock starts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.pairs import compared, empty_hub, interleaved, milliseconds
from tests.support.hub import LoopbackHub

RUNS = 101
LATENCY = 0.1  # seconds an answer

# What is measured in a process of its own: the loads of one operation, with `source` a file (ours) or a repo (theirs).
OPERATIONS = {
    "config": "AutoConfig.from_pretrained(source)",
    "tokenizer": "AutoTokenizer.from_pretrained(source)",
    "image processor": "AutoImageProcessor.from_pretrained(source)",
    "config + tokenizer": "(AutoConfig.from_pretrained(source), AutoTokenizer.from_pretrained(source))",
}
CHILD = """
import json, sys, time
import optimum_htp.origin.commit_files, optimum_htp.onnxfile
import optimum_htp.origin.config_folder, huggingface_hub.hf_api, concurrent.futures
from transformers import AutoConfig, AutoTokenizer, AutoImageProcessor
import transformers.models.bert.tokenization_bert_fast, transformers.models.vit.image_processing_vit
source, times = sys.argv[1], []
for _ in range({repeat}):
    start = time.perf_counter()
    {operation}
    times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


def first_and_cached(operation: str, source: str, endpoint: str) -> tuple[float, float]:
    """Return the seconds of the first load with an empty cache, and the median of those after it."""
    first, cached = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as home:
            done = subprocess.run(
                [sys.executable, "-c", CHILD.format(repeat=8, operation=OPERATIONS[operation]), source],
                env={**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": home, "HF_HUB_DISABLE_XET": "1"},
                capture_output=True,
                text=True,
                check=True,
            )
        times = json.loads(done.stdout.splitlines()[-1])
        first.append(times[0])
        cached += times[2:]
    return statistics.median(first), statistics.median(cached)


def table(hub: LoopbackHub, sources: dict[str, tuple[str, str]]) -> None:
    """Print the table: operations, first and cached, ours against transformers', by latency."""
    for latency in (0.0, LATENCY):
        hub.latency = latency
        print(f"\nlatency {latency * 1e3:.0f} ms per answer    first: ours   transformers  ratio   cached: ours   ...")
        for operation in OPERATIONS:
            ours, theirs = sources[operation]
            mine = first_and_cached(operation, ours, hub.url)
            reference = first_and_cached(operation, theirs, hub.url)
            print(
                f"{operation:20} {milliseconds(mine[0])} {milliseconds(reference[0])} {reference[0] / mine[0]:5.1f} x"
                f" {milliseconds(mine[1])} {milliseconds(reference[1])} {reference[1] / mine[1]:5.1f} x"
            )
    hub.latency = 0.0


def warm(file: Path, folder: Path, runs: int) -> None:
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    def load(source: Path) -> Any:
        return ORTModelForFeatureExtraction.from_pretrained(source), AutoTokenizer.from_pretrained(source)

    pairs = interleaved(lambda: load(file), lambda: load(folder), runs)
    mine, reference, ratio = compared(pairs)
    print(f"\nwarm, MiniLM, model + tokenizer, {runs} interleaved runs")
    print(f"from model.onnx {milliseconds(mine)}   Optimum from a folder {milliseconds(reference)}   {ratio}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def config_copies(file: Path) -> None:
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import read_metadata
    from optimum_htp.origin.commit_files import resolve_configs
    from optimum_htp.origin.configs import load_config

    record = ExportMetadata.from_properties(read_metadata(file))
    assert record is not None
    source = resolve_configs(record, HubAccess())
    times = []
    for _ in range(1000):
        start = time.perf_counter()
        load_config(source, record)
        times.append(time.perf_counter() - start)
    print(f"copy of a remembered config: {statistics.median(times) * 1e6:.0f} µs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    with empty_hub() as (hub, folder):
        from optimum_htp import HTPExporter
        from tests.support import models

        hub.add("bench/minilm", models.minilm(), pipeline_tag="sentence-similarity")
        hub.add("bench/vit", models.vit(folder / "vit"), pipeline_tag="image-classification")
        text, image = folder / "minilm-out" / "model.onnx", folder / "vit-out" / "model.onnx"
        HTPExporter().export("bench/minilm", text, task="feature-extraction", embed="none")
        HTPExporter().export("bench/vit", image, embed="none")
        HTPExporter().export("bench/minilm", folder / "with-configs", task="feature-extraction", with_config=True)
        pair = (str(text), "bench/minilm")
        table(hub, {**dict.fromkeys(OPERATIONS, pair), "image processor": (str(image), "bench/vit")})
        config_copies(text)
        warm(text, folder / "with-configs", arguments.runs)


if __name__ == "__main__":
    main()
