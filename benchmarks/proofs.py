"""How exact tags and `verify --weights` are, in every form of a file after other tools.

    python -m benchmarks.proofs [--quick] [--json]
    python -m benchmarks.proofs --all [NAME ...]

Each architecture in Optimum's table (with `--all`, which takes an hour), with noise on every parameter, is exported
and converted to other forms by ONNX Runtime's and other tools. Without `--all` the rows are those of the last such
run; with `--quick` three architectures are measured.

- Honest: a form without a foreign tensor.
- Found: a change of the weights for which a tensor is foreign or unchecked.
- Exact: a use of a parameter, found by value, whose node gets the tag of the parameter's owner from `htp tag --model`.
- Wrong: a use whose node gets the tag of a module that is neither the owner nor around it.

With `--all`, the figures go to proofs.json, and the table of all architectures to PROOFS.md.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.architectures import ARCHITECTURES
from benchmarks.forms import CHANGES, FLOATS, FORMS, LARGE, without_tags
from benchmarks.fresh import PRELOADED, called
from benchmarks.rows import Row, main, single
from tests.support.zoo import ZOO

STORED = Path(__file__).with_name("proofs.json")
Figures = Counter[tuple[str, str, str]]
"""Counts by kind, form or change, and figure (`made` and `good`, `uses`, `exact` and `wrong`)."""


def figures_of(name: str) -> Figures:
    """Return the measurements of one architecture."""
    import transformers

    from optimum_htp import HTPExporter

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found = Figures()
    with tempfile.TemporaryDirectory() as scratch:
        animal = ARCHITECTURES[name]
        folder = animal.save(Path(scratch, "model"))
        model = getattr(transformers, animal.model).from_pretrained(folder)
        for path in HTPExporter().export(folder, Path(scratch, "out"), task=animal.task).files:
            for form in FORMS:
                made = Path(scratch, "made", "model.onnx")
                made.parent.mkdir(exist_ok=True)
                if not written(name, form, path, made):
                    continue
                _prove(found, name, form, path, made, folder)
                if form in FLOATS:
                    _tag(found, form, made, folder, model)
    return found


def written(name: str, form: str, source: Path, target: Path) -> bool:
    """Write a form of a file; False if no weight of it has that form, or ONNX Runtime cannot create it."""
    for one in target.parent.iterdir():
        one.unlink()
    try:
        FORMS[form](source, target)
    except (ValueError, RuntimeError) as error:
        print(f"{name}: {source.name} cannot be written as {form}: {str(error)[:200]}", file=sys.stderr)
        return False
    return target.exists()


def _prove(found: Figures, name: str, form: str, path: Path, made: Path, folder: Path) -> None:
    """Count whether a form is accepted, and which changes of it are found."""
    import onnx

    from optimum_htp.modules.prove import prove_weights

    proof = prove_weights(made, folder)
    found["honest", form, "made"] += 1
    found["honest", form, "good"] += not proof.foreign
    if proof.foreign:
        print(f"{name}: {path.name} as {form}: {[one.name for one in proof.foreign]} accused", file=sys.stderr)
    for change in CHANGES if form in FLOATS else LARGE:
        model = onnx.load(made if form in FLOATS else path)
        if not CHANGES[change](model):
            continue
        spoilt = made.with_name("spoilt.onnx")
        onnx.save(model, spoilt)
        if form not in FLOATS and not written(name, form, _apart(spoilt, path), made):
            continue
        proof = prove_weights(spoilt if form in FLOATS else made, folder)
        is_found = bool(proof.foreign or proof.unchecked)
        found["changed", change, "made"] += 1
        found["changed", change, "good"] += is_found
        if not is_found:
            print(f"{name}: {change} in {path.name} as {form} not found", file=sys.stderr)


def _apart(spoilt: Path, path: Path) -> Path:
    """Move a changed file to a folder without other forms."""
    return spoilt.rename(path.with_name("spoilt.onnx"))


def _tag(found: Figures, form: str, made: Path, folder: Path, model: object) -> None:
    """Count how exact the tags of a form are."""
    from optimum_htp import tag_file
    from tests.support.weights import weight_uses

    if form != "exported":
        without_tags(made, made, names=form != "without tags and names")
        tag_file(made, model=folder)
    uses = weight_uses(made, model)
    found["tags", form, "uses"] += len(uses)
    found["tags", form, "exact"] += sum(use.exact for use in uses)
    found["tags", form, "wrong"] += sum(not _is_around(use.module or "", use.owners) for use in uses)


def _is_around(module: str, owners: Iterable[str]) -> bool:
    return not module or any(f"{owner}.".startswith(f"{module}.") for owner in owners)


def measured(names: Iterable[str]) -> Iterator[tuple[str, Figures]]:
    """Yield the figures of architectures, measured two at a time, each in a new process."""
    os.environ["HF_HUB_OFFLINE"] = "1"

    def figures(name: str) -> Figures | None:
        try:
            found: Figures = called(figures_of, name, preloaded=PRELOADED)
        except RuntimeError as error:  # The process has printed the reason.
            print(f"{name} is left out: {error}", file=sys.stderr)
            return None
        return found

    names = list(names)
    with ThreadPoolExecutor(2) as pool:
        for name, found in zip(names, pool.map(figures, names), strict=True):
            if found is not None:
                yield name, found


def rows_of(figures: Figures) -> Iterator[Row]:
    """Yield a row for each form and change."""
    for form in FORMS:
        if made := figures["honest", form, "made"]:
            yield _row(f"honest, {form}: accepted", figures["honest", form, "good"], made, "files")
    for change in CHANGES:
        if made := figures["changed", change, "made"]:
            yield _row(f"changed, {change}: found", figures["changed", change, "good"], made, "files")
    for form in FORMS:
        if uses := figures["tags", form, "uses"]:
            yield _row(f"tags, {form}: not wrong", uses - figures["tags", form, "wrong"], uses, "uses")
            yield _row(f"tags, {form}: exact", figures["tags", form, "exact"], uses, "uses", target=None)


def _row(name: str, good: int, made: int, unit: str, target: float | None = 1.0) -> Row:
    return single(name, good, made, "all", unit=unit, target=target, at_least=True)


def table(measured_ones: Mapping[str, Figures]) -> Iterator[str]:
    """Yield the lines of PROOFS.md: for each architecture and form the accepted files and the exact tags."""
    total = Figures()
    yield "# Tags and proofs, for every architecture and form\n"
    yield "`python -m benchmarks.proofs --all` writes this file; its docstring explains the figures.\n"
    yield "Files accepted of those made; for forms of floats also the share of uses of parameters with an exact tag."
    yield f"{len(measured_ones)} of {len(ARCHITECTURES)} architectures are measured.\n"
    yield f"| architecture | {' | '.join(FORMS)} | changes found |"
    yield "|---" * (len(FORMS) + 2) + "|"
    for name in filter(measured_ones.__contains__, ARCHITECTURES):
        figures = measured_ones[name]
        total += figures
        yield f"| {name} | {' | '.join(_cell(figures, form) for form in FORMS)} | {_found(figures)} |"
    yield f"| all | {' | '.join(_cell(total, form) for form in FORMS)} | {_found(total)} |\n"
    yield "| change | found | made |"
    yield "|---|---:|---:|"
    for change in CHANGES:
        yield f"| {change} | {total['changed', change, 'good']} | {total['changed', change, 'made']} |"


def _cell(figures: Figures, form: str) -> str:
    made, uses = figures["honest", form, "made"], figures["tags", form, "uses"]
    if not made:
        return ""
    exact = f", {figures['tags', form, 'exact'] / uses:.0%}" if uses else ""
    wrong = f", {count} wrong" if (count := figures["tags", form, "wrong"]) else ""
    return f"{figures['honest', form, 'good']}/{made}{exact}{wrong}"


def _found(figures: Figures) -> str:
    counts = (sum(figures["changed", change, one] for change in CHANGES) for one in ("good", "made"))
    return "/".join(map(str, counts))


def rows(quick: bool) -> Iterator[Row]:
    """Yield the rows of all architectures in proofs.json; for a quick run three are measured."""
    total = Figures()
    for figures in dict(measured(list(ZOO)[:3])).values() if quick else kept().values():
        total += figures
    yield from rows_of(total)


def kept() -> dict[str, Figures]:
    """Return the figures of the architectures in proofs.json."""
    if not STORED.exists():
        return {}
    content = json.loads(STORED.read_text(encoding="utf-8"))
    return {
        name: Figures({(*key.split(": "),): count for key, count in figures.items()})  # type: ignore[misc]
        for name, figures in content.items()
    }


def write_table(names: Sequence[str]) -> None:
    """Measure architectures, and write PROOFS.md with these and the others in proofs.json."""
    known = kept()
    for name, figures in measured(names or ARCHITECTURES):
        known[name] = figures
        content = {one: {": ".join(key): count for key, count in known[one].items()} for one in sorted(known)}
        STORED.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        STORED.with_name("PROOFS.md").write_text("\n".join(table(known)) + "\n", encoding="utf-8")
        print(name, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--all"]:
        write_table(sys.argv[2:])
    else:
        main(__doc__, rows)
