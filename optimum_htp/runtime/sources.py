"""The files of a model: ONNX files, configs and preprocessors; adjacent, embedded, cached or on a Hub."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from optimum_htp.errors import ArgumentError, ConfigLoadError, WrongTaskError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, GENERATION_CONFIG, ONNX_FILE
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.config_folder import Carrier, carrier_of, find
from optimum_htp.resolve.embedded import EmbeddedFiles
from optimum_htp.resolve.model_files import parts_of, require_parts
from optimum_htp.runtime.sessions import Part, SessionSettings

__all__ = ["Source", "find_source"]

_SUFFIX: Final = ".onnx"
_LARGEST: Final = 1 << 28  # bytes of a preprocessor file
_Kind = TypeVar("_Kind", dict[str, Any], list[Any])


@dataclass(frozen=True)
class Source:
    """The location of a model's files.

    Attributes:
        path: Its ONNX file, or the first one.
        record: The record of this file.
        carrier: The file, as input of `resolve.config_folder.find`.
        access: How to reach the Hub.
        revision: Overrides the recorded commit of the configs.
    """

    path: Path
    record: ExportMetadata
    carrier: Carrier
    access: HubAccess
    revision: str | None

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return str(self.path)

    def opened(self, settings: SessionSettings) -> dict[str, Part]:
        """Return the sessions of the model's ONNX files, by their recorded names.

        A merged decoder replaces the other decoders.
        """

        def search(watch: Watch) -> dict[str, Part]:
            watch.see(self.path)
            if not self.record.onnx_files:
                return {ONNX_FILE: Part(self.path, settings)}
            found = parts_of(self.path, self.record, watch)
            require_parts(found, self.record)
            has_merged = any(map(_is_merged, found.by_name))
            return {
                name: Part(path, settings)
                for name, path in found.by_name.items()
                if "decoder" not in name or not has_merged or _is_merged(name)
            }

        return read_whole(self.path.parent, search)

    def config(self) -> dict[str, Any]:
        """Return the content of the model's `config.json`.

        Raises:
            ConfigLoadError: It is missing, or is not a JSON object.
        """
        content = self._read("AutoConfig", CONFIG, needed=True)
        found = json_or_none(content) if content is not None else None
        if not isinstance(found, dict):
            raise ConfigLoadError(f"The {CONFIG} of {self.name} cannot be read. Get the file again.")
        return found

    def generation_config(self) -> dict[str, Any]:
        """Return the content of the model's generation config; empty without one."""
        return self.json(GENERATION_CONFIG, dict, "GenerationConfig") or {}

    def json(self, name: str, kind: type[_Kind], what: str | None = None) -> _Kind | None:
        """Return the content of an optional JSON file; None if it is missing, or not of this kind.

        `what` is as in `find`; None for a file of sentence_transformers.
        """
        content = self._read(what or name, name, needed=False)
        found = json_or_none(content) if content is not None else None
        return found if isinstance(found, kind) else None

    def _read(self, what: str, name: str, *, needed: bool) -> bytes | None:
        place = find(self.carrier, what, self.access, self.revision, needed=needed)
        if isinstance(place, EmbeddedFiles):
            return self._embedded(place).get(name)
        path = place.folder / name if place is not None else None
        return path.read_bytes() if path is not None and path.is_file() else None

    def files(self, what: str) -> Mapping[str, bytes]:
        """Return the contents of the files of the preprocessor with the Auto class `what`, by name."""
        place = find(self.carrier, what, self.access, self.revision)
        if isinstance(place, EmbeddedFiles):
            return self._embedded(place)
        assert place is not None  # it is needed
        return {
            path.name: path.read_bytes()
            for path in place.folder.iterdir()
            if path.suffix in (".json", ".jinja", ".txt") and path.is_file() and path.stat().st_size <= _LARGEST
        }

    def file(self, name: str) -> Path | None:
        """Return the path of a file of sentence_transformers; None if it does not exist."""
        place = find(self.carrier, name, self.access, self.revision, needed=False)
        if place is None or isinstance(place, EmbeddedFiles):
            return None
        return place.folder / name if (place.folder / name).is_file() else None

    @functools.cached_property
    def _contents(self) -> dict[str, Mapping[str, bytes]]:
        return {}

    def _embedded(self, place: EmbeddedFiles) -> Mapping[str, bytes]:
        if place.digest not in self._contents:
            self._contents[place.digest] = place.read()
        return self._contents[place.digest]


def _is_merged(name: str) -> bool:
    return "decoder" in name and "merged" in name


def find_source(
    source: str | os.PathLike[str], access: HubAccess, revision: str | None, options: Mapping[str, str | None]
) -> Source:
    """Find a model with the arguments of `load`; download its ONNX files if they are on a Hub.

    The options are `subfolder` and `file_name`.
    """
    text = os.fspath(source)
    path, folder = Path(text).expanduser(), None
    if not (text.lower().endswith(_SUFFIX) and path.is_file()):
        path, folder, access, revision = _named(text, access, {"revision": revision, **options})
    elif given := [name for name, value in options.items() if value is not None]:
        raise ArgumentError(f"{path} is a file, so {given[0]}= is not allowed. Pass the folder, or leave it out.")
    record = read_record(path)
    if record is None:
        raise ConfigLoadError(
            f"{path} does not record its model. Export the model again with `optimum-cli export htp`, or add the "
            f"record with `optimum-cli htp inject {path} --model ID`."
        )
    if record.submodule is not None:
        raise WrongTaskError(
            f"{path} contains only the module {record.submodule} of {record.source}. Run it with "
            "onnxruntime.InferenceSession."
        )
    return Source(path, record, carrier_of(path, record, access, folder), access, revision)


def _named(
    text: str, access: HubAccess, options: Mapping[str, str | None]
) -> tuple[Path, Path | None, HubAccess, str | None]:
    """Return the file of a folder, a repo or a URL, its folder, and the access and revision for its configs."""
    from optimum_htp.loading.named import named_or_error

    given = {
        "token": access.token,
        "cache_dir": access.cache_dir,
        "local_files_only": access.local_files_only or None,
        **options,
    }
    found = named_or_error(text, {name: value for name, value in given.items() if value is not None})
    return found.fetched(), found.folder, found.access, found.options.get("revision")
