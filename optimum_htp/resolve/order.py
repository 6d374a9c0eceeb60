"""The order of the places in which a model's configs and preprocessors are searched for.

    adjacent    the folder of the ONNX file, if the config there matches the file
    embedded    the ONNX file itself
    cache       the Hub's cache on this machine
    mirror      copies of commits on mirrors
    hub         the Hub

An argument (`config=`, `revision=`) comes before all of them. `OPTIMUM_HTP_RESOLVE=adjacent,hub` searches only the
listed places, in this order.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Final

from optimum_htp.errors import ArgumentError, DownloadError, HubUnreachableError, OfflineError
from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.origin import mirrors

__all__ = [
    "ADJACENT",
    "CACHE",
    "EMBEDDED",
    "HUB",
    "MIRROR",
    "CommitFiles",
    "asks",
    "find_files",
    "order",
    "stages",
    "within_order",
]

ADJACENT: Final = "adjacent"
EMBEDDED: Final = "embedded"
CACHE: Final = "cache"
MIRROR: Final = "mirror"
HUB: Final = "hub"
_DEFAULT: Final = (ADJACENT, EMBEDDED, CACHE, MIRROR, HUB)
_VARIABLE: Final = "OPTIMUM_HTP_RESOLVE"


def order() -> tuple[str, ...]:
    """Return the places to search, in order.

    Raises:
        ArgumentError: `OPTIMUM_HTP_RESOLVE` contains an unknown place.
    """
    text = os.environ.get(_VARIABLE, "").strip()
    if not text:
        return _DEFAULT
    steps = tuple(dict.fromkeys(step.strip().lower() for step in text.split(",") if step.strip()))
    if unknown := [step for step in steps if step not in _DEFAULT]:
        raise ArgumentError(f"{_VARIABLE} contains {unknown[0]!r}. Use any of {','.join(_DEFAULT)}.")
    return steps


def asks(step: str) -> bool:
    """Whether a place is searched."""
    return step in order()


def stages() -> tuple[tuple[str, ...], ...]:
    """Return the places to search, in order; consecutive places with files by commit form one stage.

    Such a stage at the end is left out: it is used if no other stage has the files.
    """
    groups = tuple(tuple(steps) for _, steps in groupby(order(), lambda step: step if step not in _PLACES else HUB))
    return groups[:-1] if groups and groups[-1][0] in _PLACES else groups


def within_order(access: HubAccess, places: Sequence[str] | None = None) -> HubAccess:
    """Return the options for Hub requests, without connections if the Hub is not among the places."""
    if access.local_files_only or (asks(HUB) if places is None else HUB in places):
        return access
    return dataclasses.replace(access, local_files_only=True, force_download=False)


@dataclass(frozen=True)
class CommitFiles:
    """Needed files of one commit, and the places to search, in order; None for all.

    `optional` files may be missing while connections are forbidden.
    """

    hub: Hub
    repo_id: str
    commit: str
    files: Sequence[str]
    access: HubAccess
    optional: Sequence[str] = ()
    places: Sequence[str] | None = None

    def snapshot(self, access: HubAccess) -> Path:
        """Return the folder of the files from their Hub."""
        return self.hub.snapshot(self.repo_id, self.commit, self.files, access, optional=self.optional)


def _from_cache(wanted: CommitFiles) -> Path:
    return wanted.snapshot(dataclasses.replace(wanted.access, local_files_only=True, force_download=False))


def _from_hub(wanted: CommitFiles) -> Path:
    """Use the Hub, which searches its cache itself unless the cache is excluded."""
    access = wanted.access
    if not asks(CACHE) and not access.local_files_only:
        access = dataclasses.replace(access, force_download=True)
    return wanted.snapshot(access)


def _from_mirror(wanted: CommitFiles) -> Path:
    folder = mirrors.fetch(
        wanted.hub.name, wanted.repo_id, wanted.commit, wanted.files, wanted.access, optional=wanted.optional
    )
    if folder is None:
        raise DownloadError(
            f"No mirror has the files of {wanted.repo_id} at {wanted.commit}. Fill a mirror with `optimum-cli htp "
            "mirror`."
        )
    return folder


_PLACES: Final[Mapping[str, Callable[[CommitFiles], Path]]] = {
    CACHE: _from_cache,
    MIRROR: _from_mirror,
    HUB: _from_hub,
}
"""The functions for the places with files by commit."""


def find_files(wanted: CommitFiles) -> Path:
    """Return a folder with files of a commit, from the first place that has them.

    Raises:
        OfflineError: `OPTIMUM_HTP_RESOLVE` lists no place that could have them.
        HFHubIntegrationError: They are not available; the subclass gives the reason, from the last place.
    """
    places = order() if wanted.places is None else wanted.places
    steps = [step for step in places if step in _PLACES and (step != MIRROR or mirrors.mirrors())]
    if (CACHE, HUB) in pairwise(steps):
        steps.remove(CACHE)  # huggingface_hub searches its cache first.
    if not steps:
        raise OfflineError(
            f"{wanted.repo_id} at {wanted.commit} was not searched for, because {_VARIABLE} lists none of {CACHE}, "
            f"{MIRROR} and {HUB}. Add one of them."
        )
    for step in steps[:-1]:
        try:
            return _PLACES[step](wanted)
        except (HubUnreachableError, DownloadError):
            continue
    return _PLACES[steps[-1]](wanted)
