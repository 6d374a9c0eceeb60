"""Short lines for inputs, outputs and embedded files: key-value caches of all layers become one line.

`past_key_values.0.key` to `past_key_values.11.value`, of one type and shape, become `past_key_values.0…11.key/value`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from optimum_htp.metadata import EmbeddedFile
    from optimum_htp.onnxfile import TensorSpec

__all__ = ["folded", "sizes"]

_OF_A_LAYER: Final = re.compile(r"((?:past|present)\w*\.)(\d{1,6})(\.(?:\w+\.)*)(\w+)", re.ASCII)
_FEWEST: Final = 3  # names in a group that is shortened


def folded(specs: Sequence[TensorSpec]) -> list[str]:
    """Return inputs or outputs as lines; the caches of all layers are one line."""
    groups: dict[Hashable, list[tuple[TensorSpec, int, str]]] = {}
    for spec in specs:
        match = _OF_A_LAYER.fullmatch(spec.name)
        key = (match[1], match[3], spec.dtype, spec.shape) if match else spec.name
        layer, leaf = (int(match[2]), match[4]) if match else (0, spec.name)
        groups.setdefault(key, []).append((spec, layer, leaf))
    lines: list[str] = []
    for group in groups.values():
        layers = sorted({layer for _, layer, _ in group})
        leaves = list(dict.fromkeys(leaf for _, _, leaf in group))
        is_complete = layers[-1] - layers[0] + 1 == len(layers) and len(layers) * len(leaves) == len(group)
        match = _OF_A_LAYER.fullmatch(group[0][0].name)
        if match is None or len(group) < _FEWEST or not is_complete:
            lines += [str(spec) for spec, _, _ in group]
            continue
        numbers = f"{layers[0]}…{layers[-1]}" if len(layers) > 1 else str(layers[0])
        name = f"{match[1]}{numbers}{match[3]}{'/'.join(leaves)}"
        lines.append(str(dataclasses.replace(group[0][0], name=name)))
    return lines


def sizes(files: Sequence[EmbeddedFile]) -> str:
    """Return the number of files and their total size."""
    from optimum_htp.report.outline import size_text

    return f"{len(files)} file{'' if len(files) == 1 else 's'} ({size_text(sum(file.size for file in files))})"
