"""Hubs: where models come from. `base` says what a Hub is, each other module is one."""

from optimum_htp.hubs.base import Hub, HubAccess, RepoInfo

__all__ = ["Hub", "HubAccess", "RepoInfo"]
