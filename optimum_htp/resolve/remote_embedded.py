"""Files that travel in an ONNX file of a Hub, read where it lies: its head, tail and archive, and nothing between."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.onnxfile.wire import ByteWindow
from optimum_htp.resolve.embedded import EmbeddedFiles
from optimum_htp.resolve.remote_file import opened_or_downloaded

__all__ = ["RemoteEmbeddedFiles"]


@dataclass(frozen=True)
class RemoteEmbeddedFiles(EmbeddedFiles):
    """The files that travel with a model whose ONNX files are in a repo.

    Attributes:
        hub: The Hub that the repo is on.
        repo_id: The repo.
        commit: Full commit.
        file: The ONNX file that they are in, relative to the repo.
        access: How to reach the Hub.
    """

    hub: Hub
    repo_id: str
    commit: str
    file: str
    access: HubAccess

    def _opened(self) -> AbstractContextManager[ByteWindow]:
        return opened_or_downloaded(self.hub, self.repo_id, self.commit, self.file, self.access)
