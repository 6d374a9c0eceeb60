"""Content of the loopback Hub: repos with commits and refs, and the API's facts about their files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

Files = Mapping[str, bytes]

REGULAR_LIMIT = 10_000_000
# As in the .gitattributes of new repos on the Hub.
_LFS = (
    "7z|arrow|bin|bz2|ckpt|ftz|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|onnx_data|ot|parquet|pb|pickle|pkl|pt|"
    "pth|rar|safetensors|tar|tflite|tgz|wasm|xz|zip|zst"
)
_LARGE = re.compile(rf".*\.({_LFS})")
ATTRIBUTES = "".join(f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in _LFS.split("|")).encode()


@dataclass
class Repo:
    """A model repo: immutable commits, and refs to them."""

    repo_id: str
    private: bool = False
    gated: bool = False
    gated_api: bool = False
    """Whether the API of a gated repo is closed too."""
    disabled: bool = False
    pipeline_tag: str | None = None
    library_name: str | None = None
    card: dict[str, Any] | None = None
    downloads: int = 1234
    likes: int = 56
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files | Path, ref: str = "main") -> str:
        """Add a commit with exactly these files and move a ref to it; return its hash."""
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in files.rglob("*") if p.is_file()}
        digest = hashlib.sha1(f"{self.repo_id}{len(self.commits)}".encode())
        for name in sorted(files):
            digest.update(name.encode() + b"\0" + git_sha(files[name]).encode())
        sha = digest.hexdigest()
        self.commits[sha] = dict(files)
        self.refs[ref] = sha
        return sha

    def split_revision(self, path: str) -> tuple[str | None, str]:
        """Split `<revision>/<path>` into a commit and the path; a revision such as `refs/pr/1` has slashes too."""
        known = {**{f"refs/heads/{ref}": sha for ref, sha in self.refs.items()}, **self.refs}
        known |= {sha: sha for sha in self.commits}
        for name in sorted(known, key=len, reverse=True):
            if path == name or path.startswith(name + "/"):
                return known[name], path[len(name) + 1 :]
        return None, ""


def is_large(name: str, size: int) -> bool:
    """Whether the Hub stores a file in Git LFS."""
    return _LARGE.fullmatch(name) is not None or size > REGULAR_LIMIT


@lru_cache(maxsize=256)  # there are many requests, and a model's weights are large
def git_sha(body: bytes) -> str:
    """Return git's hash of a content."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


@lru_cache(maxsize=256)
def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def tree_entry(name: str, body: bytes, xet_hash: str) -> dict[str, Any]:
    """Return a tree's entry of a file. For a file in LFS, git's hash is that of the pointer."""
    entry = {"type": "file", "path": name, "size": len(body)}
    if not is_large(name, len(body)):
        return {**entry, "oid": git_sha(body)}
    oid = sha256(body)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(body)}\n".encode()
    lfs = {"oid": oid, "size": len(body), "pointerSize": len(pointer)}
    return {**entry, "oid": git_sha(pointer), "lfs": lfs, "xetHash": xet_hash}


def tree_entries(files: Files, below: str, xet_hash: Any, *, recursive: bool) -> list[dict[str, Any]]:
    """Return the entries of a folder, sorted, with the folders in it."""
    prefix = below.strip("/") + "/" if below.strip("/") else ""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name in files if name.startswith(prefix)):
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            oid = hashlib.sha1(folder.encode()).hexdigest()
            found.setdefault(folder, {"type": "directory", "path": folder, "oid": oid, "size": 0})
        if recursive or len(parts) == 1:
            found[name] = tree_entry(name, files[name], xet_hash(files[name]))
    return list(found.values())


def repo_info(repo: Repo, sha: str | None, *, with_card: bool = False, with_blobs: bool = False) -> dict[str, Any]:
    """Return the API's facts about a repo at a commit."""
    files = repo.commits.get(sha or "", {})
    info: dict[str, Any] = {
        "_id": repo_key(repo.repo_id),
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        **({"sha": sha} if sha else {}),
        **({"author": repo.repo_id.partition("/")[0]} if "/" in repo.repo_id else {}),
        "lastModified": "2026-01-01T00:00:00.000Z",
        "createdAt": "2026-01-01T00:00:00.000Z",
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": repo.disabled,
        "downloads": repo.downloads,
        "likes": repo.likes,
        "tags": [tag for tag in (repo.library_name, repo.pipeline_tag) if tag],
        "model-index": None,
        "config": {},
        "spaces": [],
        "usedStorage": 1,
        "siblings": [_sibling(name, files[name], with_blobs=with_blobs) for name in sorted(files)],
    }
    for key in ("pipeline_tag", "library_name"):
        if getattr(repo, key):
            info[key] = getattr(repo, key)
    if with_card and repo.card is not None:
        info["cardData"] = repo.card
    return info


def repo_key(repo_id: str) -> str:
    return hashlib.md5(repo_id.encode()).hexdigest()[:24]


def _sibling(name: str, body: bytes, *, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": name}
    entry = tree_entry(name, body, "")
    lfs = {"lfs": {"sha256": entry["lfs"]["oid"], "size": len(body), "pointerSize": 134}} if "lfs" in entry else {}
    return {"rfilename": name, "size": len(body), "blobId": entry["oid"], **lfs}
