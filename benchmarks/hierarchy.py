"""What tags cost and how right they are.

    python -m benchmarks.hierarchy [--runs N]

Cost: the wall time of MiniLM's export with tags against the same without, interleaved, in one
warm process, and the bytes that tags take per node. Right: over the architectures of the tests, the share of uses of
parameters (matched by value) whose node is tagged with the parameter's owner.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import tempfile
import warnings
from pathlib import Path

import transformers

from benchmarks.pairs import compared, interleaved
from tests.support import models
from tests.support.weights import weight_uses
from tests.support.zoo import ZOO

RUNS = 41


def settle() -> None:
    """Leave nothing of the last run for the next one to wait for."""
    os.sync()
    gc.collect()


def cost(scratch: Path, runs: int) -> None:
    from optimum_htp import HTPExporter
    from optimum_htp.onnxfile import read_graph

    def export(tagged: bool) -> None:
        HTPExporter().export(models.minilm(), scratch / str(tagged), task="feature-extraction", hierarchy=tagged)

    pairs = interleaved(lambda: export(True), lambda: export(False), runs, settle)
    with_tags, without, ratio = compared(pairs)
    print(f"export of MiniLM, {runs} interleaved runs: with tags {with_tags:.2f} s, without {without:.2f} s, {ratio}")
    files = {tagged: scratch / str(tagged) / "model.onnx" for tagged in (True, False)}
    count = len(read_graph(files[True]).nodes)
    grown = files[True].stat().st_size - files[False].stat().st_size
    print(f"{grown / count:.0f} bytes a node ({count} nodes)")


def right(scratch: Path) -> None:
    from optimum_htp import HTPExporter

    uses = exact = 0
    for name, animal in ZOO.items():
        folder = animal.save(scratch / name / "model")
        result = HTPExporter().export(folder, scratch / name / "out", task=animal.task)
        model = getattr(transformers, animal.model).from_pretrained(folder)
        found = [use for path in result.files for use in weight_uses(path, model)]
        wrong = [use for use in found if not use.exact]
        uses, exact = uses + len(found), exact + len(found) - len(wrong)
        print(f"{name:16} {len(found):5} uses of parameters, {len(wrong)} not at their owner", end="")
        print(f" ({', '.join(sorted({use.op_type for use in wrong}))})" if wrong else "")
    print(f"all: {exact} of {uses}, {exact / uses:.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        cost(Path(folder), arguments.runs)
        right(Path(folder))


if __name__ == "__main__":
    main()
