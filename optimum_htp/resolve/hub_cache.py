"""HFHubCache: keeps loaded objects in memory by commit, over the Hub's standard cache on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from optimum_htp.caching import LRUCache
from optimum_htp.hubs.base import HubAccess
from optimum_htp.origin.references import find_commit, parse_reference
from optimum_htp.parsing import is_commit
from optimum_htp.plugins import HUGGING_FACE

__all__ = ["HFHubCache"]


class HFHubCache:
    """Keeps the results of loaders, by model, commit and loader. It is thread-safe and bounded.

    The results are shared: every caller gets the same object. Do not use it for objects that change when they are
    used, or for a fast tokenizer in several threads.

    Args:
        cache_dir: Root of the Hub's cache; None for the standard one. There is no other cache on disk.
        max_items: Maximum number of objects. The least recently used ones are removed.
    """

    def __init__(self, cache_dir: str | Path | None = None, max_items: int = 64) -> None:
        self._access = HubAccess(cache_dir=cache_dir)
        self._items: LRUCache[tuple[str, str, Any], Any] = LRUCache(max_items)

    def get_or_fetch(
        self, model_id: str, revision: str | None, loader_func: Callable[..., Any], force_download: bool = False
    ) -> Any:
        """Return the result of a loader for a model at a revision, from memory if it was loaded before.

        Args:
            model_id: Repo id, with or without `@revision`.
            revision: Branch, tag or commit; None for the default branch. A branch is looked up each time.
            loader_func: Called with the model id and `revision` (the commit), `cache_dir`, `local_files_only`, like
                `AutoConfig.from_pretrained`.
            force_download: Whether to download and load again.

        Raises:
            HFHubIntegrationError: The revision cannot be found; the subclass gives the reason.
        """
        key = (*self._found(model_id, revision), loader_func)
        return self._items.get_or_make(
            key, lambda: self._load(*key, force_download=force_download), anew=force_download
        )

    def _found(self, model_id: str, revision: str | None) -> tuple[str, str]:
        """Return a model's name without a revision, and its commit."""
        asked = parse_reference(model_id, revision)
        name = asked.repo_id if asked.hub.name == HUGGING_FACE else f"{asked.hub.name}://{asked.repo_id}"
        if is_commit(asked.revision):
            return name, asked.revision
        return name, find_commit(asked.hub, asked.repo_id, asked.revision, self._access).commit

    def _load(self, model_id: str, commit: str, loader: Callable[..., Any], *, force_download: bool) -> Any:
        """Load at the full commit. huggingface_hub then requests only files that are not in the cache."""
        options = {"force_download": True} if force_download else {}
        return loader(model_id, revision=commit, cache_dir=self._access.cache_dir, local_files_only=False, **options)
