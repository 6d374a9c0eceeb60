"""What a call of `from_pretrained` names: an ONNX file, a folder of such, a file of a Hub or a repo.

`named` is the only place that tells, and that knows which options of the call have played their part with that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import OnnxFileNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import ONNX_PATTERN
from optimum_htp.loading.other_commits import overriding_commit
from optimum_htp.loading.recognize import (
    chosen_options,
    local_path,
    names_a_file,
    names_a_remote_file,
    pinned_file,
)
from optimum_htp.loading.stamped_files import stamped_file
from optimum_htp.metadata import read_record
from optimum_htp.resolve.config_folder import Carrier, carrier_of

if TYPE_CHECKING:
    from optimum_htp.loading.onnx_repos import OnnxRepo

__all__ = ["Local", "Named", "named", "named_or_error"]

Local = Callable[[Any, Mapping[str, Any]], Path | None]

_OF_FOLDERS: Final = ("subfolder", "file_name")
_OF_REPOS: Final = (*_OF_FOLDERS, "revision", "force_download")


@dataclass(frozen=True)
class Named:
    """An ONNX file that stands for a model.

    Attributes:
        path: The file; None for one on a Hub.
        repo: The repo that it is in; None for a file here.
        folder: The folder that was named, if it was one.
        options: The options of the call that are still to be looked at.
    """

    path: Path | None
    repo: OnnxRepo | None
    folder: Path | None
    options: Mapping[str, Any]

    def fetched(self) -> Path:
        """Return the file, fetched with the others of its model where it is on a Hub.

        Raises:
            ConfigLoadError: A file on a Hub says nothing of itself, and no config was given.
        """
        if self.path is not None:
            return self.path
        assert self.repo is not None
        if self.options.get("config") is None:
            self.repo.record()  # says why it cannot be loaded, before anything is fetched
        return self.repo.fetch()

    def carrier(self) -> Carrier:
        """Return the file as one whose model's files are looked for; one on a Hub is not fetched for that.

        Raises:
            OnnxFileNotFoundError: There is no such file.
            ConfigLoadError: A file on a Hub says nothing of itself.
        """
        if self.repo is not None:
            return self.repo.carrier()
        assert self.path is not None
        if not self.path.is_file():
            raise OnnxFileNotFoundError(f"There is no ONNX file at {self.path}. Check the path.")
        return carrier_of(self.path, read_record(self.path), self.access, self.folder)

    def of_its_commit(self, options: Mapping[str, Any]) -> Named | None:
        """Return the file in the cache where its repo is at another commit than it is of, and nobody asks for that.

        Args:
            options: Of the call.
        """
        if self.carrier().other is None or "revision" in self.options:
            return None
        left = {name: value for name, value in self.options.items() if name != "local_files_only"}
        kept = {name: options[name] for name in ("local_files_only",) if name in options}
        return Named(self.fetched(), None, None, {**left, **kept})

    @property
    def access(self) -> HubAccess:
        """How to reach the Hub that its configs are on."""
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
    """Return the ONNX file that a call names where it is ours to answer, else None.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments.
        failed: Whether the library has found nothing there; only then is a repo looked into.
        opens: Whether the call opens the file, rather than what belongs to its model.
        bare: Whether a repo that has a config is answered for by the library alone.
        local: What finds the file in a folder here; None for `stamped_file`.

    Raises:
        SeveralModelsError: A folder or a repo holds several models.
        OnnxFileNotFoundError: A file that the options name is not there.
        HFHubIntegrationError: A file on a Hub is named, and cannot be had; the subclass says why.
    """
    if (pinned := pinned_file.get()) is not None and pinned[0] == model_id:
        return Named(pinned[1], None, None, _without(options, _OF_REPOS))
    chosen = chosen_options(model_id) if isinstance(model_id, (str, os.PathLike)) else {}
    asked = {**options, **{name: value for name, value in chosen.items() if not options.get(name)}}
    if failed and isinstance(model_id, str) and model_id.startswith("file://"):
        raise OnnxFileNotFoundError(
            f"There is no ONNX file that says which model it is of at {local_path(model_id)}. Check the path; a "
            "folder of another model is given as a path, without file://."
        )
    if failed or names_a_remote_file(model_id):
        # Reading what is on a Hub takes many modules: a first load of a file here is a tenth faster without them.
        from optimum_htp.loading.onnx_repos import find_onnx_repo

        repo = find_onnx_repo(model_id, asked, bare=bare)
        record = repo.record_if_any() if repo is not None and repo.has_config else None
        if repo is None or (repo.has_config and record is None):
            return None
        left = _without(options, _OF_REPOS)
        if record is not None and (commit := overriding_commit(repo.carrier(), options, repo.access)) is not None:
            left["revision"] = commit
        return Named(None, repo, None, left)
    path = stamped_file(model_id, asked, opens=opens) if local is None else local(model_id, options)
    if path is None:
        return None
    if names_a_file(model_id):
        return Named(path, None, None, options)
    folder = Path(local_path(model_id), options.get("subfolder") or "")
    return Named(path, None, folder, _without(options, _OF_FOLDERS))


def named_or_error(model_id: str | os.PathLike[str], options: Mapping[str, Any]) -> Named:
    """Return the ONNX file with a record that a call opens.

    Args:
        model_id: The file, a folder, a repo, or an address.
        options: Keyword arguments, as of `from_pretrained`.

    Raises:
        OnnxFileNotFoundError: There is no such file, or a folder has several.
        SeveralModelsError, HFHubIntegrationError: As `named`.
    """
    found = named(model_id, options, opens=True) or named(model_id, options, failed=True, opens=True)
    if found is not None and (found.path is None or found.path.is_file()):
        return found
    folder = Path(local_path(model_id))
    there = sorted(path.name for path in folder.glob(ONNX_PATTERN)) if folder.is_dir() else []
    if len(there) > 1:
        raise OnnxFileNotFoundError(f"{folder} has several ONNX files ({', '.join(there)}): name one of them.")
    raise OnnxFileNotFoundError(f"There is no ONNX file with a record at {model_id}. Check the path.")


def _without(options: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in names}
