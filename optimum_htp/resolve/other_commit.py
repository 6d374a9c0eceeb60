"""ONNX files that a repo has kept from an earlier commit of its model.

The configs in the root of the repo are those of the model as it is at another commit, and the file's record decides.
What is in a subfolder somebody has put beside the ONNX file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from optimum_htp import plugins
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.beside import Beside, lies_in
from optimum_htp.resolve.commit_files import ConfigFolder

__all__ = ["configs_of_other_commit", "other_snapshot"]

logger = get_logger(__name__)

_warned: Final[set[tuple[str | None, ...]]] = set()


def other_snapshot(path: Path, record: ExportMetadata | None) -> Path | None:
    """Return the folder of the commit that a file was fetched at, if its record names another commit of that repo.

    Args:
        path: The file, in the cache of a Hub or anywhere else.
        record: What it says of itself.
    """
    if record is None or record.hub_id is None or "snapshots" not in path.absolute().parts:
        return None
    provider = record.hub_provider or plugins.HUGGING_FACE
    hub = next((hub for hub in plugins.hubs() if hub.name == provider), None)
    named = hub.cached_repo(path.absolute()) if hub is not None else None
    if named is None or not _are_one_repo(named[0], record.hub_id.replace("--", "/"), provider):
        return None
    commit = named[1]
    if commit.startswith(_commit_of(record)):
        return None
    return next((folder for folder in path.absolute().parents if folder.name == commit), None)


def configs_of_other_commit(folder: Path, asked: Beside) -> ConfigFolder | None:
    """Return the folder of another commit if it has what is looked for, which cannot be had at the record's commit.

    A warning says so, once.
    """
    record = asked.record
    if record is None or not lies_in(folder, asked, None, alone=True, needed=False):
        return None
    own, other = _commit_of(record), folder.name
    if (record.hub_id, own, other) not in _warned:
        _warned.add((record.hub_id, own, other))
        logger.warning(
            "%s was exported from %s at %s, whose configs cannot be had. Those at %s are used: if the model has "
            "changed, its answers are wrong. Load it once with the Hub at hand, or pass "
            'config=AutoConfig.from_pretrained("%s", revision="%s").',
            asked.path or "The ONNX file",
            record.hub_id,
            own,
            other,
            record.hub_id,
            own,
        )
    return ConfigFolder(folder, (record.hub_provider or plugins.HUGGING_FACE, str(record.hub_id), other))


def _are_one_repo(one: str, other: str, provider: str) -> bool:
    """Whether two ids are of one repo: an old id without an organization leads to the repo that has it now."""
    one, other = one.casefold(), other.casefold()
    if provider == plugins.HUGGING_FACE and ("/" in one) != ("/" in other):
        return one.rpartition("/")[2] == other.rpartition("/")[2]
    return one == other


def _commit_of(record: ExportMetadata) -> str:
    return record.hub_sha or record.hub_revision or ""
