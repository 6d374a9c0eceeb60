"""The cost of embedded files: bytes, stamping, and loading.

    python -m benchmarks.embedding [--quick] [--json]

Sizes are those of the property in the file, including base64. Loads are of config and tokenizer in a warm process,
against the same file without embedded files and a warm cache, interleaved. Stamping rewrites the file and syncs it,
so the peer is `cp && sync`; `cp` alone leaves the sync to the kernel.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import minilm
from benchmarks.pairs import empty_hub, interleaved
from benchmarks.rows import Row, main, paired, single

WORDS = 128_000


def llama_like(folder: Path) -> Path:
    """Make a model folder with a byte-level BPE tokenizer of 128,000 tokens, as LLaMA 3's: each token one merge."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    draw = random.Random(0)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    weights = [1 / (at + 1) for at in range(len(letters))]
    vocabulary = {token: at for at, token in enumerate(alphabet)}
    words, merges = [*letters, "Ġ"], []
    while len(vocabulary) < WORDS:
        # Tokens are built from tokens, frequent ones more often, so that they share prefixes like real ones.
        left = words[min(int(draw.expovariate(3 / len(words))), len(words) - 1)]
        right = draw.choices(letters, weights)[0] if draw.random() < 0.6 else draw.choice(words)
        token = left + right
        if token in vocabulary or len(token) > 14 or "Ġ" in right:
            continue
        vocabulary[token] = len(vocabulary)
        words.append(token)
        merges.append((left, right))
    # LLaMA 3 has more than two merges per token, because every other way to build it is listed too.
    others = [
        (token[:at], token[at:])
        for token in itertools.islice(words, 200, None)
        for at in range(1, len(token))
        if token[:at] in vocabulary and token[at:] in vocabulary
    ]
    known = set(merges)
    merges += [pair for pair in others if pair not in known][: 280_147 - len(merges)]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="Ġ").save_pretrained(folder)
    LlamaConfig(vocab_size=len(vocabulary)).save_pretrained(folder)
    return folder


def sizes(folder: Path, small: Path) -> Iterator[Row]:
    from optimum_htp.resolve.embedding import embedding_of

    for name, model, limit in (("MiniLM (BERT)", small, 300e3), ("LLaMA 3-like", llama_like(folder), 3500e3)):
        embedding = embedding_of(model, [path.name for path in model.iterdir()], "transformers")
        assert embedding is not None
        unpacked = sum(file.size for file in embedding.files)
        size = len(embedding.archive)
        name = f"embedded files of {name}"
        yield single(name, size, unpacked, "its files", unit="bytes", target=limit / unpacked)


def stamping(folder: Path, record_of: Path, archive: str, size: int, runs: int) -> Iterator[Row]:
    """Stamp a file of a given size with everything, against `cp`."""
    import onnx
    from onnx import TensorProto, helper

    from optimum_htp.metadata import read_record
    from optimum_htp.stamping.stamp import stamp

    weights = helper.make_tensor("w", TensorProto.FLOAT, [size // 4], os.urandom(size), raw=True)
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [size // 4])
    node = helper.make_node("Identity", ["w"], ["x"])
    onnx.save(helper.make_model(helper.make_graph([node], "large", [], [value], [weights])), folder / "large.onnx")
    record = read_record(record_of)
    assert record is not None

    def ours() -> None:
        stamp(folder / "large.onnx", record, author=None, extra={}, archive=archive)

    def copied() -> None:
        subprocess.run(["cp", folder / "large.onnx", folder / "copy.onnx"], check=True)

    def on_disk() -> None:
        copied()
        subprocess.run(["sync", folder / "copy.onnx"], check=True)

    def settled() -> None:
        gc.collect()
        os.sync()  # No run waits for the pending writes of the one before.

    copied()  # Both replace an existing file.
    for name, theirs, target in (("cp", copied, None), ("cp && sync", on_disk, 1.3)):
        pairs = interleaved(ours, theirs, runs, settled)
        yield paired(f"stamp {size / 1e9:g} GB with a LLaMA 3-like tokenizer", pairs, name, target=target)


def loading(embedded: Path, bare: Path, runs: int) -> Row:
    from transformers import AutoConfig, AutoTokenizer

    def load(path: Path) -> None:
        AutoConfig.from_pretrained(path)
        AutoTokenizer.from_pretrained(path)

    pairs = interleaved(lambda: load(embedded), lambda: load(bare), runs)
    return paired("config + tokenizer from the file, warm", pairs, "from the cache", target=1.1)


def rows(quick: bool) -> Iterator[Row]:
    with empty_hub() as (hub, folder):
        from optimum_htp import inject_hub_metadata
        from optimum_htp.resolve.embedding import embedding_of
        from tests.support import models

        yield from sizes(folder / "llama", models.minilm())
        exported = minilm.served(hub, folder).file(embed="none")
        paths = [folder / "embedded.onnx", folder / "bare.onnx"]
        for path, embed in zip(paths, ("all", "none"), strict=True):
            shutil.copy(exported, path)
            inject_hub_metadata(path, minilm.REPO, task=minilm.TASK, embed=embed)
        yield loading(*paths, 5 if quick else 41)
        llama_files = folder / "llama"
        llama = embedding_of(llama_files, [path.name for path in llama_files.iterdir()], "transformers")
        assert llama is not None
        yield from stamping(folder, paths[0], llama.archive, *((100_000_000, 3) if quick else (500_000_000, 7)))


if __name__ == "__main__":
    main(__doc__, rows)
