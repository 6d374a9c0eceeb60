"""Run all reliability trials, and write the losses.

    python -m benchmarks.reliability [--quick | --long] [--only NAME ...] [--out benchmarks]

Each kind of trial runs in its own process. `RELIABILITY.md` is written after each one; with `--only`, the sections of
the others are kept.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.reliability.trials import Form, Trial, table
from benchmarks.results import machine

KINDS = {
    "kills": "Killed",
    "storage": "Disks and files",
    "crowds": "Concurrent processes and threads",
    "misbehaving": "A faulty Hub",
    "foreign_files": "Foreign files",
    "planted": "Planted files",
    "fuzzing": "Fuzzing",
}
ROUNDS = (("kills",), ("crowds", "storage"), ("foreign_files", "misbehaving"), ("planted",), ("fuzzing",))
"""Trials that run at the same time: of a pair, one is busy on one core, the other waits."""
FLAGS = {Form.QUICK: ["--quick"], Form.USUAL: [], Form.LONG: ["--long"]}
HEAD = """# Reliability

`make reliability`: the trials, their number, and the losses. A file is lost if it is neither in its old nor in its new
state. An error is a loss if it is not an error of this package. An answer is a loss if it is wrong.
"""


def tried(name: str, form: Form) -> list[Trial]:
    """Run one kind of trial and return the results.

    Raises:
        RuntimeError: It failed; the message contains the end of its output.
    """
    command = [sys.executable, "-m", f"benchmarks.reliability.{name}", "--json", *FLAGS[form]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout[done.stdout.index("[\n") :])
    return [Trial(**{**one, "lost": tuple(one["lost"])}) for one in found]


def timed(name: str, form: Form) -> tuple[list[Trial], float]:
    """Run one kind of trial, and return the results and the seconds."""
    start = time.perf_counter()
    return tried(name, form), time.perf_counter() - start


def known_sections(text: str) -> dict[str, str]:
    """Return the sections of a report by their titles."""
    found = (section.partition("\n") for section in text.split("\n## ")[1:])
    return {title: body.strip() for title, _, body in found}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Form.add_to(parser)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME", help="These alone.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1], help="Folder for the report.")
    arguments = parser.parse_args()
    where = "{date}, {cores} cores of {cpu}, {system}, Python {python}".format(**machine())
    report = arguments.out / "RELIABILITY.md"
    keeps = arguments.only != list(KINDS) and report.exists()
    sections = known_sections(report.read_text("utf-8")) if keeps else {}
    failed = False
    begun = time.perf_counter()
    for kinds in ROUNDS:
        names = [name for name in kinds if name in arguments.only]
        with ThreadPoolExecutor(len(kinds)) as threads:
            rounds = {name: threads.submit(timed, name, arguments.form) for name in names}
        for name, trials in rounds.items():
            print(f"{KINDS[name]} ...", end=" ", flush=True)
            try:
                found, seconds = trials.result()
            except RuntimeError as error:
                print(error)
                failed = True
                continue
            lost = sum(len(trial.lost) for trial in found)
            command = " ".join(["python -m", f"benchmarks.reliability.{name}", *FLAGS[arguments.form]])
            lines = [f"`{command}` ({seconds:.0f} s; {where})", "", *table(found)]
            sections[KINDS[name]] = "\n".join(lines)
            texts = [HEAD, *(f"## {title}\n\n{sections[title]}\n" for title in KINDS.values() if title in sections)]
            report.write_text("\n".join(texts), encoding="utf-8")
            print(f"{sum(trial.times for trial in found):,} times in {seconds:.0f} s, {lost} lost")
            failed = failed or lost > 0
    print(f"{(time.perf_counter() - begun) / 60:.0f} minutes")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
