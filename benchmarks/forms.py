"""The forms of a file after other tools, and changes of its weights that a proof must find."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

__all__ = ["CHANGES", "FLOATS", "FORMS", "LARGE", "without_tags"]

FLOATS = ("exported", "without tags", "without tags and names", "prefixed", "slimmed", "optimized")


def without_tags(source: Path, target: Path, *, names: bool = True) -> None:
    """Write a file without tags, and if asked without the names of nodes."""
    model = onnx.load(source)
    for graph in graphs(model.graph):
        for node in graph.node:
            del node.metadata_props[:]
            node.name = node.name if names else ""
    del model.metadata_props[:]
    onnx.save(model, target)


def prefixed(source: Path, target: Path) -> None:
    """Write a file as part of a larger one: every name has a prefix."""
    onnx.save(onnx.compose.add_prefix(onnx.load(source), "part/"), target)


def slimmed(source: Path, target: Path) -> None:
    import onnxslim

    onnx.save(onnxslim.slim(str(source)), target)


def optimized(source: Path, target: Path) -> None:
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath, options.log_severity_level = str(target), 4
    InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def halved(source: Path, target: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True, disable_shape_infer=True), target)


def integers(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8)


def calibrated(source: Path, target: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    from optimum_htp.profiling.inputs import sample_inputs

    samples = iter([sample_inputs(source)])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, Any] | None:
            return next(samples, None)

    quantize_static(
        source, target, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8
    )


def blocks(bits: int) -> Callable[[Path, Path], None]:
    def write(source: Path, target: Path) -> None:
        from onnxruntime.quantization import matmul_nbits_quantizer as nbits

        settings = nbits.DefaultWeightOnlyQuantConfig(block_size=16, bits=bits)
        quantizer = nbits.MatMulNBitsQuantizer(onnx.load(source), algo_config=settings)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target))

    return write


def codes(source: Path, target: Path) -> None:
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    quantizer = MatMulBnb4Quantizer(onnx.load(source), MatMulBnb4Quantizer.NF4, 16)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target))


FORMS: dict[str, Callable[[Path, Path], Any]] = {
    "exported": shutil.copyfile,
    "without tags": without_tags,
    "without tags and names": lambda source, target: without_tags(source, target, names=False),
    "prefixed": prefixed,
    "slimmed": slimmed,
    "optimized": optimized,
    "float16": halved,
    "int8": integers,
    "QDQ": calibrated,
    "blocks of 4 bits": blocks(4),
    "blocks of 8 bits": blocks(8),
    "NF4": codes,
}


def graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def uses(model: Any, *operators: str, place: int | None = None) -> set[str]:
    """Return the values that are inputs of some operators, at one position or at any."""
    nodes = (node for graph in graphs(model.graph) for node in graph.node if node.op_type in operators)
    return {name for node in nodes for name in (node.input if place is None else node.input[place : place + 1])}


def weights(model: Any, *operators: str, place: int | None = None) -> list[Any]:
    """Return the initializers of floats that are inputs of some operators and have more than one value."""
    used = uses(model, *operators, place=place)
    found = (one for graph in graphs(model.graph) for one in graph.initializer if one.name in used)
    return [one for one in found if one.data_type == TensorProto.FLOAT and _differ(numpy_helper.to_array(one))]


def _differ(array: Any) -> bool:
    return bool(array.size and np.ptp(array))


def matrices(model: Any) -> list[Any]:
    """Return the initializers that a layer multiplies by."""
    found = weights(model, "MatMul", "Gemm", "Conv")
    return [one for one in found if len(one.dims) > 1 and min(one.dims[:2]) > 1]


def put(tensor: Any, array: Any) -> bool:
    """Give a tensor other values; return True."""
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name))
    return True


def exchange(tensors: list[Any]) -> bool:
    """Exchange the values of the first two tensors of one shape and of different values."""
    for index, one in enumerate(tensors):
        for other in tensors[index + 1 :]:
            values, others = (numpy_helper.to_array(tensor).copy() for tensor in (one, other))
            if values.shape == others.shape and not np.array_equal(values, others):
                return put(one, others) and put(other, values)
    return False


def one_float(model: Any) -> bool:
    found = matrices(model)
    if not found:
        return False
    array = numpy_helper.to_array(found[-1]).copy()
    array.flat[array.size // 2] += 0.01
    return put(found[-1], array)


def transposed(model: Any) -> bool:
    square = next((one for one in matrices(model) if len(one.dims) == 2 and one.dims[0] == one.dims[1]), None)
    return square is not None and put(square, numpy_helper.to_array(square).T)


def turned(model: Any) -> bool:
    kernels = weights(model, "Conv")
    square = next((one for one in kernels if len(one.dims) == 4 and one.dims[2] == one.dims[3] > 1), None)
    return square is not None and put(square, numpy_helper.to_array(square).swapaxes(2, 3))


def zeroed(model: Any) -> bool:
    found = matrices(model)
    return bool(found) and put(found[0], np.zeros(found[0].dims))


def zeroed_bias(model: Any) -> bool:
    found = [one for one in weights(model, "Add", "Gemm", "Conv", "LayerNormalization") if len(one.dims) == 1]
    biases = [one for one in found if one.dims[0] > 4]
    return bool(biases) and put(biases[len(biases) // 3], np.zeros(biases[len(biases) // 3].dims))


def replaced(model: Any) -> bool:
    found = matrices(model)
    if not found:
        return False
    array = numpy_helper.to_array(found[0])
    return put(found[0], np.random.default_rng(5).standard_normal(array.shape) * array.std())


def adapted(model: Any) -> bool:
    found = matrices(model)
    if not found:
        return False
    array, generator = numpy_helper.to_array(found[-1]), np.random.default_rng(6)
    rows, columns = generator.standard_normal((array.shape[0], 1)), generator.standard_normal((1, array[0].size))
    return put(found[-1], array + (rows @ columns).reshape(array.shape) * array.std())


def moved(model: Any) -> bool:
    """Make a weight the value of a Constant, with one float changed."""
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            if any(one is tensor or one == tensor for one in matrices(model)):
                array = numpy_helper.to_array(tensor).copy()
                array.flat[array.size // 2] += 0.02
                constant = helper.make_node("Constant", [], [tensor.name], value=numpy_helper.from_array(array))
                graph.initializer.remove(tensor)
                graph.node.insert(0, constant)
                return True
    return False


def rows_of_a_table(model: Any) -> bool:
    for table in weights(model, "Gather", place=0):
        array = numpy_helper.to_array(table).copy()
        if array.ndim == 2 and array.shape[0] > 3 and not np.array_equal(array[2], array[3]):
            array[[2, 3]] = array[[3, 2]]
            return put(table, array)
    return False


CHANGES: dict[str, Callable[[Any], bool]] = {
    "one float": one_float,
    "two layers exchanged": lambda model: exchange(matrices(model)),
    "two norms exchanged": lambda model: exchange(weights(model, "LayerNormalization", place=1)),
    "two rows of a table exchanged": rows_of_a_table,
    "a square transposed": transposed,
    "a kernel turned": turned,
    "a matrix of zeros": zeroed,
    "a bias of zeros": zeroed_bias,
    "a matrix of another model": replaced,
    "an adapter merged": adapted,
    "a changed weight in a Constant": moved,
}
"""Each changes a ModelProto and returns whether this was possible."""

LARGE = ("two layers exchanged", "a matrix of zeros", "a matrix of another model", "an adapter merged")
"""Changes that are visible in weights of a few bits too."""
