"""MiniLM with its real weights on a Hub, exported once for all benchmarks of a run.

A run of many benchmarks names a folder in the environment, which contains the exports.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pairs import SHARED
from optimum_htp import strip_metadata
from tests.support import models
from tests.support.hub import LoopbackHub

REPO = "bench/minilm"
TASK = "feature-extraction"


@dataclass(frozen=True)
class MiniLM:
    """The model on a Hub, and the folder of its exports. They are read-only; benchmarks that write use a copy."""

    place: Path

    def file(self, *, embed: str = "all") -> Path:
        """Return a file exported from the Hub, with the given embedded files."""
        return self._exported(f"minilm-{embed}", embed=embed) / "model.onnx"

    def with_configs(self) -> Path:
        """Return a folder as Optimum exports it: the file has no record, and its configs are next to it."""
        folder = self._exported("minilm-with-configs", with_config=True)
        strip_metadata(folder / "model.onnx")
        return folder

    def _exported(self, name: str, **options: object) -> Path:
        if not (folder := self.place / name).exists():
            from optimum_htp import HTPExporter

            HTPExporter().export(REPO, folder, task=TASK, **options)
        return folder


def served(hub: LoopbackHub, home: Path) -> MiniLM:
    """Put the model on a Hub, always with the same commit. Without a folder of a run, exports are stored in `home`."""
    hub.add(REPO, models.minilm(), pipeline_tag="sentence-similarity", library_name="transformers")
    return MiniLM(Path(os.environ.get(SHARED, home / "exports")))
