"""The operations on files that trials disturb, and their folders before and after.

An operation works in one folder. The trial disturbs it in a copy of that folder; afterwards each file is the old or
the new one, byte for byte, and a repeated operation gives the new folder. Copies are hard links: a replacement
creates a new file, and a write in place would change the original too.
"""

from __future__ import annotations

import filecmp
import logging
import multiprocessing
import os
import resource
import shutil
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.support import models
from tests.support.hub import LoopbackHub

REPO = "org/model"
EPOCH = "1700000000"  # so that repetitions are equal
PRELOADED = [
    *("torch", "onnx", "onnxruntime", "transformers.models.bert.modeling_bert", "optimum.exporters.onnx"),
    *("optimum.exporters.onnx.model_configs", "optimum_htp.export.exporter", "optimum_htp.modules.extract"),
    *("optimum_htp.stamping.inject", "optimum_htp.stamping.tag", "optimum_htp.stamping.originals"),
    *("optimum.commands.optimum_cli", "optimum_htp.extras.batch.command", "optimum_htp.export.preload"),
]


def _inject(folder: Path) -> None:
    from optimum_htp import inject_hub_metadata

    inject_hub_metadata(folder / "model.onnx", REPO)


def _strip(folder: Path) -> None:
    from optimum_htp import strip_metadata

    strip_metadata(folder / "model.onnx")


def _tag(folder: Path) -> None:
    from optimum_htp import tag_file

    tag_file(folder / "model.onnx")


def _embed(folder: Path) -> None:
    from optimum_htp import embed_files

    embed_files(folder / "model.onnx")


def _unembed(folder: Path) -> None:
    from optimum_htp import unembed_files

    unembed_files(folder / "model.onnx")


def _extract(folder: Path) -> None:
    from optimum_htp import extract_module

    extract_module(folder / "model.onnx", "bert.embeddings", folder / "part.onnx")


def _export(folder: Path) -> None:
    from optimum_htp import HTPExporter

    HTPExporter().export(REPO, folder / "out", task="text-classification", cache_dir=folder / "cache")


CALLS: dict[str, Callable[[Path], None]] = {
    "inject": _inject,
    "strip": _strip,
    "tag": _tag,
    "embed": _embed,
    "unembed": _unembed,
    "extract": _extract,
    "export": _export,
}


@dataclass(frozen=True)
class Fault:
    """The exception of an operation."""

    kind: str
    is_typed: bool
    message: str

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        from optimum_htp.errors import OptimumHTPError

        return cls(type(error).__name__, isinstance(error, OptimumHTPError), str(error)[:300])

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}"


@dataclass(frozen=True)
class Running:
    """A running operation."""

    process: Any
    telling: Connection

    def killed(self) -> bool:
        """Kill it, and return whether it had ended before."""
        self.process.kill()
        self.process.join()
        self.telling.close()
        return bool(self.process.exitcode == 0)

    def fault(self) -> Fault | None:
        """Wait until it ends, and return its exception."""
        try:
            fault: Fault | None = self.telling.recv()
        except EOFError:
            fault = Fault("death", False, "")
        self.process.join()
        self.telling.close()
        return fault


@dataclass(frozen=True)
class Operation:
    """An operation in a folder.

    Attributes:
        name: Its name in `CALLS`.
        begin: The folder before it.
        end: The folder after it.
        seconds: Its duration, from the start to the report of its end.
    """

    name: str
    begin: Path
    end: Path
    seconds: float

    def copy(self, place: Path) -> Path:
        """Create the folder before the operation again."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.begin, place, symlinks=True, copy_function=os.link)
        return place

    def torn(self, place: Path) -> list[str]:
        """Return the files that are neither the old nor the new ones."""
        before, after, found = (_files(folder) for folder in (self.begin, self.end, place))
        both = before.keys() & after.keys()
        lost = [f"{name} is gone" for name in sorted(both - found.keys())]
        for name in sorted(found.keys() & (before.keys() | after.keys())):
            if not any(name in side and _same(found[name], side[name]) for side in (before, after)):
                lost.append(f"{name} is neither old nor new")
        return lost

    def unfinished(self, place: Path) -> list[str]:
        """Return the differences of a folder from the one after the operation."""
        after, found = _files(self.end), _files(place, hidden=True)
        missing = [f"{name} is missing" for name in sorted(after.keys() - found.keys())]
        left = [f"{name} is left over" for name in sorted(found.keys() - _files(self.end, hidden=True).keys())]
        return missing + left + [f"{name} is not new" for name in after if not _same(found.get(name), after[name])]


def _files(folder: Path, *, hidden: bool = False) -> dict[str, Path]:
    """Return the files below a folder by name, without locks and partial files of huggingface_hub's cache."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        of_the_cache = ".locks" in name.parts or path.suffix == ".incomplete"
        if path.is_file() and not of_the_cache and (hidden or not any(part.startswith(".") for part in name.parts)):
            found[name.as_posix()] = path
    return found


