"""Finds and downloads ONNX files with a record in Hub repos.

Used only after Optimum or transformers have failed on a repo. So loads of other repos make no additional requests.
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
from optimum_htp.loading.recognize import is_onnx_name, names_a_remote_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import external_files, is_contained, read_metadata
from optimum_htp.origin.references import Reference, find_commit, has_prefix, parse_reference
from optimum_htp.resolve.adjacent import other_snapshot
from optimum_htp.resolve.config_folder import Carrier
from optimum_htp.resolve.embedded import EmbeddedFiles, embedded_in
from optimum_htp.resolve.model_files import folder_above
from optimum_htp.resolve.remote_file import RemoteEmbeddedFiles, hub_files, read_hub_header

__all__ = ["OnnxRepo", "find_onnx_repo"]

logger = get_logger(__name__)

_SHOWN: Final = 10  # names in a message
_REMEMBERED: Final = 4096
_without_onnx: Final[set[tuple[str, str, str | None]]] = set()  # Hub, repo and commit of repos without ONNX files
_NAME_OPTIONS: Final = ("file_name", "encoder_file_name", "decoder_file_name", "decoder_with_past_file_name")


@dataclass(frozen=True)
class OnnxRepo:
    """A repo at a commit, and the ONNX file of a model in it.

    Attributes:
        file: The file's path in the repo.
        named: More files that the user named.
        ref: The revision that resolved to the commit.
        onnx_files: All ONNX files of the repo.
    """

    hub: Hub
    repo_id: str
    commit: str
    file: str
    named: tuple[str, ...]
    access: HubAccess
    ref: str
    onnx_files: tuple[str, ...]
    has_config: bool = False

    @property
    def _cached(self) -> Path:
        """The path of the file in the cache."""
        return self.hub.snapshot(self.repo_id, self.commit, (), self.access) / self.file

    def record_if_any(self) -> ExportMetadata | None:
        """Return the file's record, or None. An uncached file is not downloaded: only its header is read."""
        if (cached := self._cached).is_file():
            properties = read_metadata(cached)
        else:
            properties = read_hub_header(self.hub, self.repo_id, self.commit, self.file, self.access).metadata
        return ExportMetadata.from_properties(properties)

    def record(self) -> ExportMetadata:
        """Return the file's record, or raise ConfigLoadError."""
        record = self.record_if_any()
        if record is None:
            raise ConfigLoadError(
                f"{self.file} of {self.repo_id} has no record of its model. If it is a transformers model, download "
                "the file and run `optimum-cli htp inject FILE --model ID`. Load any other model, such as most of the "
                "ONNX Model Zoo, with onnxruntime.InferenceSession."
            )
        return record

    def embedded(self, record: ExportMetadata) -> EmbeddedFiles | None:
        """Return the model's embedded files, or None if there are none or their ONNX file is not available."""
        cached = self._cached
        if cached.is_file() and (found := embedded_in(cached, record)) is not None:
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
        """Return the starting point of a search for the model's other files, or raise ConfigLoadError."""
        record = self.record()
        name = f"{self.repo_id}/{self.file}"
        other = other_snapshot(self._cached, record, self.access)
        return Carrier(name, record, None, (), True, lambda: self.embedded(record), other)

    def fetch(self) -> Path:
        """Download the file, the other files of its model, and their external data. Return its path in the cache."""
        folder = self._snapshot((self.file, *self.named))
        names = [self.file, *self.named]
        record = read_record(folder / self.file)
        if record is not None and record.onnx_file is not None:
            root = self._root(record.onnx_file)
            if root is None:
                raise MissingSiblingError(
                    f"{self.file} of {self.repo_id} is recorded as {record.onnx_file} of a model of several files, "
                    "which does not match its path. Upload the export's folder unchanged."
                )
            parts = [(root / name).as_posix() for name in record.onnx_files]
            names += [name for name in parts if name in self.onnx_files]  # a class can work without the others
            self._snapshot(names)
        there = [name for name in dict.fromkeys(names) if (folder / name).is_file()]
        self._snapshot(
            [
                (PurePosixPath(name).parent / location).as_posix()
                for name in there
                for location in external_files(folder / name)
                if is_contained(location)
            ]
        )
        return folder / self.file

    def _root(self, part: str) -> PurePosixPath | None:
        """Return the folder of the model of which the file is a part, or None if the file's path does not match."""
        return folder_above(PurePosixPath(self.file).parent, PurePosixPath(part))

    def _snapshot(self, names: Sequence[str]) -> Path:
        return self.hub.snapshot(self.repo_id, self.commit, names, self.access, ref=self.ref, progress=True)


