"""Check the embedded files of an ONNX file against the commit in its record.

The tree of a commit lists the digest of each file, so one request is enough and no file is downloaded.
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
    """The result of a check: the fault as a sentence, and the content of the embedded `config.json`.

    `words` is appended to the result of the other checks. `unproven` is why the files were not compared with the
    commit; None if they were.
    """

    fault: str | None = None
    config: Mapping[str, Any] | None = None
    words: str = ""
    unproven: str | None = None


def check_embedded(path: Path, record: ExportMetadata, access: HubAccess | None) -> EmbeddedCheck | None:
    """Compare the embedded files with their list in the record and, if `access` is given, with the commit.

    Returns None if the file has no embedded files.
    """
    if not record.embedded_files:
        return None
    found = embedded_in(path, record)
    if found is None:
        return EmbeddedCheck(unproven=f"they are in {record.embedded_in}, which is missing")
    try:
        contents = found.read(with_code=True)
    except EmbeddedFilesError as error:
        return EmbeddedCheck(str(error))
    config = json_or_none(contents[CONFIG]) if CONFIG in contents else None
    config = config if isinstance(config, dict) else None
    if access is None or record.hub_sha is None:
        return EmbeddedCheck(config=config, unproven="the record contains no full commit")
    hub = plugins.hub(record.hub_provider)
    digests = hub.digests(str(record.hub_id), record.hub_sha, access)
    if digests is None:
        return EmbeddedCheck(unproven=f"{hub.name} has no digests of its files")
    contents.pop(EXPORT_MANIFEST, None)  # This file belongs to the export, not to the commit.
    if names := differing(contents, digests):
        return EmbeddedCheck(
            f"{', '.join(names)} in it {'differs' if len(names) == 1 else 'differ'} from {record.source}. Embed the "
            f"files of the commit with `optimum-cli htp embed {path}`."
        )
    count = len(contents)
    return EmbeddedCheck(
        config=config,
        words=f"; its {f'{count} embedded files are' if count > 1 else 'embedded file is'} identical to the commit's",
    )


def differing(contents: Mapping[str, bytes], digests: Mapping[str, FileDigest]) -> tuple[str, ...]:
    """Return the names of the files that a commit does not contain, or contains with another digest."""
    stated = {name: digests.get(name, FileDigest()) for name in contents}
    return tuple(
        name for name, content in contents.items() if not stated[name].fits(io.BytesIO(content), len(content))
    )
