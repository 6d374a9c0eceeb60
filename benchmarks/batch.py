"""A batch of tiny models, two at a time, against a shell loop over `optimum-cli export onnx`.

    python -m benchmarks.batch [--quick] [--json]

The overhead of a job is the time that each further model adds to the wall time of a batch, less its export, two at a
time: lookup, download, process, digests and journal.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import empty_hub, traffic
from benchmarks.rows import Row, main, single
from tests.support import models
from tests.support.environments import python_of_users

CLI = python_of_users().with_name("optimum-cli")
TAGS = {"bert": "text-classification", "gpt2": "text-generation", "vit": "image-classification"}
SLOTS = 2


def run(*command: object, home: Path | None = None) -> float:
    """Return the time of a command; with `home`, its cache is empty."""
    environment = {**os.environ, **({} if home is None else {"HF_HOME": str(home)})}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, env=environment, **quiet)
    return time.perf_counter() - start


def seconds_of(journal: Path) -> float:
    """Return the total time of the exports of a batch."""
    entries = map(json.loads, journal.read_text().splitlines())
    return float(sum(entry["seconds"] for entry in entries if entry["event"] == "end"))


def overhead(names: list[str], few: int, place: Path) -> float:
    """Return the overhead of each model after the first few, in seconds; at least 1 ms."""
    wall, exports = [], []
    for count in (few, len(names)):
        out, listed = place / str(count), place / f"{count}.txt"
        out.mkdir(parents=True)
        listed.write_text("\n".join(names[:count]))
        wall.append(run(CLI, "htp", "batch", listed, "-o", out, "--jobs", SLOTS, home=place / f"{count}-home"))
        exports.append(seconds_of(out / "batch.jsonl"))
    return max(1e-3, (wall[1] - wall[0] - (exports[1] - exports[0]) / SLOTS) / (len(names) - few))


def rows(quick: bool) -> Iterator[Row]:
    count, few, turns = (2, 1, 0) if quick else (12, 4, 3)
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory() as place:
        names = []
        for index in range(count):
            kind = list(TAGS)[index % len(TAGS)]
            folder = Path(place, "models", kind)
            if not folder.exists():
                folder.mkdir(parents=True)
                getattr(models, kind)(folder)
            hub.add(f"tiny/{kind}-{index}", folder, pipeline_tag=TAGS[kind], library_name="transformers")
            names.append(f"tiny/{kind}-{index}")
        listed, out = Path(place, "models.txt"), Path(place, "out")
        listed.write_text("\n".join(names))
        with hub.recorded() as requests, traffic(hub) as sent:
            ours = run(CLI, "htp", "batch", listed, "-o", out, "--jobs", SLOTS)
        files = len({request.path for request in requests if "/resolve/" in request.path})
        with traffic(hub) as theirs_sent:
            theirs = sum(run(CLI, "export", "onnx", "--model", name, Path(place, "theirs", name)) for name in names)
        again = run(CLI, "htp", "batch", listed, "-o", out, "--jobs", SLOTS)
        beyond = [overhead(names, few, Path(place, f"turn-{turn}")) for turn in range(turns)]
    against = "a loop over optimum-cli export onnx"
    name = f"{count} tiny models, {SLOTS} at a time"
    yield single(name, ours, theirs, against, unit="s", target=1 / 1.7)
    yield single(f"{name}: requests", sent.requests, theirs_sent.requests, against, unit="requests")
    bound = 2 * files + 3 * count
    yield single(f"{name}: requests", sent.requests, bound, "2 a file and 3 a model", unit="requests", target=1.0)
    if beyond:
        title = f"{name}: each further job, beyond its export"
        yield single(title, statistics.median(beyond), 0.2, "0.2 s", unit="s", target=1.0)
    yield single(f"{name}: a second run", again, ours, "the first", unit="s")


if __name__ == "__main__":
    main(__doc__, rows)
