"""Hubs: the sources of models. `base` defines the interface; most other modules serve every Hub with HTTP.

Names are imported on first use, because commands that use no Hub also register its plugin.
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
