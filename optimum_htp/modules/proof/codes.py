"""Numbers of four bits that stand for values of a table, times the largest of a block: those of bitsandbytes.

Sources: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.MatMulBnb4 and
`blockwise_quant_block_bnb4.h` of ONNX Runtime.
"""

from __future__ import annotations

from typing import Any, Final

from optimum_htp.modules.proof.layouts import Order
from optimum_htp.modules.proof.quantized import QuantizedWeight

__all__ = ["missed_codes"]

_FP4: Final = (0.0, 5.208333333e-03, 0.66666667, 1.0, 0.33333333, 0.5, 0.16666667, 0.25)
_NF4: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_TABLES: Final = {0: (*_FP4, *(-value for value in _FP4)), 1: _NF4}
"""By the attribute `quant_type`."""
_SLACK: Final = 2e-3  # of the largest value of a block: a value between two of the table may be given either


def missed_codes(weight: QuantizedWeight, codes: tuple[Any, Any, Any], values: Any, order: Order | None) -> float:
    """Return by how much more than the nearest value of the table numbers miss a tensor at most, of a block's largest.

    0 where they give it back; infinite where a block's largest value is not the tensor's.

    Args:
        weight: The numbers.
        codes: As `weight.codes` gives them.
        values: The tensor.
        order: The order that its axes have to have; None for any.
    """
    import numpy as np

    numbers, largest, block = codes
    table = np.array(_TABLES[weight.node.integers.get("quant_type", 1)], np.float32)
    least = float("inf")
    arrays = {None: (values, values.T), Order.SAME: (values,), Order.REVERSED: (values.T,)}[order]
    for array in arrays:
        flat = np.ascontiguousarray(array).reshape(-1).astype(np.float32)
        padded = np.concatenate([flat, np.zeros(-len(flat) % block, np.float32)]).reshape(-1, block)
        own = np.abs(padded).max(1)
        if not np.allclose(own, largest, rtol=1e-2, atol=1e-30):
            continue
        scaled = padded / np.where(largest == 0, 1, largest)[:, None]
        chosen = np.concatenate([numbers, np.zeros(-len(numbers) % block, numbers.dtype)]).reshape(-1, block)
        nearest = np.abs(scaled[..., None] - table).min(-1)
        excess = np.abs(scaled - table[chosen]) - nearest - _SLACK
        least = min(least, max(0.0, float(excess.reshape(-1)[: len(flat)].max(initial=0.0))))
    return least