def _same(path: Path | None, other: Path) -> bool:
    return path is not None and (path.samefile(other) or filecmp.cmp(path, other, shallow=False))


class Laboratory:
    """A Hub with a model of two commits, and the operations on exports of it.

    Args:
        hub: The Hub for this process and its children.
        root: Folder for everything.
        megabytes: The model's size; 0 for a tiny one.
    """

    def __init__(self, hub: LoopbackHub, root: Path, megabytes: int = 0) -> None:
        os.environ.update(SOURCE_DATE_EPOCH=EPOCH, HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
        os.environ["HF_HUB_ETAG_TIMEOUT"] = "60"  # this Hub must first compute the digests of large files
        self.hub, self.root = hub, root
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        source = models.bert(root / "source")
        if megabytes:
            _widen(source, megabytes)
        self.repo = hub.add(REPO, source, pipeline_tag="text-classification", library_name="transformers")
        first = self.repo.refs["main"]
        files = {**self.repo.commits[first], "README.md": b"another commit"}
        self.second = self.repo.commit(files)
        self._operations: dict[str, Operation] = {}
        self._begin_with = {"export": self._made("old-export", "export", None, first)}
        stamped = self._made("stamped", "export", self._begin_with["export"])
        whole, plain = root / "whole", root / "plain"
        for folder in (whole, plain):
            folder.mkdir()
            shutil.copyfile(stamped / "out" / "model.onnx", folder / "model.onnx")
        self._finish("strip", plain)
        bare = self._made("bare", "unembed", whole)
        self._begin_with |= dict.fromkeys(("strip", "unembed", "extract"), whole)
        self._begin_with |= {**dict.fromkeys(("inject", "tag"), plain), "embed": bare}

    def operation(self, name: str) -> Operation:
        """Return the results of an operation without faults. It runs a few times when they are first needed."""
        if name in self._operations:
            return self._operations[name]
        begin = self._begin_with[name]
        end = self._made(f"{name}-end", name, begin)
        times = [self._finish(name, self._copied(begin, self.root / "again")) for _ in range(3)]
        self._operations[name] = Operation(name, begin, end, statistics.median(times))
        return self._operations[name]

    def started(self, name: str, place: Path, largest: int | None = None) -> Running:
        """Start an operation in a new process with a limit for the size of files; return when it begins."""
        receiving, sending = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_called, args=(name, place, sending, largest))
        process.start()
        sending.close()
        receiving.recv()
        return Running(process, receiving)

    def _finish(self, name: str, place: Path) -> float:
        """Run an operation without a fault, and return the seconds."""
        running, start = self.started(name, place), time.perf_counter()
        running.telling.poll(None)  # until the report of its end; the process ends later
        seconds = time.perf_counter() - start
        if (fault := running.fault()) is not None:
            raise RuntimeError(f"{name} in {place} failed undisturbed: {fault}")
        return seconds

    def _made(self, folder: str, name: str, begin: Path | None, commit: str | None = None) -> Path:
        """Return a folder after an operation, with the Hub's branch at a commit."""
        place = self.root / folder
        if begin is None:
            place.mkdir()
        else:
            self._copied(begin, place)
        if commit is not None:
            self.repo.refs["main"] = commit
        self._finish(name, place)
        self.repo.refs["main"] = self.second
        return place

    def _copied(self, begin: Path, place: Path) -> Path:
        shutil.rmtree(place, ignore_errors=True)
        return Path(shutil.copytree(begin, place, symlinks=True, copy_function=os.link))


def _widen(folder: Path, megabytes: int) -> None:
    """Give a model enough words for this size."""
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(megabytes * 2**20 // (4 * model.config.hidden_size), mean_resizing=False)
    model.save_pretrained(folder)


def silent() -> None:
    """Discard all output until this process ends."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _called(name: str, place: Path, telling: Connection, largest: int | None) -> None:
    silent()
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))  # Python ignores the signal of this limit
    telling.send(None)
    try:
        CALLS[name](place)
    except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
        telling.send(Fault.of(error))
    else:
        telling.send(None)


def places() -> Iterator[Path]:
    """Yield the fastest folder for files: the speed of a disk does not matter in these trials."""
    for place in (Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp"))):
        if place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > 6 << 30:
            yield place
