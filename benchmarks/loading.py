"""The cost of loading, against Optimum and transformers in the same run.

Warm: a model and its tokenizer from a single file, against Optimum's load from a folder with configs, interleaved in
one process.
Cold: config and preprocessors with an empty cache from a Hub on the loopback interface, with and without a latency
per response; each in a new process with finished imports.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import minilm
from benchmarks.fresh import evaluated
from benchmarks.pairs import empty_hub, interleaved
from benchmarks.rows import Row, main, paired
from tests.support.hub import LoopbackHub

LATENCIES = (0.003, 0.03, 0.1, 0.3)  # Seconds per response.
LATENCY = 0.1  # The latency with a target.

TEXT, IMAGE = "config + tokenizer", "image processor"
# The measured code of a new process: the loads of one operation, of a file (ours) or a repo (theirs).
OPERATIONS = {
    TEXT: "(AutoConfig.from_pretrained(source, **options), AutoTokenizer.from_pretrained(source, **options))",
    IMAGE: "AutoImageProcessor.from_pretrained(source, **options)",
}
CHILD = """
import time
from transformers import AutoConfig, AutoTokenizer, AutoImageProcessor
result = []
for _ in range({repeat}):
    start = time.perf_counter()
    {operation}
    result.append(time.perf_counter() - start)
"""


def first_and_cached(operation: str, source: str, repeat: int) -> tuple[float, float]:
    """Return the seconds of the first load with an empty cache, and the median of later loads."""
    code = CHILD.format(repeat=1 + repeat, operation=OPERATIONS[operation])
    with tempfile.TemporaryDirectory() as cache:
        first, *others = evaluated(code, source=source, options={"cache_dir": cache})
    return first, statistics.median(others)


def cold(
    hub: LoopbackHub, latency: float, operation: str, sources: tuple[str, str], runs: int, *, cached: bool
) -> Iterator[Row]:
    """Compare loads with an empty cache, each in a new process, and the following loads in it."""
    hub.latency = latency
    ours, theirs = sources
    found = []
    for index in range(runs):
        times = {
            source: first_and_cached(operation, source, 4 if runs > 3 else 1)
            for source in sources[:: 1 if index % 2 else -1]
        }
        found.append((times[ours], times[theirs]))
    hub.latency = 0.0
    name, against = f"{operation}, cold, {latency * 1e3:.0f} ms an answer", "transformers, from the Hub"
    first, later = ([(mine[index], other[index]) for mine, other in found] for index in (0, 1))
    target = 0.2 if latency == LATENCY else None
    if operation == TEXT:
        yield paired(name, first, against, target=target, series="latency in ms", at=latency * 1e3)
    else:
        yield paired(name, first, against)
    if cached:
        yield paired(f"{name}: cached", later, against)


def warm(file: Path, folder: Path, runs: int) -> Row:
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    def load(source: Path) -> Any:
        return ORTModelForFeatureExtraction.from_pretrained(source), AutoTokenizer.from_pretrained(source)

    pairs = interleaved(lambda: load(file), lambda: load(folder), runs)
    return paired("MiniLM + tokenizer, warm", pairs, "Optimum, from a folder with configs", target=0.6)


def model_alone(file: Path, folder: Path, runs: int) -> Row:
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    load = ORTModelForFeatureExtraction.from_pretrained
    pairs = interleaved(lambda: load(file), lambda: load(folder), runs)
    return paired("MiniLM, warm", pairs, "Optimum, from a folder with configs")


def pipelines(file: Path, folder: Path, runs: int) -> Row:
    from optimum.onnxruntime import pipeline

    def make(source: Path) -> Any:
        return pipeline("feature-extraction", model=str(source))

    pairs = interleaved(lambda: make(file), lambda: make(folder), runs)
    return paired("pipeline of MiniLM, warm", pairs, "Optimum's, from a folder with configs")


def config_copies(file: Path, folder: Path, runs: int) -> Row:
    from transformers import AutoConfig

    pairs = interleaved(lambda: AutoConfig.from_pretrained(file), lambda: AutoConfig.from_pretrained(folder), runs)
    return paired("config, remembered", pairs, "transformers, from a folder with configs")


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, folder):
        exports = minilm.served(hub, folder)
        text, with_configs = exports.file(embed="none"), exports.with_configs()
        runs = 5 if quick else 41
        yield warm(text, with_configs, runs)
        yield model_alone(text, with_configs, runs)
        yield pipelines(text, with_configs, runs)
        yield config_copies(text, with_configs, 2 * runs)
        for latency in (LATENCY,) if quick else LATENCIES:
            at_target = latency == LATENCY
            turns = 2 if quick else 11 if at_target else 3
            yield from cold(hub, latency, TEXT, (str(text), minilm.REPO), turns, cached=at_target)
        if not quick:
            from optimum_htp import HTPExporter
            from tests.support import models

            hub.add("bench/vit", models.vit(folder / "vit"), pipeline_tag="image-classification")
            image = HTPExporter().export("bench/vit", folder / "vit-out", embed="none").files[0]
            yield from cold(hub, LATENCY, IMAGE, (str(image), "bench/vit"), 5, cached=True)


if __name__ == "__main__":
    main(__doc__, rows)
