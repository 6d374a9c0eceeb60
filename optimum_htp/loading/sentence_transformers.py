"""What makes a sentence_transformers model of a stamped ONNX file: its modules, their configs and their weights.

These files lie beside the transformer in its repo, and only sentence_transformers reads them. So they come when it
asks: configs that travel in the ONNX file from there, the others and weights from the file's commit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from optimum_htp import plugins
from optimum_htp.errors import SeveralModelsError, UntrustedCodeError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.loading.stamped_files import file_in_folder
from optimum_htp.metadata import read_record
from optimum_htp.origin.code_references import refuse_code, refuse_code_in
from optimum_htp.origin.embedded import NOT_RUN, embedded_in
from optimum_htp.origin.names import CONFIG, WEIGHTS
from optimum_htp.origin.repo_files import is_sentence_transformers_file
from optimum_htp.origin.resolution import EMBEDDED, CommitFiles, asks, find_files

__all__ = ["sentence_file"]


def sentence_file(
    folder: Path, name: str, access: HubAccess, is_trusted: Callable[[], bool] = lambda: False
) -> Path | None:
    """Return a file that sentence_transformers misses in a folder of stamped ONNX files.

    Args:
        folder: The folder.
        name: The file, relative to the folder, with `/`.
        access: How to reach the Hub.
        is_trusted: Tells whether the user trusts code of the repo; asked only for a file that refers to some.

    Returns:
        Its path, in a folder of embedded files or in the cache; None for a folder that is not of a
        sentence_transformers model, and for files that the commit does not have.

    Raises:
        UntrustedCodeError: The file refers to code, and is embedded, or code is not trusted.
        HFHubIntegrationError: The Hub does not give the file; the subclass says why.
    """
    try:
        file = file_in_folder(folder)
    except SeveralModelsError:  # whose file it would be cannot be told: sentence_transformers does without it
        return None
    record = read_record(file) if file is not None else None
    if file is None or record is None:
        return None
    embedded = embedded_in(file, record) if asks(EMBEDDED) and not access.force_download else None
    if embedded is not None and name in embedded.names and is_sentence_transformers_file(name):
        path = embedded.folder() / name
        try:
            refuse_code({name: path.read_bytes()}, embedded.holder, NOT_RUN.format(file=embedded.holder))
        except UntrustedCodeError:
            if record.model_type != "hub" or not is_trusted():
                raise
        else:
            return path
    if record.model_type != "hub" or record.hub_sha is None:
        return None
    known = [file for file in record.config_files or () if is_sentence_transformers_file(file)]
    wanted = known
    if name not in known:
        module = PurePosixPath(name).parent  # only a module has weights of its own
        if PurePosixPath(name).name != WEIGHTS or str(module / CONFIG) not in known:
            return None
        wanted = [name]
    hub = plugins.hub(record.hub_provider)
    wanted_files = CommitFiles(hub, str(record.hub_id), record.hub_sha, wanted, access)
    commit = find_files(wanted_files)
    try:
        refuse_code_in(commit, [name], f"{record.hub_id} at {record.hub_sha}")
    except UntrustedCodeError:
        if not is_trusted():
            raise
    return commit / name if (commit / name).is_file() else None
