"""What is done to files while the trials disturb it, and the folders that it begins and ends with.

An operation works in one folder. It is disturbed in a copy of the folder that it begins with; afterwards each file is
that of the beginning or that of the end, byte for byte, and when it is done again, the folder is that of the end.
Copies are hard links: what replaces a file writes another, and what writes in place would be seen in the original.
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
EPOCH = "1700000000"  # so that what is done twice is the same twice
PRELOADED = [
    *("torch", "onnx", "onnxruntime", "transformers.models.bert.modeling_bert", "optimum.exporters.onnx"),
    *("optimum.exporters.onnx.model_configs", "optimum_htp.export.exporter", "optimum_htp.modules.extract"),
    *("optimum_htp.stamping.inject", "optimum_htp.stamping.tag", "optimum_htp.stamping.strip"),
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
    """What an operation raised."""

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
    """An operation under way."""

    process: Any
    telling: Connection

    def killed(self) -> bool:
        """Kill it, and tell whether it had ended before."""
        self.process.kill()
        self.process.join()
        self.telling.close()
        return bool(self.process.exitcode == 0)

    def fault(self) -> Fault | None:
        """Wait until it ends, and return what it raised."""
        try:
            fault: Fault | None = self.telling.recv()
        except EOFError:
            fault = Fault("death", False, "")
        self.process.join()
        self.telling.close()
        return fault


@dataclass(frozen=True)
class Operation:
    """Something that is done in a folder.

    Attributes:
        name: Its name in `CALLS`.
        begin: The folder that it begins with.
        end: What that is when it is done.
        seconds: How long it takes, from its beginning until it tells how it ended.
    """

    name: str
    begin: Path
    end: Path
    seconds: float

    def copy(self, place: Path) -> Path:
        """Make the folder that it begins with anew."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.begin, place, symlinks=True, copy_function=os.link)
        return place

    def torn(self, place: Path) -> list[str]:
        """Return what is neither as it was nor as it will be."""
        before, after, found = (_files(folder) for folder in (self.begin, self.end, place))
        both = before.keys() & after.keys()
        lost = [f"{name} is gone" for name in sorted(both - found.keys())]
        for name in sorted(found.keys() & (before.keys() | after.keys())):
            if not any(name in side and _same(found[name], side[name]) for side in (before, after)):
                lost.append(f"{name} is neither old nor new")
        return lost

    def unfinished(self, place: Path) -> list[str]:
        """Return how a folder, in which it has been done, differs from what it is to be."""
        after, found = _files(self.end), _files(place, hidden=True)
        missing = [f"{name} is missing" for name in sorted(after.keys() - found.keys())]
        left = [f"{name} is left over" for name in sorted(found.keys() - _files(self.end, hidden=True).keys())]
        return missing + left + [f"{name} is not new" for name in after if not _same(found.get(name), after[name])]


def _files(folder: Path, *, hidden: bool = False) -> dict[str, Path]:
    """Return the files below a folder by name; the locks and half files of huggingface_hub's cache are its own."""
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
        hub: The Hub, which this process and its children talk to.
        root: Folder for everything.
        megabytes: How large the model is; 0 for a tiny one.
    """

    def __init__(self, hub: LoopbackHub, root: Path, megabytes: int = 0) -> None:
        os.environ.update(SOURCE_DATE_EPOCH=EPOCH, HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
        os.environ["HF_HUB_ETAG_TIMEOUT"] = "60"  # the Hub here has to find out the digests of large files first
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
        """Do something a few times, and return what came of it."""
        begin = self._begin_with[name]
        end = self._made(f"{name}-end", name, begin)
        times = [self._finish(name, self._copied(begin, self.root / "again")) for _ in range(3)]
        return Operation(name, begin, end, statistics.median(times))

    def started(self, name: str, place: Path, largest: int | None = None) -> Running:
        """Start an operation in a process of its own that may write files of so many bytes; return once it begins."""
        receiving, sending = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_called, args=(name, place, sending, largest))
        process.start()
        sending.close()
        receiving.recv()
        return Running(process, receiving)

    def _finish(self, name: str, place: Path) -> float:
        """Do something undisturbed, and return how many seconds it took."""
        running, start = self.started(name, place), time.perf_counter()
        running.telling.poll(None)  # until it tells how it ended: the process's own end comes later
        seconds = time.perf_counter() - start
        if (fault := running.fault()) is not None:
            raise RuntimeError(f"{name} in {place} failed undisturbed: {fault}")
        return seconds

    def _made(self, folder: str, name: str, begin: Path | None, commit: str | None = None) -> Path:
        """Return a folder in which an operation was done, with the Hub's branch at a commit."""
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
    """Give a model so many words that it has this size."""
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(folder)
    model.resize_token_embeddings(megabytes * 2**20 // (4 * model.config.hidden_size), mean_resizing=False)
    model.save_pretrained(folder)


def silent() -> None:
    """Say nothing any more, until this process ends."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _called(name: str, place: Path, telling: Connection, largest: int | None) -> None:
    silent()
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))  # Python ignores the signal that comes with it
    telling.send(None)
    try:
        CALLS[name](place)
    except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
        telling.send(Fault.of(error))
    else:
        telling.send(None)


def places() -> Iterator[Path]:
    """Yield where files can be written quickest: a disk's own speed is of no interest to these trials."""
    for place in (Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp"))):
        if place.is_dir() and os.access(place, os.W_OK) and shutil.disk_usage(place).free > 6 << 30:
            yield place
