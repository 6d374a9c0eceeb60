"""The tensors of a commit, by name, by size and by module, read one by one."""

from __future__ import annotations

import functools
import threading
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import InvalidWeightsError, RangesNotServedError, UnprovableWeightsError
from optimum_htp.hierarchy.tree import ancestors, parent_of
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.daemons import DaemonThreads
from optimum_htp.hubs.safetensors import (
    SafetensorsFile,
    TensorEntry,
    open_hub_safetensors,
    open_local_safetensors,
)
from optimum_htp.libraries.repo_files import index_shards, shards_of_tensors, weight_files, weight_indexes
from optimum_htp.masking import get_logger

__all__ = ["READABLE", "CommitTensors", "open_folder", "open_hub_commit"]

logger = get_logger(__name__)

READABLE: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Types whose values are compared."""

_SUFFIX: Final = ".safetensors"
_THREADS: Final = 8  # Threads that open files.
_PACKED: Final = (".qweight", ".weight_packed", ".absmax")  # GPTQ and AWQ, compressed-tensors, bitsandbytes.
# The part of a pipeline for a file's folder, if the folder of the weights has another name.
_FOLDERS: Final = {"vae_decoder": "vae", "vae_encoder": "vae"}


class _Shard:
    """A safetensors file that is opened on first use, from any thread."""

    def __init__(self, name: str, open_it: Callable[[str], SafetensorsFile]) -> None:
        self._name, self._open = name, open_it
        self._lock = threading.Lock()
        self._file: SafetensorsFile | None = None

    @property
    def file(self) -> SafetensorsFile:
        with self._lock:
            if self._file is None:
                self._file = self._open(self._name)
            return self._file

    @property
    def fetched(self) -> int:
        return 0 if self._file is None else self._file.fetched


class CommitTensors:
    """The tensors of some safetensors files. Files that an index lists are opened on first use.

    `name` is that of the model and the commit, for messages. `indexed` has the file of each tensor, from the
    checkpoint's indexes.

    Attributes:
        modules: For each module of the checkpoint its own tensors: short names to full names.
    """

    def __init__(
        self,
        name: str,
        files: Sequence[str],
        open_it: Callable[[str], SafetensorsFile],
        indexed: Mapping[str, str],
    ) -> None:
        self.name = name
        self._shards = {file: _Shard(file, open_it) for file in files}
        self._homes: dict[str, _Shard] = {}
        listed = {*indexed.values()}
        for shard in (shard for file, shard in self._shards.items() if file not in listed):
            self._homes.update(dict.fromkeys(shard.file.tensors, shard))
        self._homes |= {key: self._shards[file] for key, file in indexed.items() if file in self._shards}
        self._lock = threading.Lock()
        self._sizes: dict[int, list[str]] = {}
        self.modules: dict[str, dict[str, str]] = defaultdict(dict)
        for key in self._homes:
            module, _, leaf = key.rpartition(".")
            self.modules[module][leaf] = key
        self._renamed: Mapping[str, str] = {}
        modules = [key.split(".")[:-1] for key in self._homes]
        self._prefixes = tuple(dict.fromkeys(path[0] for path in modules if path))
        self._parts = tuple(dict.fromkeys(".".join(path[:2]) for path in modules if len(path) > 1))

    def rename(self, names: Mapping[str, str]) -> None:
        """Set the names of the commit's tensors for parameters with other names in the model."""
        self._renamed = {name: key for name, key in names.items() if key in self._homes}
        for name, key in self._renamed.items():
            module, _, leaf = name.rpartition(".")
            self.modules[module].setdefault(leaf, key)

    def __contains__(self, key: object) -> bool:
        return key in self._homes

    def __getitem__(self, key: str) -> TensorEntry:
        file = self._homes[key].file
        if key not in file.tensors:
            raise InvalidWeightsError(
                f"{file.name} has no tensor {key[:80]!r}, although the index lists it. Download the file again."
            )
        return file.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    @property
    def sizes(self) -> Mapping[int, Sequence[str]]:
        """Names of the tensors whose values are compared, by their number of elements. This opens all files."""
        with self._lock:
            if not self._sizes:
                with DaemonThreads(_THREADS) as pool:
                    list(pool.map(lambda shard: shard.file, self._shards.values()))
                sizes = defaultdict(list)
                for key in self._homes:
                    if self.is_readable(key):
                        sizes[self[key].size].append(key)
                self._sizes = dict(sizes)
            return self._sizes

    def is_readable(self, key: str) -> bool:
        """Whether the values of a tensor are compared."""
        return self[key].dtype in READABLE

    @property
    def fetched(self) -> int:
        """Bytes that were transferred over the network."""
        return sum(shard.fetched for shard in self._shards.values())

    def read(self, key: str, start: int, length: int) -> bytes:
        """Return bytes of a tensor."""
        return self._homes[key].file.read(self[key], start, length)

    def values(self, key: str) -> Any:
        """Return a whole tensor, in its precision; bfloat16 as float32."""
        from optimum_htp.modules.proof.layouts import decoded

        entry = self[key]
        return decoded(self.read(key, 0, entry.length), entry.dtype).reshape(entry.shape)

    def spelled(self, name: str) -> list[str]:
        """Return the tensors that a parameter's name may mean.

        Checkpoints of a base model lack the first part of a head's names, others have one part more, and in a
        separately exported part names begin at the part.
        """
        return self._spelled(name, self._homes) or [key for key in (self._renamed.get(name),) if key is not None]

    def owned(self, module: str) -> Mapping[str, str]:
        """Return the own tensors of a module, by their short names; empty for a module without tensors."""
        found = self._spelled(module, self.modules)
        return self.modules[found[0]] if len(found) == 1 else {}

    def within(self, module: str) -> list[str]:
        """Return the tensors of a module and of its submodules; empty for the whole model."""
        found = self._spelled(module, self._inside) if module else []
        return self._inside[found[0]] if len(found) == 1 else []

    @functools.cached_property
    def _inside(self) -> Mapping[str, list[str]]:
        inside = defaultdict(list)
        for key in self._homes:
            for module in ancestors(key):
                inside[module].append(key)
        return dict(inside)

    def _spelled(self, name: str, known: Container[str]) -> list[str]:
        first, _, rest = name.partition(".")
        for spelled in (name, rest) if first and rest else (name,):
            if spelled in known:
                return [spelled]
        for prefixes in (self._prefixes, self._parts if rest else ()):  # For an encoder, `model.encoder`.
            if found := [spelled for prefix in prefixes if name and (spelled := f"{prefix}.{name}") in known]:
                return found
        return []


