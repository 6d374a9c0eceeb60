"""Full disks, quotas, read-only folders, and files that are replaced or truncated while they are read."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import CALLS, Fault, Laboratory, Operation, places
from benchmarks.reliability.trials import Form, Trial, main
from tests.conftest import ROOT

OPERATIONS = tuple(CALLS)
PAGE = 4096  # bytes


def can_mount() -> bool:
    with tempfile.TemporaryDirectory() as place:
        try:
            with mounted(Path(place), 1 << 20):
                return True
        except (subprocess.CalledProcessError, FileNotFoundError):
            return False


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """Mount a disk of a given size in bytes at a folder."""
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, capture_output=True)


def size_of(folder: Path) -> int:
    """Return the bytes that a folder takes on a disk of pages."""
    return sum(PAGE + -(-path.lstat().st_size // PAGE) * PAGE for path in folder.rglob("*"))


def judged(operation: Operation, place: Path, fault: Fault | None) -> list[str]:
    """Return the losses of an operation that ended by itself."""
    if fault is None:
        return operation.unfinished(place)
    lost = operation.torn(place)
    if not fault.is_typed:
        lost.append(f"an error that is not ours: {fault}")
    return lost + [f"{path.name} is left over" for path in place.rglob("*.tmp")]


def full_disks(laboratory: Laboratory, times: int) -> Trial:
    draw, lost, failed = random.Random(0), [], 0
    name = "seven operations on a disk that becomes full"
    if not can_mount():
        return Trial(name, 0, note="needs the right to mount a disk")
    for kind in OPERATIONS:
        operation = laboratory.operation(kind)
        begin, end = size_of(operation.begin), size_of(operation.end)
        for _ in range(times):
            size = begin + draw.randint(1, 2 * end)
            with mounted(laboratory.root / "disk", size) as disk:
                shutil.copytree(operation.begin, place := disk / "place", symlinks=True)
                fault = laboratory.started(kind, place).fault()
                failed += fault is not None
                lost += [f"{kind}, {size - begin} bytes free: {loss}" for loss in judged(operation, place, fault)]
    return Trial(name, times * len(OPERATIONS), tuple(lost), f"{failed} had no room")


def quotas(laboratory: Laboratory, times: int) -> Trial:
    draw, lost, failed = random.Random(1), [], 0
    place = laboratory.root / "place"
    for kind in OPERATIONS:
        operation = laboratory.operation(kind)
        largest = max(path.stat().st_size for path in operation.end.rglob("*") if path.is_file())
        for _ in range(times):
            limit = draw.randint(1, int(1.2 * largest))
            operation.copy(place)
            fault = laboratory.started(kind, place, limit).fault()
            failed += fault is not None
            lost += [f"{kind}, files of {limit} bytes at most: {loss}" for loss in judged(operation, place, fault)]
    name, note = "the same where files may not grow (RLIMIT_FSIZE)", f"{failed} could not be written"
    return Trial(name, times * len(OPERATIONS), tuple(lost), note)


def read_only(laboratory: Laboratory, times: int) -> Trial:
    name, lost = "the same on a disk that is read-only", []
    if not can_mount():
        return Trial(name, 0, note="needs the right to mount a disk")
    for kind in OPERATIONS:
        operation = laboratory.operation(kind)
        with mounted(laboratory.root / "disk", 4 * size_of(operation.end) + (1 << 20)) as disk:
            shutil.copytree(operation.begin, place := disk / "place", symlinks=True)
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            for _ in range(times):
                fault = laboratory.started(kind, place).fault()
                lost += [f"{kind}: no error was reported"] if fault is None else []
                lost += [f"{kind}: {loss}" for loss in judged(operation, place, fault or Fault("", True, ""))]
    return Trial(name, times * len(OPERATIONS), tuple(lost))


def _exchange(path: Path, others: list[Path], stop: Event) -> None:
    turn = 0
    while not stop.is_set():
        turn += 1
        os.link(others[turn % len(others)], spare := path.with_name("spare"))
        spare.replace(path)


def exchanged(laboratory: Laboratory, times: int) -> Trial:
    """Read a file, and load it, while a process keeps replacing it by one of another commit."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoConfig

    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.onnxfile import read_graph, read_header

    folder = laboratory.root / "exchanged"
    folder.mkdir()
    files = [laboratory.root / name / "out" / "model.onnx" for name in ("old-export", "stamped")]
    commits = [read_header(file).metadata["hf_hub_sha"] for file in files]
    assert commits[0] != commits[1]
    path = folder / "model.onnx"
    os.link(files[0], path)
    stop: Any = multiprocessing.get_context("fork").Event()
    process = multiprocessing.get_context("fork").Process(target=_exchange, args=(path, files, stop))
    process.start()
    lost: list[str] = []
    seen: dict[str, int] = {}
    try:
        for turn in range(times):
            try:
                found = read_header(path).metadata["hf_hub_sha"]
                seen[found] = seen.get(found, 0) + 1
                assert len(read_graph(path).nodes) > 10
                assert AutoConfig.from_pretrained(path).model_type == "bert"
                if turn % 10 == 0:
                    assert ORTModelForSequenceClassification.from_pretrained(path).config.num_labels == 3
            except OptimumHTPError as error:
                seen["typed errors"] = seen.get("typed errors", 0) + 1
                del error
            except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
                lost.append(f"{type(error).__name__}: {error}")
    finally:
        stop.set()
        process.join()
    note = f"{sum(seen.get(commit, 0) for commit in commits)} read, {seen.get('typed errors', 0)} typed errors"
    return Trial("a file read and loaded while another is put in its place", times, tuple(lost), note)


