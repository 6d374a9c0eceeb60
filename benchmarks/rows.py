"""A figure of this package and the peer's, from the same run: the result of every benchmark."""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from benchmarks.pairs import interval


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: The work and its subject.
        ours: Our figure, in `unit`.
        peer: The peer's figure, in `unit`.
        unit: `s`, `MiB`, `bytes`, `requests` or `%`.
        against: The peer.
        ratio: Ours divided by the peer's: the median of the pairs' ratios, if there are pairs.
        low: Lower end of the 95 % interval of the ratio; equal to the ratio for a single measurement.
        high: Upper end of that interval.
        target: The target of the ratio, or None without a target.
        at_least: Whether the target is a minimum, not a maximum.
        series: The x axis of a plot, such as `size in MB`; None for a row without a plot.
        at: The position on that axis.
    """

    name: str
    ours: float
    peer: float
    unit: str
    against: str
    ratio: float
    low: float
    high: float
    target: float | None = None
    at_least: bool = False
    series: str | None = None
    at: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the target is reached; None without a target."""
        if self.target is None:
            return None
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "holds": self.holds}


def paired(
    name: str,
    pairs: Sequence[tuple[float, float]],
    against: str,
    *,
    unit: str = "s",
    target: float | None = None,
    at_least: bool = False,
    series: str | None = None,
    at: float | None = None,
) -> Row:
    """Return the row of pairs that were measured in turn, ours first in each."""
    ours, peer = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratios = [one / other for one, other in pairs]
    ratio = statistics.median(ratios)
    return Row(name, ours, peer, unit, against, ratio, *interval(ratios), target, at_least, series, at)


def single(
    name: str,
    ours: float,
    peer: float,
    against: str,
    *,
    unit: str,
    target: float | None = None,
    at_least: bool = False,
    series: str | None = None,
    at: float | None = None,
) -> Row:
    """Return the row of figures that do not vary, such as requests or bytes, or that are the best of several."""
    ratio = ours / peer
    return Row(name, ours, peer, unit, against, ratio, ratio, ratio, target, at_least, series, at)


def quantity(value: float, unit: str) -> str:
    """Return a figure in a readable unit."""
    if unit == "s":
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs")):
            if value >= scale:
                return f"{value / scale:.3g} {name}"
        return f"{value / 1e-6:.3g} µs"
    if unit == "bytes":
        for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
            if value >= scale:
                return f"{value / scale:.3g} {name}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def line(row: Row) -> str:
    """Return a row as a line of the terminal."""
    figures = f"{quantity(row.ours, row.unit):>11} {quantity(row.peer, row.unit):>11}"
    ratio = f"{row.ratio:9.3g} x" + (f" ({row.low:.3g} to {row.high:.3g})" if row.low != row.high else "")
    goal = "" if row.target is None else f"{'>=' if row.at_least else '<='} {row.target:g} {verdict(row)}"
    return f"{row.name:52} {figures} {ratio:30} {goal:18} {row.against}".rstrip()


def verdict(row: Row) -> str:
    return {True: "holds", False: "MISSED", None: ""}[row.holds]


def show(rows: Iterable[Row], *, as_json: bool = False) -> None:
    """Print rows as they arrive, or all of them as JSON."""
    if as_json:
        print(json.dumps([row.as_dict() for row in rows], indent=2))
        return
    for row in rows:
        print(line(row), flush=True)


def rows_of(name: str, quick: bool) -> list[dict[str, Any]]:
    """Run a benchmark of this package in this process, and return its rows."""
    return [row.as_dict() for row in judged(importlib.import_module(f"benchmarks.{name}").rows(quick), quick)]


def judged(rows: Iterable[Row], quick: bool) -> Iterator[Row]:
    """Yield rows, without their targets in the quick form, because those are for the full form."""
    return (replace(row, target=None) if quick else row for row in rows)


def main(description: str | None, rows: Callable[[bool], Iterable[Row]]) -> None:
    """Run a benchmark as a command: `python -m benchmarks.NAME [--quick] [--json]`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="Fewer runs, smaller files, no targets.")
    parser.add_argument("--json", action="store_true", help="Print the rows as JSON.")
    arguments = parser.parse_args()
    show(judged(rows(arguments.quick), arguments.quick), as_json=arguments.json)