def find_onnx_repo(model_id: Any, options: Mapping[str, Any], *, bare: bool = True) -> OnnxRepo | None:
    """Return the repo that a call of `from_pretrained` names, or None if it has no ONNX files.

    With `bare`, a repo with a config is ignored, for which Optimum and `AutoConfig` raise the error.

    Raises:
        SeveralModelsError, OnnxFileNotFoundError, HFHubIntegrationError: As in `named`.
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
        cached = asked.hub.cached_commit(asked.repo_id, asked.revision, access)
        if (asked.hub.name, asked.repo_id, cached) in _without_onnx:
            return None
        # The failed load has just downloaded the config if it exists.
        if bare and cached is not None and (_folder(asked, cached, access) / config).is_file():
            return None
        commit, files = _contents(asked, access)
    except OptimumHTPError as error:
        if names_a_remote_file(model_id):
            raise
        # The library's own error is raised instead.
        logger.debug("%s is not a repo of ONNX files: %s", model_id, error)
        return None
    onnx_files = tuple(sorted(filter(is_onnx_name, files)))
    ref = asked.revision or asked.hub.default_revision
    if bare and config in files:
        return None
    has_config = config in files or CONFIG in files
    repo = OnnxRepo(asked.hub, asked.repo_id, commit, "", (), access, ref, onnx_files, has_config)
    given = [str(options[name]) for name in _NAME_OPTIONS if options.get(name)]
    for folder in ONNX_FOLDERS:
        place = PurePosixPath(subfolder, folder)
        named = [(place / name).as_posix() for name in given]
        if named and named[0] in files:
            return dataclasses.replace(repo, file=named[0], named=tuple(named[1:]))
        inside = [name for name in onnx_files if PurePosixPath(name).parent == place]
        if inside and not named:
            return _chosen(inside, dataclasses.replace(repo, file=inside[0]))
    if given and onnx_files:
        raise OnnxFileNotFoundError(
            f"There is no {PurePosixPath(subfolder, given[0])} in {asked.repo_id}. It has "
            f"{', '.join(onnx_files[:_SHOWN])}. Pass one of these as file_name=, and its folder as subfolder=."
        )
    return None


def _named_file(url: str, revision: str | None, access: HubAccess) -> OnnxRepo:
    """Return the repo and the file that a URL names. InvalidModelReferenceError: it names none on a Hub."""
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
        onnx_files = tuple(filter(is_onnx_name, files))
        ref = asked.revision or asked.hub.default_revision
        return OnnxRepo(asked.hub, repo_id, commit, file, (), access, ref, onnx_files)
    if missing is not None:
        raise missing
    if is_address:
        raise InvalidModelReferenceError(
            f"{url} is not a Hub file. Download the file and pass its path. `optimum-cli htp info {url}` shows its "
            "record."
        )
    raise InvalidModelReferenceError(
        f"{url} does not name a file. Use {prefix}://organization/repo[@revision]/model.onnx."
    )


def _folder(asked: Reference, commit: str, access: HubAccess) -> Path:
    """Return the folder of a commit in the cache. Nothing is downloaded."""
    return asked.hub.snapshot(asked.repo_id, commit, (), access)


def _contents(asked: Reference, access: HubAccess) -> tuple[str, tuple[str, ...]]:
    """Return commit and files of a repo, from the Hub or, without a connection, from the cache."""
    found = find_commit(asked.hub, asked.repo_id, asked.revision, access)
    if found.info is not None:
        if not any(map(is_onnx_name, found.info.files)) and len(_without_onnx) < _REMEMBERED:
            _without_onnx.add((asked.hub.name, asked.repo_id, found.commit))
        return found.commit, found.info.files
    folder = _folder(asked, found.commit, access)
    return found.commit, tuple(
        Path(root, name).relative_to(folder).as_posix() for root, _, names in os.walk(folder) for name in names
    )


def _chosen(names: Sequence[str], repo: OnnxRepo) -> OnnxRepo:
    """Return the repo with the file to load: `model.onnx`, or the first file if all belong to one model."""
    standard = [name for name in names if PurePosixPath(name).name == ONNX_FILE]
    if standard:
        return dataclasses.replace(repo, file=standard[0])
    if len(names) > 1:
        files = {PurePosixPath(name).name for name in repo.record().onnx_files}
        if any(PurePosixPath(name).name not in files for name in names):
            raise SeveralModelsError(
                f"{repo.repo_id} contains several models ({', '.join(names)}). Pass file_name= to select one."
            )
    return repo
