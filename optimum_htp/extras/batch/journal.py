"""The journal of a batch: one JSON object per line, for the start and the end of each job.

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
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import NoneType
from typing import Any, Final

from optimum_htp.extras.batch.jobs import Job
from optimum_htp.masking import get_logger, masked
from optimum_htp.onnxfile.outputs import OutputKind, check_output
from optimum_htp.parsing import is_inside, json_or_none

__all__ = ["JOURNAL_FILE", "Journal", "is_entry"]

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
