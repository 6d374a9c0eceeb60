"""Reading the record of a file on a Hub, against downloading it; and proving its weights, against the whole commit.

    python -m benchmarks.remote [--quick] [--json]

The Hub is on this machine, each response takes 20 ms, and every download begins with an empty cache.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from benchmarks import minilm
from benchmarks.pairs import Traffic, empty_hub, interleaved, traffic
from benchmarks.rows import Row, main, paired, single
from tests.support.hub import LoopbackHub

LATENCY = 0.02  # Seconds per response.


def reading(hub: LoopbackHub, folder: Path, runs: int) -> Iterator[Row]:
    import onnx
    from huggingface_hub import hf_hub_download

    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.resolve.remote_file import read_remote_header

    sent: dict[str, Traffic] = {}

    def ours() -> None:
        with traffic(hub) as sent["ours"]:
            assert ExportMetadata.from_properties(read_remote_header("hf://bench/onnx/model.onnx").metadata)

    def theirs() -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        with traffic(hub) as sent["theirs"]:
            onnx.load(hf_hub_download("bench/onnx", "model.onnx", cache_dir=folder / "cache"))

    hub.latency = LATENCY
    pairs = interleaved(ours, theirs, runs)
    hub.latency = 0.0
    against = "hf_hub_download + onnx.load"
    name = "read the record of a remote file of 90 MB"
    yield paired(name, pairs, against)
    yield single(f"{name}: bytes", sent["ours"].bytes, sent["theirs"].bytes, against, unit="bytes", target=0.01)
    yield single(f"{name}: requests", sent["ours"].requests, sent["theirs"].requests, against, unit="requests")


def proving(hub: LoopbackHub, file: Path, folder: Path) -> Iterator[Row]:
    """Prove MiniLM's weights, and those of a file that lacks most of them."""
    from optimum_htp import extract_module, prove_weights
    from optimum_htp.hubs import HubAccess

    part = folder / "layer.onnx"
    extract_module(file, "encoder.layer.3", part)
    whole = sum(len(body) for name, body in files_of(hub).items() if name.endswith(".safetensors"))
    for name, path, target in (("a file", file, 1.05), ("one layer of six", part, 0.12)):
        with traffic(hub) as sent:
            proof = prove_weights(path, minilm.REPO, access=HubAccess(cache_dir=folder / f"cache-{path.stem}"))
        assert not proof.foreign
        title = f"prove the weights of {name}: bytes"
        yield single(title, sent.bytes, whole, "the commit's safetensors", unit="bytes", target=target)


def files_of(hub: LoopbackHub) -> dict[str, bytes]:
    repo = hub.repos[minilm.REPO]
    return dict(repo.commits[repo.refs["main"]])


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, folder):
        file = minilm.served(hub, folder).file()
        hub.add("bench/onnx", {"model.onnx": file.read_bytes()})
        yield from reading(hub, folder, 5 if quick else 21)
        yield from proving(hub, file, folder)


if __name__ == "__main__":
    main(__doc__, rows)
