"""Validates responses of a Hub and converts them to `RepoInfo`.

A Hub, a mirror or a proxy may send anything. The required facts (the commit, the files) must have the right type, or
the response is an error. Optional facts of a wrong type are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from optimum_htp.errors import HubServerError
from optimum_htp.hubs.base import FileDigest, RepoInfo, repo_at
from optimum_htp.masking import get_logger
from optimum_htp.parsing import is_commit, is_inside, is_sha256, is_text, parse_json

__all__ = ["commit_ids", "content_of", "file_digests", "front_matter", "repo_info"]

logger = get_logger(__name__)

_MOST_ITEMS: Final = 10_000  # Tags, languages.
_HIGHEST_COUNT: Final = 10**18
_FRONT_MATTER: Final = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|$)", re.DOTALL)

T = TypeVar("T")


def content_of(body: bytes, about: str) -> Any:
    """Return the content of a JSON response; `about` is what it is for."""
    try:
        return parse_json(body)
    except ValueError as error:
        raise HubServerError(
            f"The Hub's response for {about} cannot be used: {error}. Check HF_ENDPOINT and any proxy in between."
        ) from error


def repo_info(content: Any, repo_id: str, revision: str | None) -> RepoInfo:
    """Return the information about the requested repo in a response, which has the new name of a renamed repo.

    Raises:
        HubServerError: The response contains no commit, another commit than requested, or no files.
    """
    about = repo_at(repo_id, revision)
    if not isinstance(content, dict):
        raise _useless(about, "is not a JSON object")
    commit = content.get("sha")
    if not is_commit(commit):
        raise _useless(about, "contains no commit")
    if is_commit(revision) and commit != revision:
        raise _useless(about, f"is for another commit, {commit}")
    facts = _Facts(content, about)
    card = facts.take("cardData", _mapping) or {}
    about_card = _Facts(card, f"the model card of {repo_id}")
    files = _files(content.get("siblings"), about)
    stated = _digests(content["siblings"])
    return RepoInfo(
        repo_id=facts.take("id", _repo_id) or repo_id,
        commit=commit,
        files=files,
        digests={name: digest.sha256 for name, digest in stated.items() if digest.sha256 is not None},
        blob_ids={name: digest.sha1 for name, digest in stated.items() if digest.sha256 is None and digest.sha1},
        tags=tuple(facts.take("tags", _texts) or ()),
        pipeline_tag=facts.take("pipeline_tag", _text),
        library_name=facts.take("library_name", _text),
        author=facts.take("author", _text),
        last_modified=facts.take("lastModified", _time),
        private=facts.take("private", _flag),
        gated=facts.take("gated", _gated),
        downloads=facts.take("downloads", _count),
        likes=facts.take("likes", _count),
        base_model=about_card.take("base_model", _joined),
        license=about_card.take("license", _joined),
        language=about_card.take("language", _text_or_texts),
        task_categories=about_card.take("task_categories", _texts),
    )


def commit_ids(body: bytes, about: str) -> list[str]:
    """Return the commits in one page of a repo's history."""
    content = content_of(body, about)
    if not isinstance(content, list):
        raise _useless(about, "is not a list of commits")
    found = (entry.get("id") for entry in content if isinstance(entry, dict))
    return [commit for commit in found if is_commit(commit)]


def file_digests(body: bytes, about: str) -> dict[str, FileDigest]:
    """Return the digests in a page of a commit's tree, by file."""
    content = content_of(body, about)
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        raise _useless(about, "is not a list of files")
    return {
        str(entry["path"]): _digest(entry.get("oid"), entry.get("lfs"), "oid")
        for entry in content
        if entry.get("type") == "file" and is_inside(entry.get("path"))
    }


def front_matter(text: str) -> Mapping[str, Any]:
    """Return the YAML data at the start of a model card; empty if it cannot be read."""
    import yaml

    match = _FRONT_MATTER.match(text)
    if match is None:
        return {}
    try:
        data = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        logger.info("A model card cannot be read: %s", error)
        return {}
    return data if isinstance(data, dict) else {}


class _Facts:
    """The optional facts in a response."""

    def __init__(self, content: Mapping[str, Any], about: str) -> None:
        self._content = content
        self._about = about

    def take(self, key: str, read: Callable[[Any], T]) -> T | None:
        """Return a fact; None if it is missing or has a wrong type."""
        value = self._content.get(key)
        if value is None:
            return None
        try:
            return read(value)
        except (TypeError, ValueError):
            logger.info("The Hub's %s of %s is left out, because it has a wrong type.", key, self._about)
            return None


def _useless(about: str, what: str) -> HubServerError:
    return HubServerError(
        f"The Hub's response for {about} {what}. Check HF_ENDPOINT and any proxy in between, or try again later."
    )


def _files(siblings: Any, about: str) -> tuple[str, ...]:
    if not isinstance(siblings, list):
        raise _useless(about, "contains no files")
    names = [sibling.get("rfilename") if isinstance(sibling, dict) else None for sibling in siblings]
    files = tuple(str(name) for name in names if is_inside(name))
    if len(files) < len(names):
        logger.info("%d of the names that the Hub lists for %s are not file names.", len(names) - len(files), about)
    return files


def _digests(siblings: list[Any]) -> dict[str, FileDigest]:
    return {
        str(sibling["rfilename"]): _digest(sibling.get("blobId"), sibling.get("lfs"), "sha256")
        for sibling in siblings
        if isinstance(sibling, dict) and is_inside(sibling.get("rfilename"))
    }


def _digest(blob_id: Any, lfs: Any, key: str) -> FileDigest:
    """Return the digest of a file: for a file in Git LFS its sha256, because git's digest is that of the pointer."""
    if not isinstance(lfs, dict):
        return FileDigest(sha1=blob_id if is_commit(blob_id) else None)
    return FileDigest(sha256=lfs[key] if is_sha256(lfs.get(key)) else None)


def _repo_id(value: Any) -> str:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(_text(value))  # Its error is a ValueError.
    return str(value)


def _text(value: Any) -> str:
    if not is_text(value) or not value:
        raise TypeError
    return str(value)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise TypeError
    return [_text(item) for item in value]


def _text_or_texts(value: Any) -> str | list[str]:
    return _text(value) if isinstance(value, str) else _texts(value)


def _joined(value: Any) -> str | None:
    """Return a card's value as one text. Cards contain one value or a list."""
    return _text(", ".join(_texts(value))) or None


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _time(value: Any) -> str:
    return datetime.fromisoformat(_text(value).replace("Z", "+00:00")).isoformat()


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError
    return value


def _gated(value: Any) -> bool:
    """Return whether access must be requested. The Hub sends false, or how access is granted."""
    return True if value in ("auto", "manual") else _flag(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _HIGHEST_COUNT:
        raise TypeError
    return value
