"""The gain of mapping weights from the file, against Optimum's load of the same weights from a folder with configs.

First loads run in new processes with finished imports: the time until the model (and tokenizer) is loaded, and the
growth of the peak of resident memory, in turn. With a cold page cache, the files' pages are dropped before each load.
Inference compares both models in one process, in turn.
"""

from __future__ import annotations

import os
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import minilm
from benchmarks.fresh import evaluated
from benchmarks.pairs import empty_hub, interleaved
from benchmarks.rows import Row, main, paired
from tests.support.hub import LoopbackHub

CHILD = """
import time
from benchmarks.pairs import forget_peak, peak_kilobytes
{imports}
before, start = forget_peak(), time.perf_counter()
loaded = {load}
seconds = time.perf_counter() - start
result = seconds, (peak_kilobytes() - before) / 1024
"""
FLOOR = """
from onnxruntime import InferenceSession, SessionOptions
from optimum_htp.onnxfile import read_without_weights
from transformers import AutoTokenizer
lean, options = read_without_weights(source), SessionOptions()
options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(lean.file.parent))
"""
OPTIMUM = "Optimum, from a folder with configs"
IMPORTED = """
import optimum_htp.loading.direct, optimum_htp.loading.mapped, optimum_htp.loading.ort_model
import optimum_htp.loading.other_commits, optimum_htp.loading.preprocessors
from optimum_htp import plugins
plugins.hub()
"""
MODEL = "O.from_pretrained(source)"
TEXT = "ORTModelForFeatureExtraction"


