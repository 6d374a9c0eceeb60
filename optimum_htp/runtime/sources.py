"""The files of a model: its ONNX files, and its configs and preprocessors from beside, inside, a cache or a Hub."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ConfigLoadError, WrongTaskError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.libraries.names import CONFIG, GENERATION_CONFIG, ONNX_FILE
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile.replace_files import Watch, read_whole
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.config_folder import Carrier, carrier_of, find
from optimum_htp.resolve.embedded import EmbeddedFiles
from optimum_htp.resolve.model_files import parts_of, require_parts
from optimum_htp.runtime.sessions import Part, SessionSettings

if TYPE_CHECKING:
    pass

__all__ = ["Source", "find_source"]

_SUFFIX: Final = ".onnx"
_LARGEST: Final = 1 << 28  # bytes of a file of a preprocessor


@dataclass(frozen=True)
class Source:
    """Where the files of a model are.

    Attributes:
        path: The ONNX file that stands for it.
        record: What that says of itself.
        carrier: The file as one whose model's files are looked for.
        access: How to reach the Hub.
        revision: Overrides the commit of the file.
    """

    path: Path
    record: ExportMetadata
    carrier: Carrier
    access: HubAccess
    revision: str | None

    @property
    def name(self) -> str:
        """What messages call the model."""
        return str(self.path)

    def opened(self, settings: SessionSettings) -> dict[str, Part]:
        """Return the sessions of the model's files, by the names that these had at export.

        Of decoders, a merged one is opened alone.

        Raises:
            MissingSiblingError: A file is missing.
            InvalidOnnxFileError: ONNX Runtime cannot load one.
        """

        def search(watch: Watch) -> dict[str, Part]:
            watch.see(self.path)
            if not self.record.onnx_files:
                return {ONNX_FILE: Part(self.path, settings)}
            found = parts_of(self.path, self.record, watch)
            require_parts(found, self.record)
            merged = [name for name in found.by_name if "decoder" in name and "merged" in name]
            wanted = {
                name: path
                for name, path in found.by_name.items()
                if not merged or "decoder" not in name or name in merged
            }
            return {name: Part(path, settings) for name, path in wanted.items()}

        return read_whole(self.path.parent, search)

    def config(self) -> dict[str, Any]:
        """Return the content of the model's config.

        Raises:
            ConfigLoadError: It cannot be had, or is not JSON.
        """
        found = self.json("AutoConfig", CONFIG)
        if found is None:
            raise ConfigLoadError(f"The {CONFIG} of {self.name} cannot be read. Get the file again.")
        return found

    def generation_config(self) -> dict[str, Any]:
        """Return the content of the model's generation config; empty where it has none."""
        return self.json("GenerationConfig", GENERATION_CONFIG, needed=False) or {}

    def json(self, what: str, name: str, *, needed: bool = True) -> dict[str, Any] | None:
        """Return the content of a JSON file of the model; None where it has none."""
        content = self._read(what, name, needed=needed)
        found = json_or_none(content) if content is not None else None
        return found if isinstance(found, dict) else None

    def json_list(self, name: str) -> list[Any] | None:
        """Return the content of a list that sentence_transformers reads; None where the model has none."""
        content = self._read(name, name, needed=False)
        found = json_or_none(content) if content is not None else None
        return found if isinstance(found, list) else None

    def _read(self, what: str, name: str, *, needed: bool = True) -> bytes | None:
        place = find(self.carrier, what, self.access, self.revision, needed=needed)
        if isinstance(place, EmbeddedFiles):
            return self._embedded(place).get(name)
        path = place.folder / name if place is not None else None
        return path.read_bytes() if path is not None and path.is_file() else None

    def files(self, what: str) -> Mapping[str, bytes]:
        """Return the contents of the files of a preprocessor, by name.

        Args:
            what: The Auto class that loads it.
        """
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
        """Return a file of a module of sentence_transformers; None where the model has none."""
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


def find_source(source: str | os.PathLike[str], access: HubAccess, revision: str | None) -> Source:
    """Return where the files of a model are; those of a Hub are fetched.

    Args:
        source: The file, its folder, a repo, or a URL of a Hub.
        access: How to reach the Hub.
        revision: Of the repo, or of the configs of a file here.

    Raises:
        OnnxFileNotFoundError: There is no such file.
        ConfigLoadError: It does not say which model it is.
        HFHubIntegrationError: It cannot be fetched; the subclass says why.
    """
    text = os.fspath(source)
    path, folder = Path(text).expanduser(), None
    if not (text.lower().endswith(_SUFFIX) and path.is_file()):
        path, folder, access, revision = _named(text, access, revision)
    record = read_record(path)
    if record is None:
        raise ConfigLoadError(
            f"{path} does not say which model it came from. Export the model again with `optimum-cli export htp`, or "
            f"say which it is with `optimum-cli htp inject {path} --model ID`."
        )
    if record.submodule is not None:
        raise WrongTaskError(
            f"{path} is one module of {record.source}, {record.submodule}: run it with onnxruntime.InferenceSession."
        )
    return Source(path, record, carrier_of(path, record, access, folder), access, revision)


def _named(text: str, access: HubAccess, revision: str | None) -> tuple[Path, Path | None, HubAccess, str | None]:
    """Return the file that a folder, a repo or a URL means."""
    from optimum_htp.loading.named import named_or_error

    options = {
        name: value
        for name, value in {
            "token": access.token,
            "cache_dir": access.cache_dir,
            "local_files_only": access.local_files_only or None,
            "revision": revision,
        }.items()
        if value is not None
    }
    found = named_or_error(text, options)
    return found.fetched(), found.folder, found.access, found.options.get("revision")
