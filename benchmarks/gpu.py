"""First loads on a GPU: weights mapped from the file, against Optimum's load, and against external data.

ONNX Runtime loads external data through pinned memory, so a file with external data is measured too. Without a GPU
there are no rows.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks.mapping import exported_llama, first_loads
from benchmarks.pairs import empty_hub
from benchmarks.rows import Row, main

CUDA = "CUDAExecutionProvider"
CLASS = "ORTModelForCausalLM"


def with_external_data(folder: Path, target: Path) -> Path:
    """Return a copy of a model's folder in which the weights are external data."""
    from optimum_htp import embed_files

    shutil.copytree(folder, target)
    embed_files(next(target.glob("*.onnx")), external_data=True)
    return target


def rows(quick: bool, provider: str = CUDA) -> Iterator[Row]:
    import onnxruntime
    import torch

    if provider not in onnxruntime.get_available_providers():
        return
    with empty_hub() as (hub, folder):
        torch.manual_seed(0)
        name, ours, theirs = exported_llama(hub, folder, quick)
        name += ", on a GPU"
        load = f"O.from_pretrained(source, provider={provider!r})"
        runs = 2 if quick else 5
        yield from first_loads(name, ours, theirs, CLASS, runs, load=load, time_target=0.5, memory_target=0.7)
        external = with_external_data(ours, folder / "external")
        peer = "the same load of external data"
        yield from first_loads(f"{name}, mapped", ours, external, CLASS, runs, load=load, peer=peer)


if __name__ == "__main__":
    main(__doc__, rows)