def cut(laboratory: Laboratory, times: int) -> Iterator[Trial]:
    """Read and load a file that is truncated or has a wrong byte."""
    from optimum.onnxruntime import ORTModelForSequenceClassification

    from optimum_htp import strip_metadata, verify_metadata
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.onnxfile import read_graph
    from optimum_htp.report.document import report_document

    content = (laboratory.root / "stamped" / "out" / "model.onnx").read_bytes()
    folder = laboratory.root / "cut"
    folder.mkdir()
    path, draw = folder / "model.onnx", random.Random(2)
    reads = {
        "read_graph": read_graph,
        "report": lambda file: report_document([file]),
        "verify": verify_metadata,
        "load": ORTModelForSequenceClassification.from_pretrained,
        "strip": strip_metadata,
    }

    def change(kind: str) -> bytes:
        place = draw.randrange(len(content))
        wrong = b"" if kind == "cut" else bytes([draw.randrange(256)]) + content[place + 1 :]
        return content[:place] + wrong

    for kind, name in (("cut", "a file that ends too soon"), ("byte", "a file with a wrong byte")):
        lost, refused = [], 0
        for turn in range(times):
            changed = change(kind)
            path.write_bytes(changed)
            for what, read in reads.items():
                try:
                    read(path)
                except OptimumHTPError:
                    refused += 1
                    if path.read_bytes() != changed:
                        lost.append(f"{what} refused, and changed the file")
                except Exception as error:  # noqa: BLE001 - which kind it is, is what is asked
                    lost.append(f"{what}, turn {turn}: {type(error).__name__}: {str(error)[:200]}")
        name += ": read, reported, verified, loaded, stripped"
        yield Trial(name, times * len(reads), tuple(lost), f"{refused} refused")


def too_large(laboratory: Laboratory) -> Trial:
    """Write files that would become too large for protobuf."""
    from optimum_htp import strip_metadata, tag_file
    from optimum_htp.errors import FileTooLargeError
    from optimum_htp.onnxfile import rewrite_model
    from tests.support.large import LIMIT, sparse

    (folder := laboratory.root / "too-large").mkdir()
    lost, times = [], 0
    calls = {
        "tag": tag_file,
        "write": lambda path: rewrite_model(path, metadata={"k": "v" * 100}),
        "write elsewhere": lambda path: rewrite_model(path, metadata={"k": "v" * 100}, output=folder / "other.onnx"),
        "strip": strip_metadata,
    }
    for missing in (73, 10, 1):
        path = sparse(folder / f"{missing}.onnx", LIMIT - missing)
        before = path.stat()
        for what, call in calls.items():
            times += 1
            try:
                call(path)
            except FileTooLargeError:
                pass
            else:
                lost += [f"{what}, {missing} bytes below the limit: it was written"] if what != "strip" else []
            now = path.stat()
            if (now.st_ino, now.st_mtime_ns, now.st_size) != (before.st_ino, before.st_mtime_ns, before.st_size):
                lost.append(f"{what}, {missing} bytes below the limit: the file was changed")
        path.unlink()
    lost += [f"{path.name} is left over" for path in folder.iterdir()]
    return Trial("files that would become too large for protobuf", times, tuple(lost))


EXTRACTING = """
import os, random, signal, sys
from pathlib import Path
from optimum_htp.modules.extract import extract_module
from optimum_htp.onnxfile import replace_file, submodel
submodel._MOST = 0
source, target, at = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps = []
def step():
    steps.append(1)
    if len(steps) == at:
        os.kill(os.getpid(), signal.SIGKILL)
replace_file.before_replacing.set(step)
extract_module(source, "a", target)
"""


def two_files(laboratory: Laboratory, times: int) -> Trial:
    """Kill an extraction of a model and its data before one of the two is replaced."""
    from tests.support.external import save_external, weight_of

    (folder := laboratory.root / "two-files").mkdir()
    source, target, lost = folder / "model.onnx", folder / "e.onnx", []
    old = 0.0
    for turn in range(times):
        new = float(turn + 1)
        save_external(source, new)
        at = turn % 3 + 1  # the third step does not exist: that extraction ends
        subprocess.run([sys.executable, "-c", EXTRACTING, str(source), str(target), str(at)], cwd=ROOT, check=False)
        if target.exists():
            value = weight_of(target)[0]
            lost += [] if value in (old, new) else [f"turn {turn}: the model has weights of another export"]
            old = value
    return Trial("extract of a model and its data file, killed before one is replaced", times, tuple(lost))


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory(dir=next(places())) as root:
        laboratory = Laboratory(hub, Path(root))
        yield full_disks(laboratory, 2 if quick else 30)
        yield quotas(laboratory, 2 if quick else 30)
        yield read_only(laboratory, 1 if quick else 5)
        yield exchanged(laboratory, 20 if quick else 1000)
        yield from cut(laboratory, 10 if quick else 300)
        yield too_large(laboratory)
        yield two_files(laboratory, 3 if quick else 30)


if __name__ == "__main__":
    main(__doc__, trials)
