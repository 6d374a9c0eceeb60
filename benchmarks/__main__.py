"""Run all benchmarks next to the peer's own code, and write the results.

    python -m benchmarks [--quick] [--only NAME ...] [--out FOLDER]
    python -m benchmarks --compare OLD.json NEW.json

Each benchmark runs in its own process. `RESULTS.md` and `results.json` are written after each one, so an interrupted
run keeps its results. The plots are made at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.fresh import PRELOADED, called, started
from benchmarks.pairs import shared_environment
from benchmarks.plots import plot
from benchmarks.results import NEWEST, Results, machine, slower, write
from benchmarks.rows import rows_of

BENCHMARKS = {
    "onnxfile": "Reading, stamping and tagging files",
    "remote": "Files on a Hub",
    "traffic": "Requests of a Hub",
    "exports": "Export",
    "hierarchy": "Tags",
    "proofs": "Proofs of weights",
    "peers": "Tags compared with winml-cli",
    "loading": "Loads, first and cached",
    "mapping": "Loads with mapped weights",
    "gpu": "Loads on a GPU",
    "embedding": "Embedded files",
    "bystanders": "Cost for other code",
    "commands": "Commands without PyTorch",
    "answers": "First answers",
    "injecting": "Many files",
    "batch": "Many models",
    "modules": "Extracting modules",
    "comparing": "Comparing",
}
# Benchmarks that depend on the versions of transformers and Optimum; with transformers 5, only these run by default.
OF_THE_STACK = ("exports", "loading", "mapping", "commands", "answers")


def succeeded(name: str, arguments: argparse.Namespace, results: Results, log: Path) -> bool:
    """Run one benchmark, write all results, and print a summary; return whether it succeeded."""
    start = time.perf_counter()
    print(f"{BENCHMARKS[name]} ...", end=" ", flush=True)
    try:
        rows = called(rows_of, name, arguments.quick, preloaded=PRELOADED)
    except RuntimeError as error:
        print(f"{error}:\n{log.read_text(errors='replace')[-4000:]}")
        return False
    seconds = time.perf_counter() - start
    results.add(name, BENCHMARKS[name], rows, seconds)
    results.sections.sort(key=lambda section: list(BENCHMARKS).index(section.name))
    write(results, arguments.out)
    missed = sum(row["holds"] is False for row in rows)
    print(f"{len(rows)} figures in {seconds:.0f} s" + (f", {missed} missed" if missed else ""))
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="Fewer runs, smaller files, no targets; at most three minutes."
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        metavar="NAME",
        help="Run only these; the results of the others are kept.",
    )
    parser.add_argument("--out", type=Path, help="Folder for the results; `benchmarks`, or `out/benchmarks`.")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="Report slower results.")
    arguments = parser.parse_args()
    if arguments.compare:
        old, new = (Results.read(path) for path in arguments.compare)
        lines = slower(old, new)
        print("\n".join(lines) or "Nothing got slower.")
        return 1 if lines else 0
    here = Path(__file__).parent
    arguments.out = arguments.out or (here.with_name("out") / "benchmarks" if arguments.quick else here)
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(machine(), "quick" if arguments.quick else "full")
    if arguments.only is not None:
        results.keep(arguments.out / results.file)
    arguments.only = arguments.only or (OF_THE_STACK if results.file == NEWEST else tuple(BENCHMARKS))
    with tempfile.TemporaryDirectory() as shared:
        os.environ.update(shared_environment(Path(shared)))
        started(log := Path(shared, "log.txt"))
        failed = [name for name in arguments.only if not succeeded(name, arguments, results, log)]
    plots = arguments.out / "plots"
    drawn = (
        sorted(path.name for path in plots.glob("*.svg")) if results.file == NEWEST else plot(results.sections, plots)
    )
    write(results, arguments.out, drawn)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
