"""The cost of tags, and how exact they are.

    python -m benchmarks.hierarchy [--quick] [--json]

Cost: the wall time of MiniLM's export (a tiny BERT's in the quick form) with tags against the same without,
interleaved, in one warm process, and the bytes per node. Exactness: over the architectures of the tests, the share of
uses of parameters (matched by value) whose node is tagged with the parameter's owner.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import transformers

from benchmarks.pairs import interleaved
from benchmarks.rows import Row, main, paired, single
from tests.support import models
from tests.support.weights import weight_uses
from tests.support.zoo import ZOO


def settle() -> None:
    """Finish pending work of the last run."""
    os.sync()
    gc.collect()


def cost(scratch: Path, name: str, model: Path, task: str, runs: int) -> Iterator[Row]:
    from optimum_htp import HTPExporter
    from optimum_htp.onnxfile import read_graph

    def export(tagged: bool) -> None:
        HTPExporter().export(model, scratch / str(tagged), task=task, hierarchy=tagged)

    pairs = interleaved(lambda: export(True), lambda: export(False), runs, settle)
    yield paired(f"export {name} with tags, warm", pairs, "the same without tags", target=1.1)
    files = {tagged: scratch / str(tagged) / "model.onnx" for tagged in (True, False)}
    count = len(read_graph(files[True]).nodes)
    with_tags, without = (files[tagged].stat().st_size for tagged in (True, False))
    title = f"file of {name} with tags ({count} nodes, {(with_tags - without) / count:.0f} bytes each)"
    yield single(title, with_tags, without, "the same without tags", unit="bytes", target=1.01)


def right(scratch: Path, names: Sequence[str]) -> Iterator[Row]:
    from optimum_htp import HTPExporter

    uses = exact = 0
    for name in names:
        animal = ZOO[name]
        folder = animal.save(scratch / name / "model")
        result = HTPExporter().export(folder, scratch / name / "out", task=animal.task)
        model = getattr(transformers, animal.model).from_pretrained(folder)
        found = [use for path in result.files for use in weight_uses(path, model)]
        wrong = [use for use in found if not use.exact]
        uses, exact = uses + len(found), exact + len(found) - len(wrong)
        if wrong:
            print(f"{name}: {', '.join(sorted({use.op_type for use in wrong}))} not at the owner", file=sys.stderr)
    name = f"tags at the parameter's owner, {len(names)} architectures"
    yield single(name, exact, uses, "all uses of parameters", unit="uses", target=0.99, at_least=True)


def rows(quick: bool) -> Iterator[Row]:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        if quick:
            bert = models.bert(Path(folder) / "bert")
            yield from cost(Path(folder), "a tiny BERT", bert, "text-classification", 9)
        else:
            yield from cost(Path(folder), "MiniLM", models.minilm(), "feature-extraction", 9)
        yield from right(Path(folder), list(ZOO)[:4] if quick else list(ZOO))


if __name__ == "__main__":
    main(__doc__, rows)
