"""The files of a commit on a mirror: one JSON file next to the files, written last.

    {"version": 1, "provider": "huggingface", "repo_id": "org/name", "commit": "86b5…",
     "commit_files": ["README.md", "config.json", "model.safetensors"],
     "files": {"config.json": {"size": 570, "sha256": "7b4e…"}}}

`commit_files` lists all files of the commit, so a mirror can also tell that a file does not exist. `files` lists those
next to the manifest. The content of a commit never changes: files may be added, none is replaced.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from optimum_htp.errors import MirrorError
from optimum_htp.parsing import is_inside, is_sha256, parse_json

__all__ = ["MANIFEST", "ListedFile", "MirrorManifest"]

MANIFEST: Final = ".optimum-htp.json"
_VERSION: Final = 1


@dataclass(frozen=True)
class ListedFile:
    """The size of a file in bytes, and its SHA-256 in hexadecimal digits."""

    size: int
    sha256: str


@dataclass(frozen=True)
class MirrorManifest:
    """The record of a mirrored commit; see the module."""

    provider: str
    repo_id: str
    commit: str
    commit_files: frozenset[str] = frozenset()
    files: Mapping[str, ListedFile] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the stored form; the same bytes for the same manifest."""
        files = {name: {"size": file.size, "sha256": file.sha256} for name, file in sorted(self.files.items())}
        content = {
            "version": _VERSION,
            "provider": self.provider,
            "repo_id": self.repo_id,
            "commit": self.commit,
            "commit_files": sorted(self.commit_files),
            "files": files,
        }
        return json.dumps(content, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_json(cls, text: bytes, expected: MirrorManifest) -> MirrorManifest:
        """Parse a stored manifest. It is untrusted.

        Args:
            text: The stored form.
            expected: A manifest of the same model and commit.

        Raises:
            MirrorError: It is not a manifest, or belongs to another commit.
        """
        try:
            content = parse_json(text)
            found = cls(
                provider=content["provider"],
                repo_id=content["repo_id"],
                commit=content["commit"],
                commit_files=frozenset(map(_name, content["commit_files"])),
                files={_name(name): _digest(file) for name, file in content["files"].items()},
            )
            version = content["version"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise MirrorError(f"it is not a manifest ({type(error).__name__}: {error})") from error
        if version != _VERSION:
            raise MirrorError(f"its version is {version!r}, but this version of optimum-htp reads {_VERSION}")
        stated = (found.provider, found.repo_id, found.commit)
        if stated != (expected.provider, expected.repo_id, expected.commit):
            raise MirrorError(f"it is for {found.repo_id!r} at {found.commit!r} of {found.provider!r}")
        return found


def _name(name: Any) -> str:
    if not isinstance(name, str) or not is_inside(name) or name == MANIFEST:
        raise ValueError(f"{name!r} is not a valid file name in a repo")
    return name


def _digest(content: Any) -> ListedFile:
    size, sha256 = content["size"], content["sha256"]
    if type(size) is not int or size < 0 or not is_sha256(sha256):
        raise ValueError(f"{content!r} is not size and SHA-256 of a file")
    return ListedFile(size, sha256)
