"""The plugin manager, and what its plugins add up to."""

from __future__ import annotations

import functools
import importlib
from typing import Final

import pluggy

from optimum_htp import hookspecs
from optimum_htp.errors import HFHubIntegrationError
from optimum_htp.hubs.base import Hub

__all__ = ["HUGGING_FACE", "hub", "manager"]

HUGGING_FACE: Final = "huggingface"
_BUILT_IN: Final = ("optimum_htp.hubs.huggingface",)
_GROUP: Final = "optimum_htp"


@functools.cache
def manager() -> pluggy.PluginManager:
    """Return the plugin manager with the built-in plugins and all installed ones."""
    plugins = pluggy.PluginManager(_GROUP)
    plugins.add_hookspecs(hookspecs)
    for name in _BUILT_IN:
        plugins.register(importlib.import_module(name), name)
    plugins.load_setuptools_entrypoints(_GROUP)
    plugins.check_pending()
    return plugins


def hub(provider: str | None = None) -> Hub:
    """Return the Hub of a name, the Hugging Face Hub for None.

    Raises:
        HFHubIntegrationError: No plugin provides it, or two do.
    """
    name = provider or HUGGING_FACE
    found = [one for hubs in manager().hook.optimum_htp_hubs() for one in hubs if one.name == name]
    if len(found) == 1:
        return found[0]  # type: ignore[no-any-return]
    if not found:
        raise HFHubIntegrationError(
            f"The model comes from the Hub {name!r}, which no installed plugin provides. Install the plugin "
            "of optimum-htp that does."
        )
    raise HFHubIntegrationError(f"{len(found)} installed plugins provide the Hub {name!r}. Uninstall all but one.")
