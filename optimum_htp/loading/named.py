"""Finds the ONNX file that a call of `from_pretrained` names by a path, a folder, a Hub file or a repo.

Only `named` decides this, and removes the options that only serve to find the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OnnxFileNotFoundError, SeveralModelsError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, ONNX_FILE, ONNX_FOLDERS, ONNX_PATTERN
from optimum_htp.loading.other_commits import overriding_commit
from optimum_htp.loading.recognize import (
    chosen_options,
    has_onnx,
    local_path,
    names_a_file,
    names_a_remote_file,
    path_of_file,
    pinned_path,
)
from optimum_htp.metadata import ExportMetadata, read_record, record_if_any
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.resolve.config_folder import Carrier, carrier_of
from optimum_htp.resolve.model_files import stamped_in

if TYPE_CHECKING:
    from optimum_htp.loading.onnx_repos import OnnxRepo

__all__ = ["Local", "Named", "named", "named_or_error", "stamped_file"]

Local = Callable[[Any, Mapping[str, Any]], Path | None]

_FOLDER_OPTIONS: Final = ("subfolder", "file_name")
_REPO_OPTIONS: Final = (*_FOLDER_OPTIONS, "revision", "force_download")


@dataclass(frozen=True)
class Named:
    """The ONNX file of a model.

    Attributes:
        path: The local file; None for a file on a Hub.
        repo: The repo with the file; None for a local file.
        folder: The folder that the call names, if any.
        options: The options of the call that still matter.
    """

    path: Path | None
    repo: OnnxRepo | None
    folder: Path | None
    options: Mapping[str, Any]

    def fetched(self) -> Path:
        """Return the local file. A file on a Hub is downloaded with the other files of its model.

        ConfigLoadError: A file on a Hub has no record, and no config was given.
        """
        if self.path is not None:
            return self.path
        assert self.repo is not None
        if self.options.get("config") is None:
            self.repo.record()  # raises before anything is downloaded
        return self.repo.fetch()

    def carrier(self) -> Carrier:
        """Return the starting point of a search for the model's other files. Does not download the ONNX file.

        ConfigLoadError: A file on a Hub has no record.
        """
        if self.repo is not None:
            return self.repo.carrier()
        assert self.path is not None
        if not self.path.is_file():
            raise OnnxFileNotFoundError(f"There is no ONNX file at {self.path}. Check the path.")
        return carrier_of(self.path, read_record(self.path), self.access, self.folder)

    def of_its_commit(self, options: Mapping[str, Any]) -> Named | None:
        """Return the cached file if its repo is at another commit than its record, and the call gives no revision."""
        if self.carrier().other is None or "revision" in self.options:
            return None
        name = "local_files_only"
        kept = {name: options[name]} if name in options else {}
        return Named(self.fetched(), None, None, {**_without(self.options, (name,)), **kept})

    @property
    def access(self) -> HubAccess:
        """How to reach the Hub with its configs."""
        return self.repo.access if self.repo is not None else HubAccess.from_options(self.options)


def named(
    model_id: Any,
    options: Mapping[str, Any],
    *,
    failed: bool = False,
    opens: bool = False,
    bare: bool = False,
    local: Local | None = None,
) -> Named | None:
    """Return the ONNX file with a record that a call names, or None if the library must handle the call.

    Args:
        model_id: The argument of `from_pretrained`.
        options: Its keyword arguments.
        failed: Whether the library has found nothing. Only then are repos searched.
        opens: Whether the call opens the ONNX file, and not only the model's other files.
        bare: Whether to leave repos with a config to the library.
        local: The function that finds the file in a local folder; None for `stamped_file`.

    Raises:
        SeveralModelsError: A folder or a repo contains several models.
        OnnxFileNotFoundError: A file that the options name does not exist.
        HFHubIntegrationError: A named file on a Hub is not available; the subclass gives the reason.
    """
    if (pinned := pinned_path(model_id)) is not None:
        return Named(pinned, None, None, _without(options, _REPO_OPTIONS))
    chosen = chosen_options(model_id) if isinstance(model_id, (str, os.PathLike)) else {}
    asked = {**options, **{name: value for name, value in chosen.items() if not options.get(name)}}
    if failed and isinstance(model_id, str) and model_id.startswith("file://"):
        raise OnnxFileNotFoundError(
            f"There is no ONNX file with a record at {local_path(model_id)}. Check the path. For a folder of another "
            "model, pass a path without file://."
        )
    if failed or names_a_remote_file(model_id):
        # The code for Hub files imports many modules: without them, the first load of a local file is 10 % faster.
        from optimum_htp.loading.onnx_repos import find_onnx_repo

        repo = find_onnx_repo(model_id, asked, bare=bare)
        record = repo.record_if_any() if repo is not None and repo.has_config else None
        if repo is None or (repo.has_config and record is None):
            return None
        left = _without(options, _REPO_OPTIONS)
        if record is not None and (commit := overriding_commit(repo.carrier(), options, repo.access)) is not None:
            left["revision"] = commit
        return Named(None, repo, None, left)
    path = stamped_file(model_id, asked, opens=opens) if local is None else local(model_id, options)
    if path is None:
        return None
    if names_a_file(model_id):
        return Named(path, None, None, options)
    folder = Path(local_path(model_id), options.get("subfolder") or "")
    return Named(path, None, folder, _without(options, _FOLDER_OPTIONS))


def named_or_error(model_id: str | os.PathLike[str], options: Mapping[str, Any]) -> Named:
    """Return the ONNX file with a record that a call opens, or raise an error.

    Raises:
        OnnxFileNotFoundError: The file does not exist, or a folder contains several.
        SeveralModelsError, HFHubIntegrationError: As in `named`.
    """
    found = named(model_id, options, opens=True) or named(model_id, options, failed=True, opens=True)
    if found is not None and (found.path is None or found.path.is_file()):
        return found
    folder = Path(local_path(model_id))
    names = sorted(path.name for path in folder.glob(ONNX_PATTERN)) if folder.is_dir() else []
    if len(names) > 1:
        raise OnnxFileNotFoundError(f"{folder} contains several ONNX files ({', '.join(names)}). Pass one of them.")
    raise OnnxFileNotFoundError(f"There is no ONNX file with a record at {model_id}. Check the path.")


def stamped_file(model_id: Any, options: Mapping[str, Any], *, opens: bool = True) -> Path | None:
    """Return the ONNX file that a call of `from_pretrained` names, or None if the library must handle the call.

    The call can name a path that ends in `.onnx`, or a folder of files with a record.
    """
    if names_a_file(model_id):
        return path_of_file(model_id)
    if options.get("export") or not has_onnx(model_id, options.get("subfolder")):
        return None
    name = options.get("file_name") or options.get("encoder_file_name")
    root = Path(local_path(model_id), options.get("subfolder") or "")
    folders = [place for inside in ONNX_FOLDERS if any((place := root / inside).glob(ONNX_PATTERN))]
    folder = next((place for place in folders if name and (place / name).is_file()), (folders or [root])[0])
    if name and not (folder / name).is_file() and (root / name).is_file():
        folder, name = (root / name).parent, Path(name).name

    def search(watch: Watch) -> Path | None:
        for file in folder.glob(ONNX_PATTERN):
            watch.see(file)
        return _file_in_folder(folder, name, opens=opens)

    return read_whole(folder, search)


def _file_in_folder(folder: Path, name: str | None, *, opens: bool) -> Path | None:
    """Return the ONNX file with a record to load from a folder, or None.

    It is the requested file, or `model.onnx`, or the first file if all files belong to one model. If the call does not
    open the file, different exports of one model are interchangeable.
    """
    records = stamped_in(folder)
    if not records:
        return None
    wanted = folder / (name or ONNX_FILE)
    if wanted.is_file():
        return wanted if wanted in records or record_if_any(wanted) is not None else None
    if name is not None and opens:
        if any(folder.rglob(PurePosixPath(name).name)):  # Optimum searches subfolders too
            return None
        raise OnnxFileNotFoundError(
            f"There is no {name} in {folder}. It has {', '.join(path.name for path in records)}. Pass one of these as "
            "file_name= (for encoder and decoder: encoder_file_name=, decoder_file_name=)."
        )
    first, *others = records
    if all(_are_one_model(records[other], records[first], opens=opens) for other in others):
        return first
    if (folder / CONFIG).is_file():
        return None  # Optimum raises its own error, if it fails
    raise SeveralModelsError(
        f"{folder} contains {len(records)} models ({', '.join(path.name for path in records)}). Pass the path of one "
        "of these files, or file_name=."
    )


def _are_one_model(record: ExportMetadata, other: ExportMetadata, *, opens: bool) -> bool:
    """Whether two files are parts of one model, or, if no file is opened, whether they are exports of one model."""
    if record.belongs_with(other) and other.onnx_files:
        return True
    same = record.hub_id is not None and (record.hub_id, record.hub_sha) == (other.hub_id, other.hub_sha)
    return not opens and (same or (bool(record.embedded_files) and record.embedded_files == other.embedded_files))


def _without(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
