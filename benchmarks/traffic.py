"""Requests and bytes of each command to the Hub, against huggingface_hub for the same work.

python -m benchmarks.traffic [--quick] [--json]

The Hub responds like the real one: files are redirected to their storage, and each redirect counts as a request. Each
work begins with an empty cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import minilm
from benchmarks.pairs import empty_hub, traffic
from benchmarks.rows import Row, main, single
from tests.support.hub import LoopbackHub

TOKEN = "hf_writer"
ONNX_REPO = "bench/onnx"


def works(file: Path, folder: Path) -> dict[str, tuple[Callable[[Path], Any], str, Callable[[Path], Any]]]:
    """Return each work: with this package, the peer, and with huggingface_hub; each gets an empty cache."""
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from transformers import AutoConfig, AutoTokenizer

    from optimum_htp import HTPExporter, prove_weights, verify_metadata
    from optimum_htp.extras.mirror.filling import mirror_model
    from optimum_htp.extras.push.pushing import push
    from optimum_htp.hubs import HubAccess
    from optimum_htp.resolve.remote_file import read_remote_header

    def export(cache: Path) -> None:
        HTPExporter().export(minilm.REPO, cache / "out", task=minilm.TASK, cache_dir=cache, do_validation=False)

    def load(cache: Path) -> None:
        AutoConfig.from_pretrained(ONNX_REPO, cache_dir=cache)
        AutoTokenizer.from_pretrained(ONNX_REPO, cache_dir=cache)

    def digests(cache: Path) -> None:
        info = HfApi().model_info(minilm.REPO)
        list(HfApi().list_repo_tree(minilm.REPO, revision=info.sha, recursive=True))

    def uploaded(cache: Path) -> None:
        api = HfApi(token=TOKEN)
        api.create_repo("bench/theirs")
        api.upload_folder(repo_id="bench/theirs", folder_path=file.parent, allow_patterns=[file.name])

    def whole(cache: Path) -> None:
        snapshot_download(minilm.REPO, cache_dir=cache)

    def weights(cache: Path) -> None:
        hf_hub_download(minilm.REPO, "model.safetensors", cache_dir=cache)

    def model(cache: Path) -> None:
        hf_hub_download(ONNX_REPO, "model.onnx", cache_dir=cache)

    return {
        "export": (export, "snapshot_download", whole),
        "load config and tokenizer of a repo of one ONNX file": (load, "hf_hub_download of the file", model),
        "info hf://": (
            lambda cache: read_remote_header(f"hf://{ONNX_REPO}/model.onnx", HubAccess(cache_dir=cache)),
            "hf_hub_download of the file",
            model,
        ),
        "verify": (
            lambda cache: verify_metadata(file, HubAccess(cache_dir=cache)),
            "model_info and list_repo_tree",
            digests,
        ),
        "verify --weights": (
            lambda cache: prove_weights(file, minilm.REPO, access=HubAccess(cache_dir=cache)),
            "hf_hub_download of the weights",
            weights,
        ),
        "mirror --weights": (
            lambda cache: mirror_model(minilm.REPO, str(cache / "to"), HubAccess(cache_dir=cache), weights=True),
            "snapshot_download",
            whole,
        ),
        "push": (
            lambda cache: push([file], "bench/ours", access=HubAccess(token=TOKEN, cache_dir=cache)),
            "create_repo and upload_folder",
            uploaded,
        ),
    }


def measured(hub: LoopbackHub, work: Callable[[Path], Any]) -> tuple[int, int]:
    """Return requests and bytes of some work, in both directions."""
    stored = {*hub.stored}
    with tempfile.TemporaryDirectory() as cache, traffic(hub) as sent:
        work(Path(cache))
    uploaded = sum(len(hub.stored[oid]) for oid in {*hub.stored} - stored)
    hub.stored.clear()
    return sent.requests, sent.bytes + uploaded


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, folder):
        file = minilm.served(hub, folder).file()
        hub.add(ONNX_REPO, {"model.onnx": file.read_bytes()})
        hub.writers = {TOKEN: {"bench"}}
        for name, (ours, against, theirs) in works(file, folder).items():
            figures = [measured(hub, work) for work in (ours, theirs)]
            for unit, one, other in zip(("requests", "bytes"), *figures, strict=True):
                yield single(f"{name}: {unit}", one, other, against, unit=unit)


if __name__ == "__main__":
    main(__doc__, rows)
