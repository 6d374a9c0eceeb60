"""Hubs: where models come from. `base` says what a Hub is; most of the rest serves every Hub that speaks HTTP.

The names are imported when they are used: commands that ask no Hub register its plugin too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo

__all__ = ["Hub", "HubAccess", "RepoInfo"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from optimum_htp.hubs import base

    return getattr(base, name)
