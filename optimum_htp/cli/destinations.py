"""Destinations of written files, which plugins add as options such as `--push-to-hub`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.cli.display import show
from optimum_htp.commands import Destination
from optimum_htp.errors import OptimumHTPError, PluginError
from optimum_htp.masking import get_logger

__all__ = ["add_destinations", "send"]

logger = get_logger(__name__)

_TAKEN: Final = frozenset({"engine", "error", "failed", "files", "message", "metadata", "seconds", "task"})
"""Keys of the JSON documents of our commands."""


def add_destinations(parser: Any) -> list[str]:
    """Add the options of all destinations; return the names of their arguments.

    A destination is skipped with a warning if it fails, or if its name or one of its options exists already.
    """
    from optimum_htp.plugins import destinations

    accepted: dict[str, tuple[str, Destination]] = {}
    names: list[str] = []
    for plugin, one in destinations():
        try:
            own = ArgumentParser(add_help=False)
            one.add_arguments(own)
            options = [action.dest for action in own._actions]
            existing = own._option_string_actions.keys() & parser._option_string_actions.keys()
            existing |= {*options} & {action.dest for action in parser._actions}
            existing |= {one.name} & {*_TAKEN, *accepted}
            if existing:
                raise ValueError(f"{', '.join(sorted(existing))} exists already")
            one.add_arguments(parser)
        except Exception as error:  # noqa: BLE001 - code of plugins can raise anything
            logger.warning("A destination of the plugin %r is skipped: %s: %s", plugin, type(error).__name__, error)
            continue
        accepted[one.name] = plugin, one
        names += options
    parser.set_defaults(destinations=tuple(accepted.values()))
    return names


def send(args: Namespace, files: Sequence[str | Path], document: dict[str, Any]) -> None:
    """Send files to the destinations that the options select.

    `document` receives each result under the name of its destination. Without `--json` the results are printed.

    Raises:
        PluginError: A destination raises an error of another package.
    """
    for plugin, destination in args.destinations:
        try:
            result = destination.send(args, files)
            lines = [] if result is None or args.json else destination.lines(result)
        except (OptimumHTPError, OSError):
            raise
        except Exception as error:
            raise PluginError(
                f"The plugin {plugin!r} of optimum-htp fails to send the files: {type(error).__name__}: {error}. "
                "Upgrade it or uninstall it."
            ) from error
        if result is not None:
            document[destination.name] = dict(result)
        for line in lines:
            show(line)
