"""Options that several commands have: one name and one help text for each.

Plugins add options for destinations of written files, such as `--push-to-hub`.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.display import show
from optimum_htp.cli.parser import integer
from optimum_htp.errors import OptimumHTPError, PluginError
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from optimum_htp.commands import Destination
    from optimum_htp.hubs import HubAccess

__all__ = [
    "CACHE_DIR",
    "FORCE_DOWNLOAD",
    "LOCAL_FILES_ONLY",
    "MODEL",
    "REVISION",
    "add_destinations",
    "add_dry_run_argument",
    "add_embed_argument",
    "add_external_data_argument",
    "add_force_argument",
    "add_hub_arguments",
    "add_jobs_argument",
    "add_json_argument",
    "add_trust_remote_code_argument",
    "hub_access",
    "send",
]

logger = get_logger(__name__)

MODEL: Final = "Model: repo id on the Hub (NAME or ORG/NAME, optionally with @REVISION), or local folder."
REVISION: Final = "Branch, tag, commit or refs/pr/N of the model."
CACHE_DIR: Final = "Folder of the Hub's cache (default: the cache of huggingface_hub)."
LOCAL_FILES_ONLY: Final = "Use only files of the cache; do not connect to a Hub."
FORCE_DOWNLOAD: Final = "Download files again, even if they are in the cache."
_TAKEN: Final = frozenset({"engine", "error", "failed", "files", "message", "metadata", "seconds", "task"})
"""Keys of the JSON documents of our commands."""


def add_json_argument(parser: Any) -> None:
    """Declare `--json`."""
    parser.add_argument("--json", action="store_true", help="Print one JSON document on standard output.")


def add_jobs_argument(parser: Any, cores: int = 1) -> None:
    """Declare `--jobs`; by default, a job has this number of cores."""
    share = "number of cores" if cores == 1 else f"number of cores divided by {cores}"
    parser.add_argument(
        "--jobs",
        type=integer(1),
        default=max(1, (os.cpu_count() or 1) // cores),
        metavar="N",
        help=f"Number of files or models to process in parallel (default: {share}).",
    )


def add_force_argument(parser: Any) -> None:
    """Declare how a file of another kind is replaced; see `check_output`."""
    parser.add_argument(
        "--force",
        action="store_true",
        help="Let an output such as a report replace an existing file of another kind, but never an ONNX file or an "
        "input file.",
    )


def add_embed_argument(parser: Any) -> None:
    """Declare `--embed`."""
    parser.add_argument(
        "--embed",
        choices=("all", "config", "none"),
        default="all",
        help="Files to embed in the (first) ONNX file: config and preprocessors (all, the default), the config only, "
        "or none.",
    )


def add_dry_run_argument(parser: Any) -> None:
    """Declare `--dry-run`."""
    parser.add_argument("--dry-run", action="store_true", help="Show the changes without writing.")


def add_external_data_argument(parser: Any) -> None:
    """Declare the option of commands that change files in place."""
    parser.add_argument(
        "--external-data",
        action="store_true",
        help="Move the weights to FILE_data next to each file; required if a file would exceed 2 GiB.",
    )


def add_trust_remote_code_argument(parser: Any) -> None:
    """Declare `--trust-remote-code`."""
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="Run Python code of the model's repo on this machine."
    )


def add_hub_arguments(parser: Any, *, cache_dir: bool = True) -> None:
    """Declare how to reach the Hub; without `--cache-dir` if the parser has it already."""
    if cache_dir:
        parser.add_argument("--cache-dir", metavar="DIR", help=CACHE_DIR)
    parser.add_argument("--local-files-only", action="store_true", help=LOCAL_FILES_ONLY)
    parser.add_argument("--force-download", action="store_true", help=FORCE_DOWNLOAD)


def hub_access(args: Namespace) -> HubAccess:
    """Return the values of the options that `add_hub_arguments` declares."""
    from optimum_htp.hubs import HubAccess

    return HubAccess(
        cache_dir=args.cache_dir, local_files_only=args.local_files_only, force_download=args.force_download
    )


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
