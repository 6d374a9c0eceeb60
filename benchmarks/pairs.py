"""Code that benchmarks share: two ways of one task, measured in turn, and the statistics of their times.

A machine's speed changes from minute to minute. So the result is the median of the ratios of pairs, with its interval
by bootstrap.
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.support.hub import LoopbackHub

Hub = TypeVar("Hub", bound=LoopbackHub)

SHARED = "BENCHMARKS_FOLDER"
"""The variable that names the folder of a run of many benchmarks."""


def shared_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables of a run of many benchmarks, one after the other.

    Their processes have huggingface_hub imported, which reads the Hub's address and the home at that time. So each
    serves its Hub at the same address, and begins with the same empty home.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return {
        SHARED: str(folder),
        "TMPDIR": str(folder),
        **_environment(f"http://127.0.0.1:{port}", folder / "home"),
    }


def _environment(url: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


@contextmanager
def empty_hub(kind: Callable[[int], Hub] = LoopbackHub) -> Iterator[tuple[Hub, Path]]:  # type: ignore[assignment]
    """Serve a Hub without models, for this process and its children, with an empty home; yield both."""
    with ExitStack() as stack:
        if SHARED in os.environ:
            hub = stack.enter_context(kind(urlsplit(os.environ["HF_ENDPOINT"]).port or 0))
            home = Path(os.environ["HF_HOME"])
            shutil.rmtree(home, ignore_errors=True)  # From the benchmark before.
            home.mkdir()
        else:
            hub = stack.enter_context(kind(0))
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # Installed packages are compiled.
        os.environ.update(_environment(hub.url, home))
        yield hub, home


@dataclass
class Traffic:
    """The traffic of a Hub."""

    requests: int = 0
    bytes: int = 0


@contextmanager
def traffic(hub: LoopbackHub) -> Iterator[Traffic]:
    """Count the traffic of the Hub while the block runs."""
    sent, start = Traffic(), len(hub.requests)
    yield sent
    answered = hub.requests[start:]
    sent.requests, sent.bytes = len(answered), sum(request.sent for request in answered)


def interleaved(
    ours: Callable[[], Any], theirs: Callable[[], Any], runs: int, before: Callable[[], Any] = gc.collect
) -> list[tuple[float, float]]:
    """Return the seconds of both in every pair. Garbage is collected between the runs, as in `timeit`."""
    pairs = []
    gc.collect()
    gc.freeze()  # PyTorch's objects are not scanned each time, which would take longer than most measurements.
    gc.disable()
    for index in range(runs + 2):
        times = {}
        for call in (ours, theirs) if index % 2 else (theirs, ours):
            before()
            start = time.perf_counter()
            result = call()
            times[call] = time.perf_counter() - start
            del result
        pairs.append((times[ours], times[theirs]))
    gc.enable()
    gc.unfreeze()
    return pairs[2:]


def interval(ratios: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median, by bootstrap."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[1949]


def peak_kilobytes() -> int:
    """Return the process's peak of resident memory. Linux counts it per process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise RuntimeError("this needs Linux")


def forget_peak() -> int:
    """Reset the peak of resident memory; return it."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kilobytes()