def drop(folder: Path) -> None:
    """Drop the pages of a folder's files from the kernel's cache."""
    for path in folder.rglob("*.onnx"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fresh(source: Path, imports: str, load: str) -> tuple[float, float]:
    """Return seconds and MiB of a load in a new process."""
    seconds, mib = evaluated(CHILD.format(imports=imports, load=load), source=str(source))
    return seconds, mib


def first_loads(
    name: str,
    ours: Path,
    theirs: Path,
    cls: str,
    runs: int,
    *,
    load: str = MODEL,
    before: Callable[[Path], Any] | None = None,
    time_target: float | None = None,
    memory_target: float | None = None,
    peer: str = OPTIMUM,
) -> Iterator[Row]:
    imports = f"from optimum.onnxruntime import {cls} as O; from transformers import AutoTokenizer"
    times, peaks = [], []
    for index in range(runs):
        found = {}
        for source in (ours, theirs) if index % 2 else (theirs, ours):
            if before is not None:
                before(source.parent if source.is_file() else source)
            found[source] = fresh(source, imports, load)
        times.append((found[ours][0], found[theirs][0]))
        peaks.append((found[ours][1], found[theirs][1]))
    yield paired(name, times, peer, target=time_target)
    yield paired(f"{name}: peak memory", peaks, peer, unit="MiB", target=memory_target)


def parts(file: Path, folder: Path, load: str, runs: int) -> Iterator[Row]:
    """Compare with Optimum's first load: a mapped session with a tokenizer, and a load after imports."""
    session = "InferenceSession(lean.content, options, providers=['CPUExecutionProvider'])"
    alone = f"({session}, AutoTokenizer.from_pretrained({str(folder)!r}))"
    theirs = f"from optimum.onnxruntime import {TEXT} as O; from transformers import AutoTokenizer"
    pairs = [(fresh(file, FLOOR, alone)[0], fresh(folder, theirs, load)[0]) for _ in range(runs)]
    yield paired("ONNX Runtime's session and transformers' tokenizer alone, first load", pairs, OPTIMUM)
    pairs = [(fresh(file, theirs + IMPORTED, load)[0], fresh(folder, theirs, load)[0]) for _ in range(runs)]
    yield paired("MiniLM + tokenizer, first load, with the modules of optimum-htp imported", pairs, OPTIMUM)


def inference(file: Path, folder: Path, loads: int) -> Iterator[Row]:
    """Compare runs of a mapped model with those of a model that is not mapped: neither may be slower.

    The memory layout and threads of a session make it faster or slower for its lifetime, so the medians of several
    loads are compared.
    """
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    lengths = {8: 41, 128: 11}  # Tokens, and number of runs.
    found: dict[int, list[tuple[float, float]]] = {tokens: [] for tokens in lengths}
    for _ in range(loads):
        ours = ORTModelForFeatureExtraction.from_pretrained(file)
        theirs = ORTModelForFeatureExtraction.from_pretrained(folder)
        for tokens, runs in lengths.items():
            inputs = {name: torch.ones(1, tokens, dtype=torch.long) for name in ("input_ids", "attention_mask")}
            inputs["token_type_ids"] = torch.zeros(1, tokens, dtype=torch.long)
            assert torch.equal(ours(**inputs)[0], theirs(**inputs)[0])
            pairs = interleaved(lambda: ours(**inputs), lambda: theirs(**inputs), runs)  # noqa: B023
            mine, others = (statistics.median(times) for times in zip(*pairs, strict=True))
            found[tokens].append((mine, others))
    for tokens, medians in found.items():
        yield paired(f"inference after it, {tokens} tokens", medians, OPTIMUM, target=1.03)


def exported(hub: LoopbackHub, folder: Path, name: str, model: Any, task: str) -> tuple[Path, Path]:
    """Export a model: as files only, and as Optimum exports it, without a record and with adjacent configs."""
    from optimum_htp import HTPExporter, strip_metadata

    source = folder / f"{name}-source"
    model.save_pretrained(source)
    hub.add(f"bench/{name}", source)
    alone, adjacent = folder / name, folder / f"{name}-with-configs"
    HTPExporter().export(f"bench/{name}", alone, task=task, hierarchy=False, do_validation=False)
    adjacent.mkdir()
    for file in alone.glob("*.onnx"):
        strip_metadata(file, adjacent / file.name)
    for config in source.glob("*config.json"):
        shutil.copyfile(config, adjacent / config.name)
    return alone, adjacent


def exported_llama(hub: LoopbackHub, folder: Path, quick: bool) -> tuple[str, Path, Path]:
    """Return the name of a random LLaMA with its size, and its two exports."""
    import transformers

    wide, layers = (512, 1) if quick else (1536, 7)
    config = transformers.LlamaConfig(
        hidden_size=wide,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=wide // 128,
        vocab_size=32000,
    )
    model = transformers.LlamaForCausalLM(config)
    name = f"LLaMA, {4 * model.num_parameters() / 1e9:.2g} GB"
    return name, *exported(hub, folder, "llama", model, "text-generation-with-past")


def rows(quick: bool) -> Iterator[Row]:
    runs = 2 if quick else 9
    with empty_hub() as (hub, folder):
        import torch
        import transformers

        torch.manual_seed(0)
        exports = minilm.served(hub, folder)
        text, adjacent = exports.file(), exports.with_configs()
        both = "(O.from_pretrained(source), AutoTokenizer.from_pretrained(source))"
        yield from first_loads(
            "MiniLM + tokenizer, first load", text, adjacent, TEXT, runs, load=both, time_target=0.5
        )
        yield from parts(text, adjacent, both, runs)
        yield from inference(text, adjacent, 1 if quick else 9)
        task = "text2text-generation-with-past"
        layers = 2 if quick else 6
        bart = transformers.BartConfig(
            d_model=256 if quick else 512,
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_ffn_dim=1024 if quick else 2048,
            decoder_ffn_dim=1024 if quick else 2048,
            encoder_attention_heads=8,
            decoder_attention_heads=8,
            vocab_size=32128,
        )
        model = transformers.BartForConditionalGeneration(bart)
        places = exported(hub, folder, "bart", model, task)
        name = f"BART, {round(model.num_parameters() / 1e6, -1):.0f} M, merged decoder"
        yield from first_loads(name, *places, "ORTModelForSeq2SeqLM", runs, time_target=0.6)
        runs = min(runs, 5)  # The largest model takes longest.
        name, *places = exported_llama(hub, folder, quick)
        yield from first_loads(name, *places, "ORTModelForCausalLM", runs, time_target=0.5, memory_target=0.7)
        yield from first_loads(
            f"{name}, cold page cache", *places, "ORTModelForCausalLM", runs, before=drop, time_target=1.0
        )


if __name__ == "__main__":
    main(__doc__, rows)
