"""Copies of files in which some sizes of inputs are numbers."""

from __future__ import annotations

import onnx


def fixed(source, target, **sizes):
    """Write a copy of a file in which some sizes of inputs, by their symbols or by input and symbol, are numbers."""
    model = onnx.load(source)
    for value in model.graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            size = sizes.get(f"{value.name}.{dimension.dim_param}", sizes.get(dimension.dim_param))
            if size is not None:
                dimension.dim_value = size
    del model.graph.value_info[:]
    onnx.save(model, target)
    return target
