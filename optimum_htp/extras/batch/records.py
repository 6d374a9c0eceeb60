"""The records of a batch: its journal, and the manifest of a finished batch.

The journal has one JSON object per line, for the start and the end of each job:

    {"event": "start", "output": "org/name", "model": "org/name", "time": "2026-01-01T00:00:00Z"}
    {"event": "end", "output": "org/name", "model": "org/name", "time": …, "state": "done", "commit": "…",
     "task": "…", "asked": "auto", "options": {"opset": 17, …}, "versions": {"torch": "2.13.0", …},
     "files": [{"name": "model.onnx", "size": 1, "sha256": "…"}], "seconds": 3.1, "peak_memory": 1}
    {"event": "end", …, "state": "failed", "error": "ModelNotFoundError", "message": "…"}
    {"event": "push", …, "repo": "me/name-onnx", "exported": "…", "commit": "…", "url": "…",
     "files": {"model.onnx": "…"}, "asked": {"repo": "me/name-onnx", "layout": "optimum", "create_pr": false}}

Lines are only appended, each with one write that is synced to disk before the batch continues. A line that a kill or a
full disk truncated is ignored; the next one starts on a new line.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.extras.batch.jobs import Job
from optimum_htp.masking import get_logger, masked
from optimum_htp.onnxfile.outputs import OutputKind, check_output
from optimum_htp.parsing import is_inside, json_or_none
from optimum_htp.stamping.manifests import Manifest, ManifestModel, WrittenFile

if TYPE_CHECKING:
    from optimum_htp.extras.batch.work import JobResult

__all__ = ["JOURNAL_FILE", "Journal", "compared", "differences", "is_entry", "manifest_of"]

logger = get_logger(__name__)

_TEXTS: Final = ("event", "output", "model", "state", "commit", "task", "asked", "error", "message")

_LINE: Final = re.compile(rb'^\{"event": "(?:start|end|push)", "output": ', re.MULTILINE)


def _is_journal(path: Path) -> bool:
    """Return whether a file contains a line of a journal; the only line may be truncated."""
    content = path.read_bytes()
    return _LINE.search(content) is not None or b'{"event": "start", "output": '.startswith(content)


JOURNAL_FILE: Final = OutputKind("a journal of a batch", _is_journal)


class Journal:
    """A journal that is open for appending, from any thread. With `force`, a file of another kind is extended, too."""

    def __init__(self, path: Path, *, force: bool = False) -> None:
        check_output(path, JOURNAL_FILE, force=force)
        self._lock = threading.Lock()
        self.ends: dict[str, dict[str, Any]] = {}
        self.pushes: dict[str, dict[str, Any]] = {}
        for entry in _entries(path):
            output = entry.get("output")
            if not isinstance(output, str):
                continue
            if entry.get("event") == "end":
                self.ends[output] = entry
            elif entry.get("event") == "push":
                self.pushes[output] = entry
            else:
                self.ends.pop(output, None)  # started again, possibly killed
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._is_truncated = path.stat().st_size > 0 and not _ends_a_line(path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:  # threads that still run cannot write any more
            os.close(self._descriptor)
            self._descriptor = -1

    def start(self, job: Job) -> None:
        """Record the start of a job."""
        self._add(job, "start", {})

    def end(self, job: Job, content: Mapping[str, Any]) -> None:
        """Record the result of a job."""
        self.ends[job.output] = self._add(job, "end", content)

    def push(self, job: Job, content: Mapping[str, Any]) -> None:
        """Record the push of an export."""
        self.pushes[job.output] = self._add(job, "push", content)

    def _add(self, job: Job, event: str, content: Mapping[str, Any]) -> dict[str, Any]:
        time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = {"event": event, "output": job.output, "model": job.model, "time": time, **content}
        entry |= masked(entry)
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            line = b"\n" * self._is_truncated + line
            self._is_truncated = os.write(self._descriptor, line) < len(line)
            os.fsync(self._descriptor)
        return entry


def is_entry(content: Any) -> bool:
    """Return whether a value is an entry whose fields have the right types. It is untrusted."""
    if not isinstance(content, dict):
        return False
    versions, files = content.get("versions") or {}, content.get("files") or []
    if content.get("event") == "push":  # these fields are only compared
        files = [] if isinstance(files, dict) else files
        content = {**content, "asked": None} if isinstance(content.get("asked"), dict) else content
    return (
        all(isinstance(content.get(name), (str, NoneType)) for name in _TEXTS)
        and isinstance(content.get("options"), (dict, NoneType))
        and isinstance(versions, dict)
        and all(isinstance(version, str) for version in versions.values())
        and isinstance(files, list)
        and all(map(_is_file, files))
    )


def _is_file(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and isinstance(content.get("name"), str)
        and is_inside(content["name"])
        and type(content.get("size")) is int
        and isinstance(content.get("sha256"), (str, NoneType))
    )


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    bad = []
    for number, line in enumerate(lines, start=1):
        entry = json_or_none(line)
        if is_entry(entry):
            yield entry
        elif line:
            bad.append(number)
    if bad:  # usually truncated by a kill
        logger.warning("%s: line %d is not a journal entry, and is ignored (%d such lines).", path, bad[0], len(bad))


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def manifest_of(jobs: Iterable[Job], outcomes: Mapping[str, JobResult], folder: Path) -> Manifest:
    """Return the manifest of the exported jobs, sorted by folder."""
    models = []
    for job in sorted(jobs, key=lambda job: job.output):
        outcome = outcomes[job.output]
        if outcome.state.is_exported:
            models.append(
                ManifestModel(
                    model=job.model,
                    output=job.output,
                    task=outcome.task or job.task,
                    revision=job.revision,
                    commit=outcome.commit,
                    options=outcome.options,
                    versions=outcome.versions or {},
                    files=outcome.files,
                )
            )
    return _with_common_versions(folder, models)


def _with_common_versions(folder: Path, models: Sequence[ManifestModel]) -> Manifest:
    """Return a manifest that stores the most common versions once."""
    known = [model.versions for model in models if model.versions]
    common = max(known, key=known.count, default={})
    kept = (replace(model, versions=None) if model.versions == common else model for model in models)
    return Manifest(folder, tuple(kept), common)


def differences(manifest: Manifest, outcomes: Mapping[str, JobResult]) -> list[str]:
    """Return the files, relative to the output folder, that differ from the manifest or are missing."""
    different = []
    for model in manifest.models:
        outcome = outcomes.get(model.output)
        if outcome is None or not outcome.state.is_exported:
            continue  # reported as failed
        theirs, ours = _digests(model.files), _digests(outcome.files)
        different += [
            f"{model.output}/{name}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        ]
    return different


def compared(manifest: Manifest, different: Sequence[str]) -> list[str]:
    """Return lines about the comparison with a manifest."""
    if not different:
        return [f"{len(manifest.files())} files match the manifest"]
    from optimum_htp.extras.batch.work import versions_here

    here = versions_here()
    models = [model for model in manifest.models if any(name.startswith(f"{model.output}/") for name in different)]
    theirs = [manifest.versions_of(model) for model in models]
    others = {
        f"{name} {version}": None
        for versions in theirs
        for name, version in versions.items()
        if here.get(name) != version
    }
    if others:
        why = f"the manifest was written with {', '.join(others)}"
    elif all(theirs) and all(model.options is not None for model in models):
        why = "check that SOURCE_DATE_EPOCH has the same value"
    else:
        why = "the manifest does not record the options of the exports; export again to write a complete one"
    return [*(f"{name}: DIFFERS from the manifest" for name in different), f"{len(different)} files differ: {why}"]


def _digests(files: Sequence[WrittenFile]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}
