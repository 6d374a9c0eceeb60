"""The Hugging Face Hub, through huggingface_hub, with its standard cache and variables."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.errors import HFHubIntegrationError, HubServerError, OfflineError, RevisionNotFoundError
from optimum_htp.hookspecs import hookimpl
from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo
from optimum_htp.hubs.refusals import translated_errors

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from huggingface_hub.hf_api import ModelInfo

__all__ = ["HuggingFaceHub", "optimum_htp_hubs"]

logger = logging.getLogger(__name__)

_DEFAULT_REVISION = "main"
_PARALLEL_DOWNLOADS = 8


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add the Hugging Face Hub."""
    return [HuggingFaceHub()]


class HuggingFaceHub:
    """The Hub at `HF_ENDPOINT`."""

    name = "huggingface"

    def info(self, repo_id: str, revision: str | None, access: HubAccess) -> RepoInfo:
        """See `Hub.info`. One request; two more where the model card has to be fetched to be read."""
        from huggingface_hub import HfApi, constants

        if access.local_files_only:
            raise OfflineError(
                f"The Hub was not asked about {repo_id}, because local_files_only is set. Unset it once, so "
                "that the model enters the cache."
            )
        with translated_errors(repo_id, revision):
            info = HfApi().model_info(
                repo_id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=access.token
            )
        card = info.card_data or self._model_card(info, access)
        return _repo_info(info, card)

    def cached_commit(self, repo_id: str, revision: str | None, access: HubAccess) -> str | None:
        """See `Hub.cached_commit`."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            folder = snapshot_download(repo_id, revision=revision, cache_dir=access.cache_dir, local_files_only=True)
        except (LocalEntryNotFoundError, HFValidationError):
            return None
        return Path(folder).name

    def full_commit(self, repo_id: str, prefix: str, access: HubAccess) -> str:
        """See `Hub.full_commit`. The client takes only full commits for pinned, so a short one never reaches it."""
        from huggingface_hub import HfApi

        cached = sorted(self._folder(repo_id, prefix, access).parent.glob(f"{prefix}*"))
        if len(cached) == 1:
            return cached[0].name
        if access.local_files_only:
            raise OfflineError(
                f"The cache has no commit {prefix} of {repo_id}, and local_files_only forbids to ask the Hub."
            )
        with translated_errors(repo_id, None):
            commits = [one.commit_id for one in HfApi().list_repo_commits(repo_id, token=access.token)]
        found = [commit for commit in commits if commit.startswith(prefix)]
        if len(found) != 1:
            raise RevisionNotFoundError(
                f"{len(found)} commits of {repo_id} begin with {prefix}. Name the full commit with revision=."
            )
        return found[0]

    def snapshot(
        self,
        repo_id: str,
        commit: str,
        files: Sequence[str],
        access: HubAccess,
        *,
        optional: Sequence[str] = (),
        ref: str | None = None,
        progress: bool = False,
    ) -> Path:
        """See `Hub.snapshot`. At most two requests a missing file."""
        from huggingface_hub import constants

        if not (access.local_files_only or constants.HF_HUB_OFFLINE):
            files = (*files, *optional)
        folder = self._folder(repo_id, commit, access)
        missing = [
            name for name in files if access.force_download or not self._is_cached(repo_id, commit, name, access)
        ]
        if missing:
            self._download(repo_id, commit, missing, access, progress=progress)
        if ref is not None and ref != commit:
            _note_ref(folder.parents[1] / "refs", ref, commit)
        return folder

    def _download(self, repo_id: str, commit: str, names: Sequence[str], access: HubAccess, *, progress: bool) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
        from huggingface_hub.utils import tqdm

        def fetch(name: str) -> None:
            try:
                hf_hub_download(
                    repo_id,
                    name,
                    revision=commit,
                    cache_dir=access.cache_dir,
                    token=access.token,
                    local_files_only=access.local_files_only,
                    force_download=access.force_download,
                )
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                logger.debug("%s@%s has no %s", repo_id, commit, name)

        with translated_errors(repo_id, commit), ThreadPoolExecutor(_PARALLEL_DOWNLOADS) as pool:
            bar = tqdm(total=len(names), desc=f"Fetching {len(names)} files", disable=None if progress else True)
            with bar:
                for _ in pool.map(fetch, names):
                    bar.update()

    def _is_cached(self, repo_id: str, commit: str, name: str, access: HubAccess) -> bool:
        """Whether the cache has the file, or knows that the commit does not."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(repo_id, name, cache_dir=access.cache_dir, revision=commit) is not None

    def _folder(self, repo_id: str, commit: str, access: HubAccess) -> Path:
        from huggingface_hub import constants
        from huggingface_hub.file_download import repo_folder_name

        cache = Path(access.cache_dir or constants.HF_HUB_CACHE).expanduser()
        return cache / repo_folder_name(repo_id=repo_id, repo_type="model") / "snapshots" / commit

    def _model_card(self, info: ModelInfo, access: HubAccess) -> ModelCardData | None:
        """Read the card from the repo, for Hubs that leave it out of their answer."""
        import yaml
        from huggingface_hub import ModelCard, constants

        if constants.REPOCARD_NAME not in (sibling.rfilename for sibling in info.siblings or ()):
            return None
        try:
            folder = self.snapshot(info.id, str(info.sha), [constants.REPOCARD_NAME], access)
            data: ModelCardData = ModelCard.load(folder / constants.REPOCARD_NAME).data
            return data
        except (HFHubIntegrationError, ValueError, OSError, yaml.YAMLError) as error:
            logger.info("The model card of %s cannot be read: %s", info.id, error)
            return None


def _note_ref(refs: Path, ref: str, commit: str) -> None:
    """Note which commit a branch or tag is, in huggingface_hub's own form, for when the Hub is out of reach."""
    path = refs / ref
    if refs not in path.parents or ".." in path.parts:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit)
    except OSError as error:  # a read-only cache: only a later offline look-up is the poorer
        logger.warning("The cache cannot note that %s is %s: %s", ref, commit, error)


def _repo_info(info: ModelInfo, card: ModelCardData | None) -> RepoInfo:
    if info.sha is None:
        raise HubServerError(f"The Hub's answer about {info.id} names no commit. Try again later.")
    data: dict[str, Any] = card.to_dict() if card is not None else {}
    return RepoInfo(
        repo_id=info.id,
        commit=info.sha,
        files=tuple(sibling.rfilename for sibling in info.siblings or ()),
        tags=tuple(info.tags or ()),
        pipeline_tag=info.pipeline_tag,
        library_name=info.library_name,
        author=info.author,
        last_modified=info.last_modified.isoformat() if info.last_modified else None,
        private=info.private,
        gated=None if info.gated is None else bool(info.gated),
        downloads=info.downloads,
        likes=info.likes,
        base_model=_first(data.get("base_model")),
        license=_first(data.get("license")),
        language=data.get("language"),
        task_categories=data.get("task_categories"),
    )


def _first(value: Any) -> str | None:
    """Return a card's value as one string: cards give one or a list."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) or None
    return None if value is None else str(value)
