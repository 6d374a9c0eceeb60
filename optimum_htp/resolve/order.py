"""In which order the places are asked that may have a model's configs and preprocessors.

    beside      the folder of the ONNX file, where the config there fits it
    embedded    the ONNX file itself
    cache       the Hub's cache on this machine
    mirror      copies of commits that somebody keeps elsewhere
    hub         the Hub

An argument (`config=`, `revision=`) comes before all of them. `OPTIMUM_HTP_RESOLVE=beside,hub` asks only the places
that it names, in its order.
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
    "BESIDE",
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

BESIDE: Final = "beside"
EMBEDDED: Final = "embedded"
CACHE: Final = "cache"
MIRROR: Final = "mirror"
HUB: Final = "hub"
_DEFAULT: Final = (BESIDE, EMBEDDED, CACHE, MIRROR, HUB)
_VARIABLE: Final = "OPTIMUM_HTP_RESOLVE"


def order() -> tuple[str, ...]:
    """Return the places to ask, in their order.

    Raises:
        ArgumentError: `OPTIMUM_HTP_RESOLVE` names one that there is not.
    """
    text = os.environ.get(_VARIABLE, "").strip()
    if not text:
        return _DEFAULT
    steps = tuple(dict.fromkeys(step.strip().lower() for step in text.split(",") if step.strip()))
    if unknown := [step for step in steps if step not in _DEFAULT]:
        raise ArgumentError(f"{_VARIABLE} names {unknown[0]!r}: it takes any of {','.join(_DEFAULT)}.")
    return steps


def asks(step: str) -> bool:
    """Whether a place is to be asked at all."""
    return step in order()


def stages() -> tuple[tuple[str, ...], ...]:
    """Return the places to ask, in their order, with those side by side that have files by commit.

    Such a stage at the end is left out: it is what remains when nothing else has the files.
    """
    groups = tuple(tuple(steps) for _, steps in groupby(order(), lambda step: step if step not in _PLACES else HUB))
    return groups[:-1] if groups and groups[-1][0] in _PLACES else groups


def within_order(access: HubAccess, places: Sequence[str] | None = None) -> HubAccess:
    """Return how to reach a Hub, without a connection where it is not among the places that are asked."""
    if access.local_files_only or (asks(HUB) if places is None else HUB in places):
        return access
    return dataclasses.replace(access, local_files_only=True, force_download=False)


@dataclass(frozen=True)
class CommitFiles:
    """Files of one commit that somebody needs.

    Attributes:
        hub: Where the repo is.
        repo_id: The repo.
        commit: In full.
        files: Relative to the repo.
        optional: Files that may be missing where connections are forbidden.
        access: How to reach the Hub.
        places: Which of the places to ask, in their order; None for all of them.
    """

    hub: Hub
    repo_id: str
    commit: str
    files: Sequence[str]
    access: HubAccess
    optional: Sequence[str] = ()
    places: Sequence[str] | None = None


def _from_cache(wanted: CommitFiles) -> Path:
    access = dataclasses.replace(wanted.access, local_files_only=True, force_download=False)
    return wanted.hub.snapshot(wanted.repo_id, wanted.commit, wanted.files, access, optional=wanted.optional)


def _from_hub(wanted: CommitFiles) -> Path:
    """Ask the Hub, which looks into its cache itself unless that is not to be asked."""
    access = wanted.access
    if not asks(CACHE) and not access.local_files_only:
        access = dataclasses.replace(access, force_download=True)
    return wanted.hub.snapshot(wanted.repo_id, wanted.commit, wanted.files, access, optional=wanted.optional)


def _from_mirror(wanted: CommitFiles) -> Path:
    folder = mirrors.fetch(
        wanted.hub.name, wanted.repo_id, wanted.commit, wanted.files, wanted.access, optional=wanted.optional
    )
    if folder is None:
        raise DownloadError(
            f"No mirror has the files of {wanted.repo_id} at {wanted.commit}. Fill one with `optimum-cli htp mirror`."
        )
    return folder


_PLACES: Final[Mapping[str, Callable[[CommitFiles], Path]]] = {
    CACHE: _from_cache,
    MIRROR: _from_mirror,
    HUB: _from_hub,
}
"""What asks the places that have files by commit."""


def find_files(wanted: CommitFiles) -> Path:
    """Return a folder with files of a commit, from the first place that has them.

    Raises:
        OfflineError: `OPTIMUM_HTP_RESOLVE` names no place that could have them.
        HFHubIntegrationError: They cannot be had; the subclass says why, in the words of the last place.
    """
    places = order() if wanted.places is None else wanted.places
    steps = [step for step in places if step in _PLACES and (step != MIRROR or mirrors.mirrors())]
    if (CACHE, HUB) in pairwise(steps):
        steps.remove(CACHE)  # the Hub's client asks its cache first
    if not steps:
        raise OfflineError(
            f"{wanted.repo_id} at {wanted.commit} was not asked for, because {_VARIABLE} names neither {CACHE} nor "
            f"{MIRROR} nor {HUB}."
        )
    for step in steps[:-1]:
        try:
            return _PLACES[step](wanted)
        except (HubUnreachableError, DownloadError):
            continue
    return _PLACES[steps[-1]](wanted)
