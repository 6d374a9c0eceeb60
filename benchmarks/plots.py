"""Plots of results as SVG: all ratios as bars on a log scale, and series as lines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.rows import Row

if TYPE_CHECKING:
    from benchmarks.results import Section

HELD, MISSED, PLAIN, THEIRS = "#2a9d8f", "#d1495b", "#577590", "#9a9a9a"
MOST_DECADES = 4


def plot(sections: Sequence[Section], folder: Path) -> list[str]:
    """Write the plots into a folder; return the files' names."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "optimum-htp", "svg.fonttype": "none", "font.size": 8})
    folder.mkdir(exist_ok=True)
    alone = [row for section in sections for row in section.rows if row.series is None or row.target is not None]
    grown: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for section in sections:
        for row in section.rows:
            if row.series is not None:
                grown[row.series, row.unit].append(row)
    names = []
    if alone:
        names.append(_saved(_bars(alone), folder / "ratios.svg"))
    for (series, _), rows in grown.items():
        names.append(_saved(_lines(series, rows), folder / f"{series.replace(' ', '-')}.svg"))
    return names


def _saved(figure: Any, path: Path) -> str:
    import matplotlib.pyplot as plt

    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", facecolor="white")
    plt.close(figure)
    return path.name


def _bars(rows: Sequence[Row]) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.2 * len(rows) + 0.8))
    shown = [max(row.ratio, 10.0**-MOST_DECADES) for row in rows]
    colors = [{True: HELD, False: MISSED, None: PLAIN}[row.holds] for row in rows]
    places = range(len(rows))
    axes.barh(places, [value - 1 for value in shown], left=1, color=colors, height=0.65)
    for place, row, value in zip(places, rows, shown, strict=True):
        if row.low != row.high:
            low, high = (max(end, 10.0**-MOST_DECADES) for end in (row.low, row.high))
            axes.plot((low, high), (place, place), color="black", linewidth=0.8)
        if row.target is not None:
            axes.plot((row.target,) * 2, (place - 0.4, place + 0.4), color="black", linewidth=1.2)
        label = f"{row.ratio:.2g}"
        axes.annotate(label, (max(value, row.high, 1), place), (4, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{row.name}  ({row.against})" for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.6)
    axes.set_xlabel("ours / theirs (log scale); green: the target (bar) is reached, red: missed, blue: none was set")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _lines(series: str, rows: Sequence[Row]) -> Any:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 3))
    kinds: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.at or 0):
        kinds[row.name.partition(",")[0]].append(row)
    for marker, (kind, points) in zip("osD^v*", kinds.items(), strict=False):
        peer = Counter(point.against for point in points).most_common(1)[0][0]
        points = [point for point in points if point.against == peer]
        at = [point.at for point in points]
        axes.plot(at, [point.ours for point in points], color=HELD, marker=marker, label=f"{kind}: ours")
        axes.plot(at, [point.peer for point in points], color=THEIRS, marker=marker, label=f"{kind}: {peer}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(series)
    axes.set_ylabel({"s": "seconds"}.get(rows[0].unit, rows[0].unit))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(kinds))
    axes.spines[["top", "right"]].set_visible(False)
    return figure
