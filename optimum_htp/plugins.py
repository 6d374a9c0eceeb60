"""The plugin manager, and the registry of Hubs, commands and destinations.

Plugins are code of others. A plugin that cannot be loaded is left out with a warning. If a plugin fails in a hook, the
message names it; `hookspecs` describes for each hook whether this is a warning or an error.
"""

from __future__ import annotations

import functools
import importlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from optimum_htp.commands import CommandEntry, Destination
from optimum_htp.errors import PluginError, UnknownHubError
from optimum_htp.forking import ForkSafeLock
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    import pluggy

    from optimum_htp.hubs.base import Hub

__all__ = ["HUGGING_FACE", "answers", "commands", "destinations", "hub", "hub_of_prefix", "hubs", "manager"]

T = TypeVar("T")

logger = get_logger(__name__)

HUGGING_FACE: Final = "huggingface"
_BUILT_IN: Final = (
    "optimum_htp.hubs.huggingface",
    *(
        f"optimum_htp.extras.{name}"
        for name in ("batch", "bom", "endpoint", "mirror", "modelscope", "profile", "push")
    ),
)
_GROUP: Final = "optimum_htp"
_LOADING: Final = ForkSafeLock(threading.RLock)  # Files are processed in parallel, and each plugin is loaded once.


def manager() -> pluggy.PluginManager:
    """Return the plugin manager with the built-in plugins and all installed plugins that can be loaded."""
    with _LOADING.held():
        return _manager()


@functools.cache
def _manager() -> pluggy.PluginManager:
    # Most loads of a file need no plugin, and importlib.metadata takes as long as the rest of this package.
    from importlib import metadata

    import pluggy

    from optimum_htp import hookspecs

    plugins = pluggy.PluginManager(_GROUP)
    plugins.add_hookspecs(hookspecs)
    for name in _BUILT_IN:
        plugins.register(importlib.import_module(name), name)
    for point in metadata.entry_points(group=_GROUP):
        try:
            plugins.load_setuptools_entrypoints(_GROUP, point.name)
            plugins.check_pending()
        except Exception as error:  # noqa: BLE001 - the others are loaded in any case
            if plugins.has_plugin(point.name):
                plugins.unregister(name=point.name)
            logger.warning(
                "The plugin %r of optimum-htp%s is left out: %s: %s. Upgrade it or uninstall it.",
                point.name,
                f" ({point.dist.name} {point.dist.version})" if point.dist is not None else "",
                type(error).__name__,
                error,
            )
    return plugins


def answers(hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
    """Call a hook of each plugin; yield its name, and its result or a `PluginError`."""
    plugins = manager()
    asked = {impl.plugin_name: impl.plugin for impl in getattr(plugins.hook, hook).get_hookimpls()}
    for name, plugin in asked.items():
        others = [other for other in asked.values() if other is not plugin]
        try:
            for answer in plugins.subset_hook_caller(hook, others)(**arguments):
                yield name, answer
        except Exception as error:  # noqa: BLE001 - others' code may raise anything
            failure = PluginError(
                f"The plugin {name!r} of optimum-htp fails in {hook}: {type(error).__name__}: {error}. Upgrade it or "
                "uninstall it."
            )
            failure.__cause__ = error
            yield name, failure


def hub(provider: str | None = None) -> Hub:
    """Return the Hub with a name, the Hugging Face Hub for None.

    Raises:
        UnknownHubError: No plugin provides it, or a plugin that may provide it fails.
        PluginError: Two plugins provide it.
    """
    wanted = provider or HUGGING_FACE
    return _the_one(wanted, f"The model is from the Hub {wanted!r}", lambda hub: hub.name == wanted)


def hub_of_prefix(prefix: str) -> Hub:
    """Return the Hub for `prefix://org/name`: by its name, or by its alias.

    Raises:
        UnknownHubError, PluginError: As `hub`.
    """
    return _the_one(prefix, f"{prefix}:// names the Hub {prefix!r}", lambda hub: prefix in (hub.name, hub.alias))


def hubs() -> list[Hub]:
    """Return all Hubs of all plugins. Plugins that fail are left out with a warning."""
    return [hub for _, hub in _without_failures("Hubs", *_hubs())]


def commands(taken: Collection[str] = ()) -> dict[str, CommandEntry]:
    """Return the commands that plugins add to `optimum-cli htp`, by name.

    A command is left out with a warning if its name is already used by the command line or by an earlier plugin.
    """
    known: dict[str, CommandEntry] = {}
    for plugin, entry in _without_failures("commands", *_provided("optimum_htp_commands", CommandEntry)):
        if entry.name in taken or known.setdefault(entry.name, entry) is not entry:
            _warn_once(
                f"The command {entry.name!r} of the plugin {plugin!r} is left out, because the name is already used."
            )
    return known


def destinations() -> list[tuple[str, Destination]]:
    """Return the destinations that plugins add, each with the plugin's name."""
    provided = _provided("optimum_htp_destinations", Destination)  # type: ignore[type-abstract]
    return _without_failures("destinations", *provided)


def _hubs() -> tuple[list[tuple[str, Hub]], list[PluginError]]:
    from optimum_htp.hubs.base import Hub

    return _provided("optimum_htp_hubs", Hub)  # type: ignore[type-abstract]


def _provided(hook: str, kind: type[T]) -> tuple[list[tuple[str, T]], list[PluginError]]:
    """Return the results of a hook, each with the plugin's name, and the failures."""
    found, failures = [], []
    for name, provided in answers(hook):
        if isinstance(provided, PluginError):
            failures.append(provided)
        elif others := [one for one in provided if not isinstance(one, kind)]:
            failures.append(
                PluginError(
                    f"The plugin {name!r} of optimum-htp returns {others[0]!r} from {hook}, which is not a "
                    f"{kind.__name__}. Upgrade it or uninstall it."
                )
            )
        else:
            found += [(name, one) for one in provided]
    return found, failures


def _without_failures(what: str, found: list[tuple[str, T]], failures: list[PluginError]) -> list[tuple[str, T]]:
    """Warn of the plugins whose results are left out; return those of the others."""
    for failure in failures:
        _warn_once(f"{failure} Its {what} are left out.")
    return found


def _the_one(wanted: str, problem: str, fits: Callable[[Hub], bool]) -> Hub:
    provided, failures = _hubs()
    found = [(name, hub) for name, hub in provided if fits(hub)]
    if len(found) > 1:
        names = ", ".join(repr(name) for name, _ in found)
        raise PluginError(
            f"{len(found)} installed plugins provide the Hub {wanted!r} ({names}). Uninstall all but one."
        )
    if not found:
        known = ", ".join(sorted(hub.name for _, hub in provided))
        why = " ".join(map(str, failures)) or (
            f"Known Hubs: {known}. Install the distribution that adds the Hub to the entry-point group {_GROUP!r}; "
            "the author of the file or name knows which one."
        )
        raise UnknownHubError(f"{problem}, which no installed plugin provides. {why}") from (
            failures[0] if failures else None
        )
    return _without_failures("Hubs", found, failures)[0][1]


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)
