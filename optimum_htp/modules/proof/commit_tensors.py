"""The tensors of a commit, by name, by size and by module, read one by one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp import plugins
from optimum_htp.errors import RangesNotServedError, UnprovableWeightsError
from optimum_htp.hierarchy.tree import ancestors, parent_of
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.safetensors import (
    SafetensorsFile,
    TensorEntry,
    open_hub_safetensors,
    open_local_safetensors,
)
from optimum_htp.masking import get_logger
from optimum_htp.origin.repo_files import index_shards, weight_files, weight_indexes

__all__ = ["READABLE", "CommitTensors", "open_folder", "open_hub_commit"]

logger = get_logger(__name__)

READABLE: Final = frozenset({"F64", "F32", "F16", "BF16"})
"""Types whose values are compared."""

_SUFFIX: Final = ".safetensors"
_PACKED: Final = (".qweight", ".weight_packed", ".absmax")  # GPTQ and AWQ, compressed-tensors, bitsandbytes
# The part of a pipeline that a file belongs to, where its folder has another name than that of the weights.
_FOLDERS: Final = {"vae_decoder": "vae", "vae_encoder": "vae"}


class CommitTensors:
    """The tensors of some safetensors files.

    Args:
        name: Of the model and the commit, for people.
        files: The files.

    Attributes:
        sizes: Names of tensors by their number of elements.
        modules: For each module of the checkpoint its own tensors: what they are called there, and their names.
    """

    def __init__(self, name: str, files: Sequence[SafetensorsFile]) -> None:
        self.name = name
        self._files = tuple(files)
        self._homes: dict[str, SafetensorsFile] = {}
        for file in files:
            self._homes.update(dict.fromkeys(file.tensors, file))
        self.sizes: dict[int, list[str]] = defaultdict(list)
        self.modules: dict[str, dict[str, str]] = defaultdict(dict)
        for key in self._homes:
            if self[key].dtype in READABLE:
                self.sizes[self[key].size].append(key)
            module, _, leaf = key.rpartition(".")
            self.modules[module][leaf] = key
        self._renamed: Mapping[str, str] = {}
        self._prefixes = tuple(dict.fromkeys(key.partition(".")[0] for key in self._homes if "." in key))

    def rename(self, names: Mapping[str, str]) -> None:
        """Note under which names parameters of the model are tensors of the commit."""
        self._renamed = {name: key for name, key in names.items() if key in self._homes}
        for name, key in self._renamed.items():
            module, _, leaf = name.rpartition(".")
            self.modules[module].setdefault(leaf, key)

    def __contains__(self, key: object) -> bool:
        return key in self._homes

    def __getitem__(self, key: str) -> TensorEntry:
        return self._homes[key].tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    @property
    def fetched(self) -> int:
        """Bytes that came over the network."""
        return sum(file.fetched for file in self._files)

    def read(self, key: str, start: int, length: int) -> bytes:
        """Return bytes of a tensor."""
        return self._homes[key].read(self[key], start, length)

    def values(self, key: str) -> Any:
        """Return a whole tensor, in its precision; bfloat16 as float32."""
        from optimum_htp.modules.proof.layouts import decoded

        entry = self[key]
        return decoded(self.read(key, 0, entry.length), entry.dtype).reshape(entry.shape)

    def spelled(self, name: str) -> list[str]:
        """Return the tensors that a parameter's name may mean: checkpoints of a base model lack a head's first word,
        others have one more, and a part that was exported alone names its parameters from itself on.
        """
        return self._spelled(name, self._homes) or [key for key in (self._renamed.get(name),) if key is not None]

    def owned(self, module: str) -> Mapping[str, str]:
        """Return the own tensors of a module, by what they are called there; none for one that has none."""
        found = self._spelled(module, self.modules)
        return self.modules[found[0]] if len(found) == 1 else {}

    def within(self, module: str) -> list[str]:
        """Return the tensors of a module and of the modules in it; none for the whole model."""
        inside = {part: key for key in self._homes for part in ancestors(key)} if module else {}
        found = self._spelled(module, inside)
        return [key for key in self._homes if key.startswith(f"{found[0]}.")] if len(found) == 1 else []

    def _spelled(self, name: str, known: Container[str]) -> list[str]:
        first, _, rest = name.partition(".")
        for spelled in (name, rest) if first and rest else (name,):
            if spelled in known:
                return [spelled]
        return [spelled for prefix in self._prefixes if name and (spelled := f"{prefix}.{name}") in known]


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
    """Open the weights that a commit's loaders take, without fetching them.

    Args:
        repo_id: The repo.
        commit: The commit.
        files: Of the commit.
        library: That loads the model.
        access: How to reach its Hub.
        provider: Of the repo; files of another Hub than Hugging Face's are fetched whole.
        part: The file of a multi-file export that is asked about; of a pipeline, only this part's weights count.

    Raises:
        UnprovableWeightsError: It has no safetensors.
        HFHubIntegrationError: They cannot be had; the subclass says why.
    """
    hub = plugins.hub(provider)
    indexes = weight_indexes(files, library=library)
    folder = hub.snapshot(repo_id, commit, indexes, access) if indexes else None
    chosen = weight_files(
        files, lambda name: index_shards(folder / name) if folder is not None else (), library=library
    )
    name = f"{repo_id} at {commit[:8]}"
    wanted = _safetensors(chosen, name, part if library == "diffusers" else None)
    if hub.name == plugins.HUGGING_FACE:
        try:
            return _checked(name, [open_hub_safetensors(repo_id, commit, file, access) for file in wanted])
        except RangesNotServedError as error:
            logger.info("%s They are downloaded.", error)
    folder = hub.snapshot(repo_id, commit, wanted, access)
    return _checked(name, [open_local_safetensors(folder / file) for file in wanted])


def open_folder(folder: Path, files: Iterable[str], library: str, *, part: str | None = None) -> CommitTensors:
    """Open the weights of a local model.

    Raises:
        UnprovableWeightsError: It has no safetensors.
    """
    chosen = weight_files(files, lambda name: index_shards(folder / name), library=library)
    wanted = _safetensors(chosen, str(folder), part if library == "diffusers" else None)
    return _checked(str(folder), [open_local_safetensors(folder / file) for file in wanted])


def _safetensors(chosen: Sequence[str], name: str, part: str | None) -> list[str]:
    if part is not None:
        home = part.rpartition("/")[0]
        home = _FOLDERS.get(home, home)
        chosen = [file for file in chosen if file.rpartition("/")[0] == home] or chosen
    wanted = [file for file in chosen if file.endswith(_SUFFIX)]
    if any(file.rpartition("/")[2].startswith("adapter_model") for file in chosen):
        raise UnprovableWeightsError(
            f"{name} is an adapter: the weights of a model that it was merged into are no tensors of it. Export the "
            "merged model's own repo, or name that with --model."
        )
    if wanted:
        return wanted
    others = ", ".join(file for file in chosen if not file.endswith(".json")) or "none"
    raise UnprovableWeightsError(
        f"{name} has no safetensors (weights: {others}): what it holds cannot be read without running a pickle, which "
        "is not done. Nothing was fetched. Name a revision that has safetensors with --model, such as the "
        "conversion that the Hub offers as refs/pr/N."
    )


def _checked(name: str, files: Sequence[SafetensorsFile]) -> CommitTensors:
    tensors = CommitTensors(name, files)
    if packed := next((key for key in tensors if key.endswith(_PACKED)), None):
        raise UnprovableWeightsError(
            f"{name} is quantized ({packed} of {parent_of(packed)} is packed): an export's weights are no tensors of "
            "it. Name the model that it was quantized from with --model."
        )
    return tensors
