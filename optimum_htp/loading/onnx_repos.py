"""Repos of a Hub that hold stamped ONNX files: which file a name means, and fetching it.

Nobody asks for this before Optimum or transformers have failed on a repo, so loads of other repos make no request
more than without us.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import (
    ConfigLoadError,
    InvalidModelReferenceError,
    MissingSiblingError,
    ModelNotFoundError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    SeveralModelsError,
)
from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.libraries.names import CONFIG, ONNX_FILE, ONNX_FOLDERS
from optimum_htp.loading.recognize import names_a_remote_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import external_files, is_contained, read_metadata
from optimum_htp.origin.references import Reference, find_commit, has_prefix, parse_reference
from optimum_htp.resolve.config_folder import Carrier
from optimum_htp.resolve.embedded import EmbeddedFiles, embedded_in
from optimum_htp.resolve.model_files import folder_above
from optimum_htp.resolve.other_commit import other_snapshot
from optimum_htp.resolve.remote_file import RemoteEmbeddedFiles, hub_files, read_hub_header

__all__ = ["OnnxRepo", "find_onnx_repo"]

logger = get_logger(__name__)

_SHOWN: Final = 10  # names in a message
_REMEMBERED: Final = 4096
_without_onnx: Final[set[tuple[str, str, str | None]]] = set()  # Hubs, repos and commits
_NAME_OPTIONS: Final = ("file_name", "encoder_file_name", "decoder_file_name", "decoder_with_past_file_name")


@dataclass(frozen=True)
class OnnxRepo:
    """A repo at a commit, and the ONNX file in it that stands for a model.

    Attributes:
        hub: The Hub that it is on.
        repo_id: The repo.
        commit: Full commit.
        file: The file, relative to the repo.
        named: Further files that the user named.
        access: How to reach the Hub.
        ref: The branch or tag that led to the commit.
        there: All ONNX files of the repo.
        has_config: Whether it has a config too.
    """

    hub: Hub
    repo_id: str
    commit: str
    file: str
    named: tuple[str, ...]
    access: HubAccess
    ref: str
    there: tuple[str, ...]
    has_config: bool = False

    def record_if_any(self) -> ExportMetadata | None:
        """Return what the file says of itself, without downloading it where it is not in the cache."""
        cached = self.hub.snapshot(self.repo_id, self.commit, (), self.access) / self.file
        if cached.is_file():
            properties = read_metadata(cached)
        else:
            properties = read_hub_header(self.hub, self.repo_id, self.commit, self.file, self.access).metadata
        return ExportMetadata.from_properties(properties)

    def record(self) -> ExportMetadata:
        """Return what the file says of itself.

        Raises:
            ConfigLoadError: It says nothing.
        """
        record = self.record_if_any()
        if record is None:
            raise ConfigLoadError(
                f"{self.file} of {self.repo_id} does not say which model it came from. If that "
                "is one of transformers, fetch the file and stamp it with `optimum-cli htp inject --model ID`; "
                "any other, such as most of the ONNX Model Zoo, runs in onnxruntime.InferenceSession alone."
            )
        return record

    def embedded(self, record: ExportMetadata) -> EmbeddedFiles | None:
        """Return the files that travel with the model, None where there are none, or in a file that is not there.

        Args:
            record: What the file says of itself.
        """
        here = self.hub.snapshot(self.repo_id, self.commit, (), self.access)
        if (here / self.file).is_file() and (found := embedded_in(here / self.file, record)) is not None:
            return found
        if not record.embedded_files or self.access.local_files_only:
            return None
        holder = self.file
        if record.embedded_in is not None and record.onnx_file is not None:
            root = self._root(record.onnx_file)
            if root is None:
                return None
            holder = (root / record.embedded_in).as_posix()
        return RemoteEmbeddedFiles(
            f"{self.repo_id}/{self.file}",
            f"{self.repo_id}/{holder}",
            record.embedded_files,
            record.export_library,
            self.hub,
            self.repo_id,
            self.commit,
            holder,
            self.access,
        )

    def carrier(self) -> Carrier:
        """Return the file as one whose model's files are looked for.

        Raises:
            ConfigLoadError: It says nothing of itself.
        """
        record = self.record()
        name = f"{self.repo_id}/{self.file}"
        return Carrier(name, record, None, (), True, lambda: self.embedded(record), self.other(record))

    def other(self, record: ExportMetadata | None) -> Path | None:
        """Return the folder of the commit in the cache if the file is of another commit of the same repo."""
        here = self.hub.snapshot(self.repo_id, self.commit, (), self.access)
        return other_snapshot(here / self.file, record, self.access)

    def fetch(self) -> Path:
        """Fetch the file, the others of its model, and their external data; return its path in the cache."""
        folder = self._snapshot((self.file, *self.named))
        names = [self.file, *self.named]
        record = read_record(folder / self.file)
        if record is not None and record.onnx_file is not None:
            root = self._root(record.onnx_file)
            if root is None:
                raise MissingSiblingError(
                    f"{self.file} of {self.repo_id} says that it is {record.onnx_file} of a model of several files, "
                    "and does not lie where that could be. Upload the export's folder as it is."
                )
            parts = [(root / name).as_posix() for name in record.onnx_files]
            names += [name for name in parts if name in self.there]  # a class may do without the others
            self._snapshot(names)
        data = []
        for name in dict.fromkeys(names):
            if (folder / name).is_file():
                beside = PurePosixPath(name).parent
                data += [
                    (beside / location).as_posix()
                    for location in external_files(folder / name)
                    if is_contained(location)
                ]
        self._snapshot(data)
        return folder / self.file

    def _root(self, part: str) -> PurePosixPath | None:
        """Return the folder of a model of which the file is a part; None where the file does not lie as it should."""
        return folder_above(PurePosixPath(self.file).parent, PurePosixPath(part))

    def _snapshot(self, names: Sequence[str]) -> Path:
        return self.hub.snapshot(self.repo_id, self.commit, names, self.access, ref=self.ref, progress=True)


def find_onnx_repo(model_id: Any, options: Mapping[str, Any], *, bare: bool = True) -> OnnxRepo | None:
    """Return the repo that a call of `from_pretrained` means where it holds ONNX files, else None.

    Args:
        model_id: What was given to `from_pretrained`.
        options: Its keyword arguments; `revision` is that of this repo.
        bare: Whether only a repo without a config is meant: with one, Optimum and `AutoConfig` say what is wrong.

    Raises:
        SeveralModelsError: The repo holds several models.
        OnnxFileNotFoundError: It has no file of the name that the options have.
        HFHubIntegrationError: A file on a Hub is named, and cannot be had; the subclass says why.
    """
    if not isinstance(model_id, str) or options.get("export"):
        return None
    if not has_prefix(model_id) and Path(model_id).exists():
        return None
    try:
        access = HubAccess.from_options(options)
        if names_a_remote_file(model_id):
            return _named_file(model_id, options.get("revision"), access)
        asked = parse_reference(model_id, options.get("revision"))
        subfolder = PurePosixPath(str(options.get("subfolder") or ""))
        config = (subfolder / CONFIG).as_posix()
        if (bare and _has_config(asked, config, access)) or _is_known_without_onnx(asked, access):
            return None
        commit, files = _contents(asked, access)
    except OptimumHTPError as error:
        if names_a_remote_file(model_id):
            raise
        # What has failed before us says it in its own words.
        logger.debug("%s is not a repo of ONNX files: %s", model_id, error)
        return None
    there = tuple(sorted(name for name in files if name.lower().endswith(".onnx")))
    ref = asked.revision or asked.hub.default_revision
    if bare and config in files:
        return None
    has_config = config in files or CONFIG in files
    repo = OnnxRepo(asked.hub, asked.repo_id, commit, "", (), access, ref, there, has_config)
    given = [str(options[name]) for name in _NAME_OPTIONS if options.get(name)]
    for folder in ONNX_FOLDERS:
        place = PurePosixPath(subfolder, folder)
        named = [(place / name).as_posix() for name in given]
        if named and named[0] in files:
            return dataclasses.replace(repo, file=named[0], named=tuple(named[1:]))
        inside = [name for name in there if PurePosixPath(name).parent == place]
        if inside and not named:
            return _chosen(inside, dataclasses.replace(repo, file=inside[0]))
    if given and there:
        raise OnnxFileNotFoundError(
            f"There is no {PurePosixPath(subfolder, given[0])} in {asked.repo_id}, but {', '.join(there[:_SHOWN])}. "
            "Give one of these as file_name=, and its folder as subfolder=."
        )
    return None


def _named_file(url: str, revision: str | None, access: HubAccess) -> OnnxRepo:
    """Return the repo and the file that a URL names.

    Raises:
        OnnxFileNotFoundError: There is no such file.
        InvalidModelReferenceError: The URL asks for another revision than is given besides.
        HFHubIntegrationError: The Hub does not say what is there; the subclass says why.
    """
    is_address = url.startswith(("http://", "https://"))
    prefix = plugins.HUGGING_FACE if is_address else url.partition("://")[0]
    missing: ModelNotFoundError | None = None
    for repo_id, named, file in hub_files(url):
        asked = parse_reference(f"{prefix}://{repo_id}" + (f"@{named}" if named else ""), revision)
        try:
            commit, files = _contents(asked, access)
        except ModelNotFoundError as error:
            missing = missing or error
            continue
        if file not in files:
            raise OnnxFileNotFoundError(f"There is no file {file} in {repo_id} at {commit}. Check repo and path.")
        there = tuple(name for name in files if name.lower().endswith(".onnx"))
        ref = asked.revision or asked.hub.default_revision
        return OnnxRepo(asked.hub, repo_id, commit, file, (), access, ref, there)
    if missing is not None:
        raise missing
    if is_address:
        raise InvalidModelReferenceError(
            f"{url} is no file of the Hub, and models are loaded from there or from this machine: download it, and "
            f"give its path. `optimum-cli htp info {url}` tells what it is."
        )
    raise InvalidModelReferenceError(f"{url} names no file: write {prefix}://organization/repo[@revision]/model.onnx.")


def _has_config(asked: Reference, config: str, access: HubAccess) -> bool:
    """Whether the cache, which has just been filled for a load that failed, holds the config that it was for."""
    commit = asked.hub.cached_commit(asked.repo_id, asked.revision, access)
    return commit is not None and (asked.hub.snapshot(asked.repo_id, commit, (), access) / config).is_file()


def _is_known_without_onnx(asked: Reference, access: HubAccess) -> bool:
    """Whether the commit that the cache has just been told of was found to hold no ONNX file: it never will."""
    commit = asked.hub.cached_commit(asked.repo_id, asked.revision, access)
    return (asked.hub.name, asked.repo_id, commit) in _without_onnx


def _contents(asked: Reference, access: HubAccess) -> tuple[str, tuple[str, ...]]:
    """Return commit and files of a repo, as the Hub says, or as far as the cache knows."""
    found = find_commit(asked.hub, asked.repo_id, asked.revision, access)
    if found.info is not None:
        if not any(name.lower().endswith(".onnx") for name in found.info.files) and len(_without_onnx) < _REMEMBERED:
            _without_onnx.add((asked.hub.name, asked.repo_id, found.commit))
        return found.commit, found.info.files
    folder = asked.hub.snapshot(asked.repo_id, found.commit, (), access)
    return found.commit, tuple(
        Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names
    )


def _chosen(names: Sequence[str], repo: OnnxRepo) -> OnnxRepo:
    """Return the repo with the file that stands for all of these: the standard one, or any if they are one model."""
    standard = [name for name in names if PurePosixPath(name).name == ONNX_FILE]
    if standard:
        return dataclasses.replace(repo, file=standard[0])
    if len(names) > 1:
        files = {PurePosixPath(name).name for name in repo.record().onnx_files}
        if any(PurePosixPath(name).name not in files for name in names):
            raise SeveralModelsError(
                f"{repo.repo_id} holds several models ({', '.join(names)}): give file_name= to name one of them."
            )
    return repo
