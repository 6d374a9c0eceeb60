"""Our tags against those of winml-cli, the other maintained exporter with tags, each in its own environment.

    make .venv-winml/installed
    python -m benchmarks.peers [--quick] [--json]

A module is distinguished if none of the nodes that use its parameters shares its tag with another module's. winml-cli
tags no module of torch.nn, so a tag is right if it is that of the module whose parameter the node uses, or of the
outer module. Parameters are found by value in the exported file.

winml-cli exports with a fixed batch size and does not support all architectures; those are left out.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, main, single

ROOT = Path(__file__).parents[1]
PYTHON = ROOT / ".venv-winml" / "bin" / "python"
MODELS = {
    "BERT": ("bert", "text-classification", "AutoModelForSequenceClassification"),
    "ViT": ("vit", "image-classification", "AutoModelForImageClassification"),
}
WINML = """
import json, sys, time
import transformers
from winml.modelkit.export.config import resolve_export_config
from winml.modelkit.export.htp import HTPExporter
folder, task, model_class, output = sys.argv[1:]
model = getattr(transformers, model_class).from_pretrained(folder).eval()
config = resolve_export_config(folder, task=task)[0]
times = []
for _ in range(3):
    start = time.perf_counter()
    HTPExporter().export(model=model, output_path=output, export_config=config, model_name_or_path=folder)
    times.append(time.perf_counter() - start)
print(json.dumps(min(times)))
"""


def theirs(folder: Path, task: str, model_class: str, output: Path) -> float:
    """Export a model with winml-cli, in its environment; return the seconds of the best of three."""
    arguments = map(str, (folder, task, model_class, output))
    done = subprocess.run([PYTHON, "-c", WINML, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(json.loads(done.stdout.splitlines()[-1]))


def ours(folder: Path, task: str, output: Path) -> float:
    """Export a model with our exporter; return the seconds of the best of three."""
    from optimum_htp import HTPExporter

    times = []
    for _ in range(3):
        start = time.perf_counter()
        HTPExporter().export(folder, output, task=task)
        times.append(time.perf_counter() - start)
    return min(times)


def uses(path: Path, model: Any, key: str) -> list[tuple[str, frozenset[str]]]:
    """Return the tag of each node that uses a parameter, and the modules that own it."""
    from tests.support.weights import weight_uses

    return [(use.module or "", use.owners) for use in weight_uses(path, model, key)]


def told_apart(found: list[tuple[str, frozenset[str]]]) -> float:
    """Return the share of modules with parameters, in percent, whose tags no other module has."""
    modules: dict[str, set[frozenset[str]]] = defaultdict(set)
    for tag, owners in found:
        modules[tag].add(owners)
    everyone = {owners for _, owners in found}
    mixed = {owners for shared in modules.values() if len(shared) > 1 for owners in shared}
    return 100 * len(everyone - mixed) / len(everyone)


def right(found: list[tuple[str, frozenset[str]]], tag_of: Callable[[str], str]) -> float:
    """Return the share of uses, in percent, whose tag is that of an owner or of the outer module."""
    shares = [
        tag in {tag_of(name) for owner in owners for name in (owner, owner.rpartition(".")[0])}
        for tag, owners in found
    ]
    return 100 * sum(shares) / len(found)


def class_path(model: Any, name: str) -> str:
    """Return a module's tag in the form of winml-cli: classes, with the indices of those in lists."""
    parts, at = [type(model).__name__], model
    for part in name.split(".") if name else ():
        at = getattr(at, part)
        if type(at).__name__ not in ("ModuleList", "Sequential"):
            parts.append(type(at).__name__ + (f".{part}" if part.isdigit() else ""))
    return "/" + "/".join(parts)


def rows(quick: bool) -> Iterator[Row]:
    import transformers

    from tests.support import models

    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is missing; run `make .venv-winml/installed` first")
    against = "winml-cli 0.4.0"
    with tempfile.TemporaryDirectory() as place:
        for name, (builder, task, model_class) in list(MODELS.items())[: 1 if quick else None]:
            folder = getattr(models, builder)(Path(place, builder))
            our_place, their_place = Path(place, f"{builder}-ours"), Path(place, f"{builder}-theirs.onnx")
            seconds = ours(folder, task, our_place)
            their_seconds = theirs(folder, task, model_class, their_place)
            model = getattr(transformers, model_class).from_pretrained(folder)
            mine = uses(our_place / "model.onnx", model, "htp.module")
            others = uses(their_place, model, "winml.hierarchy.tag")
            yield single(
                f"tags of a tiny {name}: distinguished modules",
                told_apart(mine),
                told_apart(others),
                against,
                unit="%",
                target=1.0,
                at_least=True,
            )
            their_share = right(others, lambda owner, model=model: class_path(model, owner))
            yield single(
                f"tags of a tiny {name}: at the parameter's owner or around it",
                right(mine, str),
                their_share,
                against,
                unit="%",
                target=1.0,
                at_least=True,
            )
            yield single(f"export a tiny {name} with tags, warm", seconds, their_seconds, against, unit="s")


if __name__ == "__main__":
    main(__doc__, rows)
