"""How right `verify --weights` is: honest files that are accepted, and changed ones that are found.

    python -m benchmarks.proofs [--quick] [--json]

Each architecture of the tests, with noise on every parameter, is exported and given other forms by ONNX Runtime's and
other tools. Accepted is a form of which no tensor is foreign. Each of these forms that still has its floats is then
changed in several ways; found is a change for which a tensor is foreign, or said not to be checkable.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.rows import Row, main, single
from tests.support.zoo import ZOO

FLOATS = ("exported", "without tags", "without tags and names", "slimmed", "optimized")
MULTIPLIED = ("MatMul", "Gemm", "Conv")


def bare(source: Path, target: Path, *, names: bool) -> None:
    """Write a file without tags, and without the names of nodes."""
    model = onnx.load(source)
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = node.name if names else ""
    del model.metadata_props[:]
    onnx.save(model, target)


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
    "without tags": lambda source, target: bare(source, target, names=True),
    "without tags and names": lambda source, target: bare(source, target, names=False),
    "slimmed": slimmed,
    "optimized": optimized,
    "float16": halved,
    "int8": integers,
    "blocks of 4 bits": blocks(4),
    "blocks of 8 bits": blocks(8),
    "NF4": codes,
}


def matrices(model: Any) -> list[Any]:
    """Return the initializers that a layer multiplies by."""
    used = {value for node in model.graph.node if node.op_type in MULTIPLIED for value in node.input}
    return [one for one in model.graph.initializer if one.name in used and len(one.dims) > 1 and min(one.dims) > 1]


def put(tensor: Any, array: Any) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), tensor.name))


def one_float(model: Any) -> bool:
    tensor = matrices(model)[-1]
    array = numpy_helper.to_array(tensor).copy()
    array.flat[array.size // 2] += 0.01
    put(tensor, array)
    return True


def exchanged(model: Any) -> bool:
    found = {tuple(one.dims): one for one in matrices(model)}
    for one in matrices(model):
        other = found[tuple(one.dims)]
        arrays = [numpy_helper.to_array(tensor).copy() for tensor in (one, other)]
        if not np.array_equal(*arrays):
            put(one, arrays[1])
            put(other, arrays[0])
            return True
    return False


def transposed(model: Any) -> bool:
    square = next((one for one in matrices(model) if len(one.dims) == 2 and one.dims[0] == one.dims[1]), None)
    if square is not None:
        put(square, numpy_helper.to_array(square).T)
    return square is not None


def zeroed(model: Any) -> bool:
    tensor = matrices(model)[0]
    put(tensor, np.zeros(tensor.dims))
    return True


CHANGES = {
    "one float": one_float,
    "two layers exchanged": exchanged,
    "a square transposed": transposed,
    "a matrix of zeros": zeroed,
}


def rows(quick: bool) -> Iterator[Row]:
    from optimum_htp import HTPExporter
    from optimum_htp.modules.prove import prove_weights

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ["HF_HUB_OFFLINE"] = "1"
    made, good = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        for name in list(ZOO)[:3] if quick else list(ZOO):
            folder = ZOO[name].save(Path(scratch, name, "model"))
            path = HTPExporter().export(folder, Path(scratch, name, "out"), task=ZOO[name].task).files[0]
            for form, write in FORMS.items():
                target = Path(scratch, name, "model.onnx")
                try:
                    write(path, target)
                except ValueError as error:  # no weight of the file has the form, or ONNX Runtime cannot make it
                    print(f"{name} cannot be written as {form}: {error}", file=sys.stderr)
                    continue
                accepted = not prove_weights(target, folder).foreign
                for what in (f"honest: {form}", f"honest: {name}"):
                    made[what] += 1
                    good[what] += accepted
                for change, spoil in CHANGES.items() if form in FLOATS else ():
                    model = onnx.load(target)
                    if not spoil(model):
                        continue
                    spoilt = Path(scratch, name, "spoilt.onnx")
                    onnx.save(model, spoilt)
                    proof = prove_weights(spoilt, folder)
                    made[f"changed: {change}"] += 1
                    good[f"changed: {change}"] += bool(proof.foreign or proof.unchecked)
            shutil.rmtree(Path(scratch, name))
    for what in sorted(made):
        against = "all that were made" if what.startswith("changed") else "all of them"
        yield single(what, good[what], made[what], against, unit="files", target=1.0, at_least=True)


if __name__ == "__main__":
    main(__doc__, rows)
