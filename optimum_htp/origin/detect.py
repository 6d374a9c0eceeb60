"""The origin of a model as plain dictionaries, for callers that want no exceptions.

`is_hub_model` and `detect_model_source` return the result of `source.locate` in the terms of the design document.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import InvalidModelReferenceError, ModelNotFoundError, OptimumHTPError, UnknownHubError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.origin.references import Reference, parse_reference
from optimum_htp.origin.source import (
    HubSource,
    LocalSource,
    ask,
    attribute_of,
    cached_snapshot,
    expanded,
    is_path,
    locate_loaded_model,
)

__all__ = ["detect_model_source", "is_hub_model"]

_FACTS: Final = ("pipeline_tag", "library_name", "author", "last_modified", "private", "gated", "downloads", "likes")
_CARD_FACTS: Final = ("base_model", "license", "language", "task_categories")


def is_hub_model(
    model_name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[bool, dict[str, Any]]:
    """Return whether a name is a model on the Hub, and the Hub's information about it.

    Args:
        model_name_or_path: A path, or `name`, `org/name`, either with `@revision`.
        revision: Branch, tag, commit or `refs/pr/N`.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        True and the Hub's metadata (`type` is `hub`, or `hub_unverified` with `error` if neither the Hub nor the cache
        can confirm it), or False and a dictionary whose `type` is `local`, `not_found` or `invalid`.
    """
    access = HubAccess.of(access, token, cache_dir, local_files_only)
    text = os.fsdecode(model_name_or_path)
    if is_path(text):
        return False, {"type": "local", "path": text}
    try:
        reference = parse_reference(text, revision)
    except (InvalidModelReferenceError, UnknownHubError) as error:
        return False, {"type": "invalid", "error": str(error)}
    asked = {"model_id": reference.repo_id, "revision": reference.revision or reference.hub.default_revision}
    if reference.hub.name != plugins.HUGGING_FACE:
        asked["provider"] = reference.hub.name
    try:
        return True, _describe(ask(reference, access))
    except ModelNotFoundError as error:
        return False, {"type": "not_found", **asked, "error": str(error)}
    except InvalidModelReferenceError as error:
        return False, {"type": "invalid", "error": str(error)}
    except OptimumHTPError as error:  # The Hub is unreachable, denies access, or sends an invalid response.
        return True, {"type": "hub_unverified", **asked, "error": str(error)}


def detect_model_source(
    model_name_or_path: str | os.PathLike[str] | None = None,
    model: Any = None,
    *,
    revision: str | None = None,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> dict[str, Any]:
    """Return where a model is from, by its name, its config, or its folder in the Hub's cache.

    Args:
        model_name_or_path: A path or a Hub reference, as for `is_hub_model`.
        model: A model in memory, whose config may contain more than its path.
        revision: Branch, tag, commit or `refs/pr/N`.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Returns:
        The Hub's metadata, with `detected_from` (`config` or `cache_path`) if the name alone was not enough; or a
        dictionary whose `type` is `local_hf_compatible` (with `model_type`, `architectures` and `path`), `local`,
        `not_found` or `invalid`.
    """
    access = HubAccess.of(access, token, cache_dir, local_files_only)
    answer: dict[str, Any] = {"type": "local", "path": model_name_or_path}
    if model_name_or_path is not None:
        is_hub, answer = is_hub_model(model_name_or_path, revision=revision, access=access)
        if is_hub:
            return answer
    config = getattr(model, "config", None)
    if config is not None:
        if loaded := _describe_loaded_model(model, access):
            return loaded
        if hasattr(config, "model_type") and hasattr(config, "architectures"):
            return _compatible(config.model_type, config.architectures, model_name_or_path)
    if answer["type"] == "local" and model_name_or_path is not None:
        return _describe_path(os.fspath(model_name_or_path), access)
    return answer


def _describe_loaded_model(model: Any, access: HubAccess) -> dict[str, Any] | None:
    try:
        source = locate_loaded_model(model, access)
    except OptimumHTPError as error:
        name, commit = model.config._name_or_path, attribute_of(model.config, "_commit_hash")
        asked = {"model_id": name, "revision": commit or "main"}
        return {"type": "hub_unverified", **asked, "error": str(error), "detected_from": "config"}
    if isinstance(source, LocalSource):
        return None
    return {**_describe(source), "detected_from": "config"}


def _describe_path(path: str, access: HubAccess) -> dict[str, Any]:
    if cached := cached_snapshot(expanded(path), access):
        hub, repo_id, commit = cached
        try:
            source = ask(Reference(hub, repo_id, commit), access)
        except OptimumHTPError as error:  # The digests of its files are the proof.
            source = HubSource(repo_id=repo_id, commit=commit, ref=commit, reason=str(error), provider=hub.name)
        return {**_describe(source), "detected_from": "cache_path"}
    config = read_json(expanded(path) / CONFIG)
    if isinstance(config, dict) and "model_type" in config:
        return _compatible(config["model_type"], config.get("architectures"), path)
    return {"type": "local", "path": path}


def _compatible(model_type: Any, architectures: Any, path: Any) -> dict[str, Any]:
    return {"type": "local_hf_compatible", "model_type": model_type, "architectures": architectures, "path": path}


def _describe(source: HubSource) -> dict[str, Any]:
    """Return a Hub model as the dictionary in the documentation of `is_hub_model`."""
    known: dict[str, Any] = {
        "type": "hub",
        "model_id": source.repo_id,
        "sha": source.commit,
        "revision": source.ref or source.hub.default_revision,
        **({} if source.provider == plugins.HUGGING_FACE else {"provider": source.provider}),
    }
    info = source.info
    if info is None:
        return {**known, "error": source.reason}
    known |= {name: getattr(info, name) for name in _FACTS}
    known["tags"] = list(info.tags)
    card = {name: getattr(info, name) for name in _CARD_FACTS}
    return known | {name: value for name, value in card.items() if value is not None}
