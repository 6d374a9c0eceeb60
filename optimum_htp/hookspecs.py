"""The hooks with which other distributions extend this package.

A plugin is a module or object in the entry-point group `optimum_htp`; see `plugins.py`. "Write a plugin" in
`docs/plugins.md` has a complete example.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from optimum_htp.commands import CommandEntry, Destination
    from optimum_htp.hubs.base import Hub, RepoInfo
    from optimum_htp.metadata import ExportMetadata

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("optimum_htp")
hookimpl = pluggy.HookimplMarker("optimum_htp")


@hookspec
def optimum_htp_hubs() -> Sequence[Hub]:  # type: ignore[empty-body]
    """Return the Hubs that this plugin adds. A name that is already used is an error.

    If this raises, its Hubs are left out with a warning, and models of other Hubs load. A file of a Hub that no other
    plugin provides is then an error.

    Example:
        class AcmeHub(optimum_htp.hubs.Hub):
            name = "acme"  # acme://org/name, and the value of `hf_hub_provider`
            ...

        @optimum_htp.hookimpl
        def optimum_htp_hubs():
            return [AcmeHub()]
    """


@hookspec
def optimum_htp_metadata(  # type: ignore[empty-body]
    metadata: ExportMetadata, info: RepoInfo | None
) -> Mapping[str, str]:
    """Return additional metadata properties for every file of an export.

    `info` is the Hub's information about the model, None for a local one. Keys that begin with `hf_` or `htp.` are
    reserved: with such a key, the export ends with a `PluginError`. An exception here also ends the export with a
    `PluginError`, so no file lacks its properties.

    Example:
        @optimum_htp.hookimpl
        def optimum_htp_metadata(metadata, info):
            return {"acme_ticket": os.environ["ACME_TICKET"], "acme_owner": info.author if info else "unknown"}
    """


@hookspec
def optimum_htp_preprocessors(  # type: ignore[empty-body]
    files: Sequence[str], configs: Mapping[str, Mapping[str, object]]
) -> Sequence[str]:
    """Return the names of further Auto classes that load preprocessors of a model with these files.

    `configs` contains the parsed content of its JSON configs, by file name. An exception here, or a class that the
    installed transformers does not have, ends the export with a `PluginError`, because a file without the name of a
    preprocessor is loaded without it.

    Example:
        @optimum_htp.hookimpl
        def optimum_htp_preprocessors(files, configs):
            pages = configs.get("config.json", {}).get("model_type") == "acme-pages"
            return ["AutoImageProcessor"] if pages else []
    """


@hookspec
def optimum_htp_commands() -> Sequence[CommandEntry]:  # type: ignore[empty-body]
    """Return the commands that this plugin adds to `optimum-cli htp`.

    A command with a name that is already used is left out with a warning. So are all commands of a plugin that raises
    here.

    Example:
        @optimum_htp.hookimpl
        def optimum_htp_commands():
            return [optimum_htp.CommandEntry("acme", "Send files to Acme.", "acme_htp.command:AcmeCommand")]
    """


@hookspec
def optimum_htp_destinations() -> Sequence[Destination]:  # type: ignore[empty-body]
    """Return the destinations that `optimum-cli export htp` and `htp inject` can send their files to.

    The destinations of a plugin that raises here are left out with a warning.
    """
