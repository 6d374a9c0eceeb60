"""Reads single tensors of a safetensors file: from the cache, or from the Hub with range requests.

A file begins with the length of its header (8 bytes, little-endian) and the header, a JSON object of name to type,
shape and offsets: https://huggingface.co/docs/safetensors/index#format. The values of a header are checked against the
file size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import InvalidWeightsError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.huggingface.cache import RepoCache
from optimum_htp.hubs.huggingface.ranges import CHUNK, open_hub_file
from optimum_htp.parsing import parse_json

__all__ = ["SafetensorsFile", "TensorEntry", "open_hub_safetensors", "open_local_safetensors"]

_LENGTH: Final = 8  # Bytes.
_LARGEST_HEADER: Final = 100_000_000  # Bytes, as in the safetensors library.
_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A header's entry for a tensor: its type in safetensors (`F32`), and the place of its content, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass
class SafetensorsFile:
    """A safetensors file on this machine or on a Hub. `name` is for messages."""

    name: str
    tensors: Mapping[str, TensorEntry]
    _read: Callable[[int, int], bytes] = field(repr=False)
    _fetched: Callable[[], int] = field(repr=False)

    @property
    def fetched(self) -> int:
        """Bytes that were transferred over the network so far."""
        return self._fetched()

    def read(self, tensor: TensorEntry, start: int, length: int) -> bytes:
        """Return bytes of a tensor's content. It can be called from any thread."""
        content = self._read(tensor.start + start, length)
        if len(content) < length:
            raise InvalidWeightsError(f"{self.name} ended while {tensor.name} was read. Download it again.")
        return content


def open_hub_safetensors(repo_id: str, commit: str, name: str, access: HubAccess) -> SafetensorsFile:
    """Open a safetensors file of a commit: from the cache, or with range requests.

    Raises:
        OfflineError: It is not in the cache, and connections are forbidden.
        InvalidWeightsError: It is not a safetensors file.
        HFHubIntegrationError: The Hub does not provide it; the subclass gives the reason.
    """
    cached = RepoCache(repo_id, access).snapshot(commit) / name
    if cached.is_file() and not access.force_download:
        return open_local_safetensors(cached)
    file = open_hub_file(repo_id, commit, name, access, CHUNK)
    return _opened(f"{name} of {repo_id}", file.size, file.read, lambda: file.fetched)


def open_local_safetensors(path: Path) -> SafetensorsFile:
    """Open a safetensors file on this machine."""

    def read(start: int, length: int) -> bytes:
        with path.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)

    return _opened(str(path), path.stat().st_size, read, lambda: 0)


def _opened(name: str, size: int, read: Callable[[int, int], bytes], fetched: Callable[[], int]) -> SafetensorsFile:
    length = int.from_bytes(read(0, min(_LENGTH, size)), "little")
    if size < _LENGTH or not 2 <= length <= min(_LARGEST_HEADER, size - _LENGTH):
        raise InvalidWeightsError(f"{name} is not a safetensors file: its header cannot be {length} bytes long.")
    try:
        content = parse_json(read(_LENGTH, length))
    except ValueError as error:
        raise InvalidWeightsError(f"{name} is not a safetensors file: its header cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise InvalidWeightsError(f"{name} is not a safetensors file: its header is not a JSON object.")
    content.pop("__metadata__", None)
    tensors = {key: _entry(name, key, value, _LENGTH + length, size) for key, value in content.items()}
    return SafetensorsFile(name, tensors, read, fetched)


def _entry(file: str, key: str, content: Any, base: int, size: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = content["dtype"], content["shape"], content["data_offsets"]
        numbers = (*shape, begin, end)
        sound = isinstance(dtype, str) and all(type(number) is int and number >= 0 for number in numbers)
    except (KeyError, TypeError, ValueError):
        sound = False
    expected = prod(shape) * _BYTES[dtype] if sound and dtype in _BYTES else None  # Newer types have an unknown size.
    if not sound or not begin <= end <= size - base or expected not in (None, end - begin):
        raise InvalidWeightsError(
            f"{file} has an invalid entry for the tensor {key[:80]!r}, so it is damaged. Download it again."
        )
    return TensorEntry(key, dtype, tuple(shape), base + begin, end - begin)
