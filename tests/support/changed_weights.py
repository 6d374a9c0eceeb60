"""Files with changed, exchanged or quantized weights, for the proofs of weights."""

from __future__ import annotations

import onnx
import onnx.numpy_helper as nh
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from optimum_htp.profiling.inputs import sample_inputs

QUERY = "bert.encoder.layer.{}.attention.self.query"


def changed(path, target, change):
    """Save a file with changed initializers: `change` gets them as writable arrays, by name."""
    model = onnx.load(path)
    arrays = {tensor.name: nh.to_array(tensor).copy() for tensor in model.graph.initializer}
    change(arrays, model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(nh.from_array(arrays[tensor.name], tensor.name))
    onnx.save(model, target)
    return target


def weight_of(model, module, position=1):
    """Return the name of the weight that a module's node uses."""
    nodes = [
        node
        for node in model.graph.node
        for prop in node.metadata_props
        if prop.key == "htp.module" and prop.value == module and node.op_type in ("MatMul", "Gemm", "Conv")
    ]
    return nodes[0].input[position]


def calibrated(path, target, form):
    """Quantize activations too, and weights with a scale for each channel."""
    samples = iter([sample_inputs(path)])

    class Reader(CalibrationDataReader):
        def get_next(self):
            return next(samples, None)

    quantize_static(path, target, Reader(), quant_format=form, per_channel=True, weight_type=QuantType.QInt8)
    return target
