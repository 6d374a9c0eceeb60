"""Names and shapes of a checkpoint's weights: the head of a safetensors file, here or on the Hub.

A file begins with the length of its header in 8 bytes, little-endian, and the header in JSON: for each tensor its
dtype, shape and place (https://github.com/huggingface/safetensors#format). Of a remote file one range request fetches
what is needed, or two where the header is long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from optimum_htp.hubs.base import Hub, HubAccess
from optimum_htp.onnxfile.wire import ByteWindow

__all__ = ["read_hub_shapes", "read_shapes"]

_LENGTH: Final = 8  # bytes
_LARGEST: Final = 25_000_000  # bytes of a header, as huggingface_hub's own limit
_METADATA: Final = "__metadata__"


def read_shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of a local file's tensors by name.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a safetensors file.
    """
    with path.open("rb") as stream:

        def fetch(start: int, length: int) -> bytes:
            stream.seek(start)
            return stream.read(length)

        return _shapes(ByteWindow(fetch, str(path), path.stat().st_size))


def read_hub_shapes(
    hub: Hub, repo_id: str, commit: str, name: str, access: HubAccess
) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a file on the Hub by name. The weights are not downloaded.

    Raises:
        HFHubIntegrationError: It cannot be had; the subclass says why.
        ValueError: It is not a safetensors file.
    """
    with hub.opened(repo_id, commit, name, access) as window:
        return _shapes(window)


def _shapes(window: ByteWindow) -> Mapping[str, tuple[int, ...]]:
    length = int.from_bytes(window.read(0, _LENGTH) if window.size >= _LENGTH else b"", "little")
    if not 0 < length <= min(_LARGEST, window.size - _LENGTH):
        raise ValueError(f"{window.name} is not a safetensors file: its header would have {length} bytes")
    try:
        header = json.loads(window.read(_LENGTH, length))
    except RecursionError as error:
        raise ValueError(f"{window.name} is not a safetensors file: its header is nested too deep") from error
    if not isinstance(header, dict):
        raise ValueError(f"{window.name} is not a safetensors file: its header is no JSON object")
    return {name: _shape(entry, window) for name, entry in header.items() if name != _METADATA}


def _shape(entry: Any, window: ByteWindow) -> tuple[int, ...]:
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        raise ValueError(f"{window.name} is not a safetensors file: a tensor in its header has no shape")
    return tuple(shape)
