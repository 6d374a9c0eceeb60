"""What mapping weights from the file saves, against Optimum's load of the same weights from a folder with configs.

    python -m benchmarks.mapping [--runs 7] [--small]

Loads are the first of a process of their own, with all imports done: time until the model (and tokenizer) is there,
and how much the peak of resident memory grew. Each pair is made in turn. With a cold page cache, the files' pages are
dropped before each load. Inference is that of both models in one process, in turn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.pairs import compared, empty_hub, interleaved, interval, milliseconds

CHILD = """
import sys, time
import optimum.onnxruntime, transformers, onnxruntime, onnx
import optimum_htp.loading.ort_model, optimum_htp.loading.mapped, optimum_htp.origin.config_folder
from benchmarks.pairs import forget_peak, peak_kilobytes
{imports}
source = sys.argv[1]
forget_peak()
before, start = peak_kilobytes(), time.perf_counter()
loaded = {load}
seconds = time.perf_counter() - start
print(seconds, peak_kilobytes() - before)
"""


def drop(folder: Path) -> None:
    """Drop the pages of a folder's files from the kernel's cache."""
    for path in folder.rglob("*.onnx"):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fresh(source: Path, imports: str, load: str) -> tuple[float, int]:
    code = CHILD.format(imports=imports, load=load)
    done = subprocess.run([sys.executable, "-c", code, str(source)], capture_output=True, text=True, check=True)
    seconds, kilobytes = done.stdout.split()[-2:]
    return float(seconds), int(kilobytes)


def first_loads(
    name: str,
    ours: Path,
    theirs: Path,
    imports: str,
    load: str,
    runs: int,
    *,
    before: Callable[[Path], Any] | None = None,
) -> None:
    pairs, peaks = [], []
    for index in range(runs):
        found = {}
        for source in (ours, theirs) if index % 2 else (theirs, ours):
            if before is not None:
                before(source.parent if source.is_file() else source)
            found[source] = fresh(source, imports, load)
        pairs.append((found[ours][0], found[theirs][0]))
        peaks.append((found[ours][1], found[theirs][1]))
    mine, reference, ratio = compared(pairs)
    memory = [one / other for one, other in peaks]
    low, high = interval(memory)
    own, other = (statistics.median(values) / 1024 for values in zip(*peaks, strict=True))
    print(
        f"{name:34} {milliseconds(mine)} {milliseconds(reference)}   {ratio}"
        f"   peak {own:6.0f} {other:6.0f} MiB   {statistics.median(memory):.2f} x ({low:.2f} to {high:.2f})",
        flush=True,
    )


def inference(file: Path, folder: Path) -> None:
    import torch
    from optimum.onnxruntime import ORTModelForFeatureExtraction

    ours = ORTModelForFeatureExtraction.from_pretrained(file)
    theirs = ORTModelForFeatureExtraction.from_pretrained(folder)
    for tokens, runs in ((8, 101), (128, 25)):
        inputs = {name: torch.ones(1, tokens, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        inputs["token_type_ids"] = torch.zeros(1, tokens, dtype=torch.long)
        assert torch.equal(ours(**inputs)[0], theirs(**inputs)[0])
        pairs = interleaved(lambda: ours(**inputs), lambda: theirs(**inputs), runs)  # noqa: B023
        mine, reference, ratio = compared(pairs)
        print(f"inference, {tokens:3} tokens              {milliseconds(mine)} {milliseconds(reference)}   {ratio}")


def exported(hub: Any, folder: Path, name: str, model: Any, task: str) -> tuple[Path, Path]:
    """Export a model twice: as files alone, and with configs beside."""
    from optimum_htp import HTPExporter

    source = folder / f"{name}-source"
    model.save_pretrained(source)
    hub.add(f"bench/{name}", source)
    places = folder / name, folder / f"{name}-with-configs"
    for place, with_config in zip(places, (False, True), strict=True):
        HTPExporter().export(f"bench/{name}", place, task=task, with_config=with_config, hierarchy=False)
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="Leave out the decoder of 1.2 GB.")
    arguments = parser.parse_args()
    with empty_hub() as (hub, folder):
        import torch
        import transformers

        from optimum_htp import HTPExporter
        from tests.support import models

        torch.manual_seed(0)
        hub.add("bench/minilm", models.minilm(), pipeline_tag="sentence-similarity")
        text, beside = folder / "minilm" / "model.onnx", folder / "minilm-with-configs"
        HTPExporter().export("bench/minilm", text, task="feature-extraction")
        HTPExporter().export("bench/minilm", beside, task="feature-extraction", with_config=True)
        imports = (
            "from optimum.onnxruntime import ORTModelForFeatureExtraction as O; from transformers import AutoTokenizer"
        )
        both = "(O.from_pretrained(source), AutoTokenizer.from_pretrained(source))"
        print(f"{'':34}      ours        Optimum")
        first_loads("MiniLM + tokenizer, first", text, beside, imports, both, arguments.runs)
        inference(text, beside)
        config = transformers.T5Config(d_model=512, d_ff=2048, num_layers=6, num_heads=8, vocab_size=32128)
        ours, theirs = exported(
            hub, folder, "t5", transformers.T5ForConditionalGeneration(config), "text2text-generation-with-past"
        )
        imports = "from optimum.onnxruntime import ORTModelForSeq2SeqLM as O"
        first_loads("T5, 60 M parameters, merged", ours, theirs, imports, "O.from_pretrained(source)", arguments.runs)
        if not arguments.small:
            config = transformers.LlamaConfig(
                hidden_size=1536, intermediate_size=4096, num_hidden_layers=7, num_attention_heads=12, vocab_size=32000
            )
            ours, theirs = exported(
                hub, folder, "llama", transformers.LlamaForCausalLM(config), "text-generation-with-past"
            )
            imports = "from optimum.onnxruntime import ORTModelForCausalLM as O"
            load = "O.from_pretrained(source)"
            first_loads("LLaMA, 1.2 GB", ours, theirs, imports, load, arguments.runs)
            first_loads("LLaMA, 1.2 GB, cold page cache", ours, theirs, imports, load, arguments.runs, before=drop)


if __name__ == "__main__":
    main()
