"""Holding the files that travel in an ONNX file against the commit that it says they are of.

A commit's tree gives the digest of each of its files, so one request tells for all of them, and none is fetched.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimum_htp import plugins
from optimum_htp.errors import EmbeddedFilesError
from optimum_htp.hubs.base import FileDigest, HubAccess
from optimum_htp.libraries.names import CONFIG, EXPORT_MANIFEST
from optimum_htp.metadata import ExportMetadata
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.embedded import embedded_in

__all__ = ["EmbeddedCheck", "check_embedded", "differing"]


@dataclass(frozen=True)
class EmbeddedCheck:
    """What came of a comparison.

    Attributes:
        fault: What is wrong, in words; None where nothing is.
        config: Content of the embedded `config.json`, None where there is none.
        words: What to add to what else is known of the file.
        unproven: Why the files were not compared with the commit's; None where they were.
    """

    fault: str | None = None
    config: Mapping[str, Any] | None = None
    words: str = ""
    unproven: str | None = None


def check_embedded(path: Path, record: ExportMetadata, access: HubAccess | None) -> EmbeddedCheck | None:
    """Compare what is embedded in a file with its own list, and with its commit; None where nothing is.

    Args:
        path: The file.
        record: What it says of itself.
        access: How to reach the Hub; None for a file that is of no commit.

    Raises:
        HFHubIntegrationError: The Hub does not tell the digests; the subclass says why.
    """
    if not record.embedded_files:
        return None
    found = embedded_in(path, record)
    if found is None:
        return EmbeddedCheck(unproven=f"they are in {record.embedded_in}, which is not here")
    try:
        contents = found.read(with_code=True)
    except EmbeddedFilesError as error:
        return EmbeddedCheck(str(error))
    config = json_or_none(contents[CONFIG]) if CONFIG in contents else None
    config = config if isinstance(config, dict) else None
    if access is None or record.hub_sha is None:
        return EmbeddedCheck(config=config, unproven="the record names no full commit")
    hub = plugins.hub(record.hub_provider)
    digests = hub.digests(str(record.hub_id), record.hub_sha, access)
    if digests is None:
        return EmbeddedCheck(unproven=f"{hub.name} does not tell the digests of its files")
    contents.pop(EXPORT_MANIFEST, None)  # of the export, not of the commit
    if names := differing(contents, digests):
        return EmbeddedCheck(
            f"{', '.join(names)} in it {'is' if len(names) == 1 else 'are'} not what {record.source} has: embed the "
            f"commit's with `optimum-cli htp embed {path}`."
        )
    count = len(contents)
    return EmbeddedCheck(
        config=config, words=f", and the {f'{count} files' if count > 1 else 'file'} in it are the commit's"
    )


def differing(contents: Mapping[str, bytes], digests: Mapping[str, FileDigest]) -> tuple[str, ...]:
    """Return the names of files that a commit does not have, or has otherwise."""
    stated = {name: digests.get(name, FileDigest()) for name in contents}
    return tuple(
        name for name, content in contents.items() if not stated[name].fits(io.BytesIO(content), len(content))
    )
