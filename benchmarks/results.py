"""The results of all benchmarks: stored as JSON, written as Markdown, and compared with an earlier run."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, quantity

PACKAGES = (
    *("optimum-htp", "optimum", "optimum-onnx", "transformers", "huggingface_hub", "onnx", "onnxruntime", "torch"),
    "diffusers",
)
NEWEST = "results-newest.json"
"""The results with transformers 5; `results.json` has all others."""


@dataclass
class Section:
    """The rows of one benchmark. `machine` is the machine, if it differs from that of the other sections."""

    name: str
    title: str
    seconds: float
    rows: list[Row]
    machine: str = ""


@dataclass
class Results:
    """A run: the machine, the form, and the sections in order."""

    machine: dict[str, Any]
    form: str
    sections: list[Section] = field(default_factory=list)

    def add(self, name: str, title: str, rows: list[dict[str, Any]], seconds: float, machine: str = "") -> None:
        self.sections = [section for section in self.sections if section.name != name]
        if rows:  # Without a GPU, its benchmark has no rows.
            self.sections.append(Section(name, title, seconds, [_row(row) for row in rows], machine))

    def keep(self, path: Path) -> None:
        """Copy the sections of an earlier run, with a note if they were measured on another machine or with other
        versions.
        """
        if not path.exists() or (earlier := self.read(path)).form != self.form:
            return
        here, there = ({**known, "date": None} for known in (self.machine, earlier.machine))
        versions = earlier.machine["versions"].items()
        others = [f"{name} {version}" for name, version in versions if self.machine["versions"][name] != version]
        place = "" if here == there else ", ".join([_measured(earlier.machine), *others])
        self.sections = [replace(section, machine=section.machine or place) for section in earlier.sections]

    def rows(self) -> dict[str, Row]:
        """Return all rows by their work and peer."""
        return {f"{row.name} | {row.against}": row for section in self.sections for row in section.rows}

    @property
    def file(self) -> str:
        """Return the name of the results file."""
        return NEWEST if int(self.machine["versions"]["transformers"].partition(".")[0]) >= 5 else "results.json"

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the output of `write`."""
        known = json.loads(path.read_text(encoding="utf-8"))
        results = cls(known["machine"], known["form"])
        for section in known["sections"]:
            results.add(
                *(section[key] for key in ("name", "title", "rows", "seconds")), machine=section.get("machine", "")
            )
        return results


def _row(known: dict[str, Any]) -> Row:
    return Row(**{name: value for name, value in known.items() if name != "holds"})


def machine() -> dict[str, Any]:
    """Return the conditions of the figures: processor, memory, system, and versions."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def write(results: Results, folder: Path, plots: Sequence[str] = ()) -> None:
    """Write the results of a run into a folder, and `RESULTS.md` with those of both stacks and these plots."""
    content = {
        "machine": results.machine,
        "form": results.form,
        "sections": [
            {**asdict(section), "rows": [row.as_dict() for row in section.rows]} for section in results.sections
        ],
    }
    (folder / results.file).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    kept = (folder / name for name in ("results.json", NEWEST))
    stacks = [Results.read(path) for path in kept if path.exists()]
    (folder / "RESULTS.md").write_text(markdown(stacks, plots), encoding="utf-8")


def markdown(stacks: Sequence[Results], plots: Sequence[str]) -> str:
    """Return the report on one or both stacks; the plots are those of the first."""
    lines = [
        "# Results",
        "",
        "Each figure is next to the peer's from the same run. A ratio is ours divided by theirs, the median of pairs",
        "with its 95 % interval where runs vary.",
    ]
    for results in stacks:
        box, is_newest = results.machine, results.file == NEWEST
        promised = [row for row in results.rows().values() if row.holds is not None]
        held = sum(row.holds is True for row in promised)
        command = "make bench STACK=newest" if is_newest else "make bench"
        lines += [
            "",
            *(("# With transformers 5", "") if is_newest else ()),
            f"`{command}` ({results.form}) {_measured(box)}, {box['system']}, Python {box['python']}.",
            ", ".join(f"{name} {version}" for name, version in box["versions"].items()) + ".",
            f"{held} of {len(promised)} targets hold." if promised else "Targets are those of the full form.",
        ]
        if results is stacks[0] and plots:
            lines += ["", *(f"![{Path(name).stem}](plots/{name})" for name in plots)]
        for section in results.sections:
            seconds = f"`python -m benchmarks.{section.name}` ({section.seconds:.0f} s)"
            seconds += f", measured {section.machine}" if section.machine else ""
            lines += ["", f"## {section.title}", "", seconds, ""]
            lines += ["| | ours | theirs | ratio | target | against |", "|---|---:|---:|---:|---:|---|"]
            lines += [_line(row) for row in section.rows]
    return "\n".join(lines) + "\n"


def _measured(box: dict[str, Any]) -> str:
    return f"on {box['date']}: {box['cores']} cores of {box['cpu']}, {box['memory_gib']} GiB"


def _line(row: Row) -> str:
    ratio = f"{row.ratio:.3g}" + (f" ({row.low:.3g} to {row.high:.3g})" if row.low != row.high else "")
    goal = ""
    if row.target is not None:
        goal = f"{'≥' if row.at_least else '≤'} {row.target:g} {'holds' if row.holds else '**missed**'}"
    figures = f"{quantity(row.ours, row.unit)} | {quantity(row.peer, row.unit)}"
    return f"| {row.name} | {figures} | {ratio} | {goal} | {row.against} |"


def slower(old: Results, new: Results) -> list[str]:
    """Return a line for each ratio that got worse by more than both intervals, or whose target is now missed."""
    before, lines = old.rows(), []
    for name, row in new.rows().items():
        if (earlier := before.get(name)) is None:
            continue
        worse = row.high < earlier.low * 0.95 if row.at_least else row.low > earlier.high * 1.05
        if worse or (earlier.holds and row.holds is False):
            lines.append(f"{name}: {earlier.ratio:.3g} -> {row.ratio:.3g} ({row.low:.3g} to {row.high:.3g})")
    return lines
