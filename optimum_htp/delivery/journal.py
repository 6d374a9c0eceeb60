"""The journal of a batch: one JSON object a line, added when a job starts and when it ends.

    {"event": "start", "output": "org/name", "model": "org/name", "time": "2026-01-01T00:00:00Z"}
    {"event": "end", "output": "org/name", "model": "org/name", "time": …, "state": "done", "commit": "…",
     "task": "…", "asked": "auto", "options": {"opset": 17, …}, "versions": {"torch": "2.13.0", …},
     "files": [{"name": "model.onnx", "size": 1, "sha256": "…"}], "seconds": 3.1, "peak_memory": 1}
    {"event": "end", …, "state": "failed", "error": "ModelNotFoundError", "message": "…"}
    {"event": "push", …, "repo": "me/name-onnx", "exported": "…", "commit": "…", "url": "…",
     "files": {"model.onnx": "…"}, "asked": {"repo": "me/name-onnx", "layout": "optimum", "create_pr": false}}

Lines are only ever added, each by one write that is on the disk before the batch goes on. A line that a kill or a
full disk cut short is no line: the next one begins on its own.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from optimum_htp.delivery.jobs import Job
from optimum_htp.masking import masked
from optimum_htp.onnxfile.outputs import OutputKind, check_output

__all__ = ["JOURNAL_FILE", "Journal"]

_LINE: Final = re.compile(rb'^\{"event": "(?:start|end|push)", "output": ', re.MULTILINE)


def _is_journal(path: Path) -> bool:
    """Whether a line of a file is one of a journal. A kill may have cut the only one short."""
    content = path.read_bytes()
    return _LINE.search(content) is not None or b'{"event": "start", "output": '.startswith(content)


JOURNAL_FILE: Final = OutputKind("a journal of a batch", _is_journal)


class Journal:
    """A journal, open to be added to; may be used from several threads.

    Args:
        path: The file, which need not exist. One that is there has to be a journal.
        force: Whether to add to a file of another kind.

    Raises:
        ProtectedFileError: There is a file that is no journal.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        check_output(path, JOURNAL_FILE, force=force)
        self._lock = threading.Lock()
        self.ends: dict[str, dict[str, Any]] = {}
        self.pushes: dict[str, dict[str, Any]] = {}
        for entry in _entries(path):
            if entry.get("event") == "end" and isinstance(entry.get("output"), str):
                self.ends[entry["output"]] = entry
            elif entry.get("event") == "push" and isinstance(entry.get("output"), str):
                self.pushes[entry["output"]] = entry
            elif isinstance(entry.get("output"), str):
                self.ends.pop(entry["output"], None)  # started again, and perhaps killed
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self._torn = path.stat().st_size > 0 and not _ends_a_line(path)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def start(self, job: Job) -> None:
        """Say that a job starts."""
        self._add(job, {"event": "start"})

    def end(self, job: Job, content: Mapping[str, Any]) -> None:
        """Say what came of a job."""
        entry = self._add(job, {"event": "end", **content})
        self.ends[job.output] = entry

    def push(self, job: Job, content: Mapping[str, Any]) -> None:
        """Say where an export was pushed."""
        self.pushes[job.output] = self._add(job, {"event": "push", **content})

    def _add(self, job: Job, content: dict[str, Any]) -> dict[str, Any]:
        time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry: dict[str, Any] = {
            "event": content.pop("event"),
            "output": job.output,
            "model": job.model,
            "time": time,
            **content,
        }
        entry |= masked(entry)
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            line = b"\n" * self._torn + line
            self._torn = os.write(self._descriptor, line) < len(line)
            os.fsync(self._descriptor)
        return entry


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # cut short
        if isinstance(entry, dict):
            yield entry


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