def open_hub_commit(
    repo_id: str,
    commit: str,
    files: Sequence[str],
    library: str,
    access: HubAccess,
    *,
    provider: str | None = None,
    part: str | None = None,
) -> CommitTensors:
    """Open the weights that loaders read for a commit, without downloading them.

    From a Hub other than Hugging Face's, whole files are downloaded. `part` is the file of a multi-file export; for a
    pipeline, only its weights are opened.
    """
    hub = plugins.hub(provider)
    indexes = weight_indexes(files, library=library)
    folder = hub.snapshot(repo_id, commit, indexes, access) if indexes else None
    chosen = weight_files(
        files, lambda name: index_shards(folder / name) if folder is not None else (), library=library
    )
    name = f"{repo_id}@{commit[:8]}"
    wanted = _safetensors(chosen, name, part if library == "diffusers" else None)

    def open_it(file: str) -> SafetensorsFile:
        if hub.name == plugins.HUGGING_FACE:
            try:
                return open_hub_safetensors(repo_id, commit, file, access)
            except RangesNotServedError as error:
                logger.info("%s It is downloaded.", error)
        return open_local_safetensors(hub.snapshot(repo_id, commit, [file], access) / file)

    return _checked(name, wanted, open_it, {} if folder is None else _indexed(folder, indexes))


def open_folder(folder: Path, files: Iterable[str], library: str, *, part: str | None = None) -> CommitTensors:
    """Open the weights of a local model.

    Raises:
        UnprovableWeightsError: It has no safetensors.
    """
    chosen = weight_files(files, lambda name: index_shards(folder / name), library=library)
    wanted = _safetensors(chosen, str(folder), part if library == "diffusers" else None)
    indexed = _indexed(folder, (file for file in chosen if file.endswith(".index.json")))
    return _checked(str(folder), wanted, lambda file: open_local_safetensors(folder / file), indexed)


def _indexed(folder: Path, indexes: Iterable[str]) -> dict[str, str]:
    """Return the file of each tensor that indexes list."""
    return {
        key: index[: index.rfind("/") + 1] + shard
        for index in indexes
        for key, shard in shards_of_tensors(folder / index).items()
    }


def _safetensors(chosen: Sequence[str], name: str, part: str | None) -> list[str]:
    if part is not None:
        home = part.rpartition("/")[0]
        home = _FOLDERS.get(home, home)
        chosen = [file for file in chosen if file.rpartition("/")[0] == home] or chosen
    wanted = [file for file in chosen if file.endswith(_SUFFIX)]
    if any(file.rpartition("/")[2].startswith("adapter_model") for file in chosen):
        raise UnprovableWeightsError(
            f"{name} is an adapter, so it does not contain the weights of the merged model. Export the merged model's "
            "own repo, or name that repo with --model."
        )
    if wanted:
        return wanted
    others = ", ".join(file for file in chosen if not file.endswith(".json")) or "none"
    raise UnprovableWeightsError(
        f"{name} has no safetensors (weights: {others}). Its other formats are pickles, which are never loaded, so "
        "nothing was downloaded. Pass a revision with safetensors with --model, such as the conversion that the Hub "
        "offers as refs/pr/N."
    )


def _checked(
    name: str, files: Sequence[str], open_it: Callable[[str], SafetensorsFile], indexed: Mapping[str, str]
) -> CommitTensors:
    tensors = CommitTensors(name, files, open_it, indexed)
    if packed := next((key for key in tensors if key.endswith(_PACKED)), None):
        raise UnprovableWeightsError(
            f"{name} is quantized ({packed} of {parent_of(packed)} is packed), so it does not contain an export's "
            "weights. Pass the model that it was quantized from with --model."
        )
    return tensors
