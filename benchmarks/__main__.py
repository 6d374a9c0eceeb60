"""Run every benchmark beside the peer's own code, and write what came of it.

    python -m benchmarks [--quick] [--only NAME ...] [--out benchmarks]
    python -m benchmarks --compare OLD.json NEW.json

Each benchmark runs in a process of its own. `RESULTS.md`, `results.json` and the plots are written anew as each ends,
so that a run that is broken off has told what it knew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.results import Results, machine, slower, write

BENCHMARKS = {
    "onnxfile": "Reading, stamping and tagging files",
    "remote": "Files on a Hub",
    "exports": "Export",
    "hierarchy": "Tags",
    "peers": "Tags beside winml-cli's",
    "loading": "Loads, first and cached",
    "mapping": "Loads with mapped weights",
    "embedding": "Files that carry what a model needs",
    "bystanders": "What others feel",
    "commands": "Commands without PyTorch",
    "injecting": "Many files",
    "batch": "Many models",
    "modules": "Cutting modules out",
    "comparing": "Comparing",
}


def measured(name: str, quick: bool) -> list[dict[str, object]]:
    """Run one benchmark and return its rows.

    Raises:
        RuntimeError: It failed; the message has the end of what it said.
    """
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    start = done.stdout.index("[\n") if "[\n" in done.stdout else done.stdout.index("[]")
    rows: list[dict[str, object]] = json.loads(done.stdout[start:])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Fewer runs and smaller files.")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        default=list(BENCHMARKS),
        metavar="NAME",
        help="These alone; what is known of the others on this machine stays.",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="Folder for the results.")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="Say what got slower.")
    arguments = parser.parse_args()
    if arguments.compare:
        old, new = (Results.read(path) for path in arguments.compare)
        lines = slower(old, new)
        print("\n".join(lines) or "Nothing got slower.")
        return 1 if lines else 0
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = Results(machine(), "quick" if arguments.quick else "full")
    if arguments.only != list(BENCHMARKS):
        results.keep(arguments.out / "results.json")
    failed = False
    for name in arguments.only:
        start = time.perf_counter()
        print(f"{BENCHMARKS[name]} ...", end=" ", flush=True)
        try:
            rows = measured(name, arguments.quick)
        except RuntimeError as error:
            print(error)
            failed = True
            continue
        seconds = time.perf_counter() - start
        results.add(name, BENCHMARKS[name], rows, seconds)
        results.sections.sort(key=lambda section: list(BENCHMARKS).index(section.name))
        write(results, arguments.out)
        missed = sum(row["holds"] is False for row in rows)
        print(f"{len(rows)} figures in {seconds:.0f} s" + (f", {missed} missed" if missed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
