"""Quantized weights compared with the commit: correct steps are accepted, steps that fit any value prove nothing."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnx.numpy_helper as nh
import pytest
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic
from safetensors.numpy import load_file, save_file

from optimum_htp.modules.prove import prove_weights
from tests.support.changed_weights import QUERY, calibrated, changed, weight_of


@pytest.mark.parametrize("kind", [QuantType.QInt8, QuantType.QUInt8])
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantized_weights_give_the_tensors_back_within_half_a_step(bert, tmp_path, kind, per_channel):
    path, folder = bert
    target = tmp_path / "q.onnx"
    quantize_dynamic(path, target, weight_type=kind, per_channel=per_channel)
    proof = prove_weights(target, folder)
    assert not proof.foreign
    quantized = [finding for finding in proof.findings if "half a step" in finding.how]
    assert len(quantized) >= 14  # six matrices per layer, the head's matrix, and the tables

    def change(arrays, model):
        name = next(name for name in arrays if name.endswith("_quantized"))
        arrays[name].reshape(-1)[7] ^= 2

    spoilt = prove_weights(changed(target, tmp_path / "s.onnx", change), folder)
    assert len(spoilt.foreign) == 1
    assert "steps" in spoilt.foreign[0].how


def test_four_bits_give_the_tensors_back(bert, tmp_path):
    nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="ONNX Runtime is too old")

    path, folder = bert
    quantizer = nbits.MatMulNBitsQuantizer(onnx.load(path), block_size=16, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
    proof = prove_weights(tmp_path / "q.onnx", folder)
    assert not proof.foreign
    assert sum("4 bits" in finding.how for finding in proof.findings) >= 12


@pytest.mark.parametrize("suffix", ["_scale", "_zero_point"])
def test_name_of_a_scale_does_not_make_a_weight_constant(bert, tmp_path, suffix):
    path, folder = bert
    model = onnx.load(path)
    name = weight_of(model, QUERY.format(1))
    renamed(model, name, f"{name}{suffix}")
    onnx.save(model, tmp_path / "renamed.onnx")
    assert not prove_weights(tmp_path / "renamed.onnx", folder).foreign

    def change(arrays, model):
        arrays[f"{name}{suffix}"][3, 5] += 1

    (finding,) = prove_weights(changed(tmp_path / "renamed.onnx", tmp_path / "m.onnx", change), folder).foreign
    assert finding.name == f"{name}{suffix}"


def test_scale_that_is_also_a_weight_is_a_weight(bert, tmp_path):
    """A name matches integers of the file, or an operator uses it as a scale: its other use counts."""
    path, folder = bert
    quantize_dynamic(path, tmp_path / "q.onnx", weight_type=QuantType.QInt8)
    for suffix, node in (("_scale", None), ("_other", "DequantizeLinear")):
        model = onnx.load(tmp_path / "q.onnx")
        integers = next(one.name for one in model.graph.initializer if one.name.endswith("_quantized"))
        norm = next(one.name for one in model.graph.initializer if one.name.endswith("output.LayerNorm.weight"))
        renamed(model, norm, f"{integers}{suffix}")
        scale = next(one for one in model.graph.initializer if one.name == f"{integers}{suffix}")
        scale.CopyFrom(nh.from_array(nh.to_array(scale) + np.float32(0.5), scale.name))
        if node is not None:
            model.graph.node.append(onnx.helper.make_node(node, [integers, scale.name], ["unused"]))
        onnx.save(model, tmp_path / "m.onnx")
        assert scale.name in {finding.name for finding in prove_weights(tmp_path / "m.onnx", folder).foreign}


def renamed(model, name, other):
    """Rename a tensor of a model in memory."""
    for tensor in model.graph.initializer:
        tensor.name = other if tensor.name == name else tensor.name
    for node in model.graph.node:
        node.input[:] = [other if value == name else value for value in node.input]


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("what", ["no scale", "no integers", "coarse"])
def test_too_coarse_quantization_step_proves_nothing(bert, tmp_path, what, per_channel):
    path, folder = bert
    quantize_dynamic(path, tmp_path / "q.onnx", weight_type=QuantType.QInt8, per_channel=per_channel)
    plain = onnx.load(path)
    base = weight_of(plain, QUERY.format(1))
    (weight,) = [nh.to_array(one) for one in plain.graph.initializer if one.name == base]

    def change(arrays, model):
        scale, numbers = arrays[f"{base}_scale"], arrays[f"{base}_quantized"]
        if what == "no scale":
            scale[...] = 0
        elif what == "no integers":
            scale[...], numbers[...] = 1, 0
        else:
            scale *= 5
            numbers[...] = np.round(weight / scale) + arrays[f"{base}_zero_point"]

    proof = prove_weights(changed(tmp_path / "q.onnx", tmp_path / "m.onnx", change), folder)
    (finding,) = proof.foreign
    assert finding.name == f"{base}_quantized"
    assert ("is 0" if what == "no scale" else "too coarse") in finding.how


def test_few_numbers_of_a_block_prove_nothing(bert, tmp_path):
    nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="ONNX Runtime is too old")

    path, folder = bert
    quantizer = nbits.MatMulNBitsQuantizer(onnx.load(path), block_size=16, is_symmetric=False)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
    assert not prove_weights(tmp_path / "q.onnx", folder).foreign
    model = onnx.load(tmp_path / "q.onnx")
    node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")

    def change(arrays, model):
        """Make the first block all zero, with a step of the size of the weights."""
        numbers, scales, zeros = (arrays[name] for name in node.input[1:4])
        numbers.reshape(-1)[:8] = 0x88
        zeros.reshape(-1)[0] = zeros.reshape(-1)[0] & 0xF0 | 8
        scales.reshape(-1)[0] = 1

    (finding,) = prove_weights(changed(tmp_path / "q.onnx", tmp_path / "m.onnx", change), folder).foreign
    assert finding.name == node.input[1]


@pytest.mark.parametrize(
    "options",
    [
        {"reduce_range": True},
        {"reduce_range": True, "weight_type": QuantType.QInt8, "per_channel": True},
        {"weight_type": QuantType.QInt8, "extra_options": {"WeightSymmetric": False}},
        {"weight_type": QuantType.QUInt8, "extra_options": {"WeightSymmetric": True}, "per_channel": True},
    ],
)
def test_honest_steps_of_all_kinds_are_taken(bert, tmp_path, options):
    """Channels of zeros, and of very small weights, are among them."""

    def prune(weight):
        weight[0], weight[1], weight[2] = 0, 1e-40, weight[2] * 1e-6

    plain, folder = with_other_weight(bert, tmp_path, prune)
    assert not prove_weights(plain, folder).foreign
    quantize_dynamic(plain, tmp_path / "q.onnx", **options)
    assert not prove_weights(tmp_path / "q.onnx", folder).foreign


def with_other_weight(bert, tmp_path, change):
    """Return a file and its model, with the weight of the first layer's query changed in both."""
    folder = shutil.copytree(bert[1], tmp_path / "changed")
    weights = {key: value.copy() for key, value in load_file(folder / "model.safetensors").items()}
    weight = weights[f"{QUERY.format(0)}.weight"]
    change(weight)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    def take(arrays, model):
        arrays[weight_of(model, QUERY.format(0))][:] = weight.T

    return changed(bert[0], tmp_path / "m.onnx", take), folder


@pytest.mark.parametrize(
    ("least", "moved", "is_honest"), [(-127, (), True), (-126, (), False), (-127, (-126,), False)]
)
@pytest.mark.parametrize("lowest", [-128.3, -131.3])
def test_integers_may_be_cut_off_as_an_earlier_onnx_runtime_does(bert, tmp_path, lowest, least, moved, is_honest):
    """1.20.0 makes asymmetric steps for 256 numbers, and uses 255 of them. No value changes because of that.

    If the smallest value has the smallest number, the zero point is 0, as with symmetric steps.
    """

    def spread(weight):
        weight[:] = 0.01 * np.linspace(lowest, lowest + 255, weight.size).reshape(weight.shape)

    plain, folder = with_other_weight(bert, tmp_path, spread)
    options = {"weight_type": QuantType.QInt8, "extra_options": {"WeightSymmetric": False}}
    quantize_dynamic(plain, tmp_path / "q.onnx", **options)

    def change(arrays, model):
        for name in [name for name in arrays if name.endswith("_quantized") and arrays[name].dtype == np.int8]:
            np.maximum(arrays[name], least, out=arrays[name])
            arrays[name][np.isin(arrays[name], moved)] -= 1

    assert (not prove_weights(changed(tmp_path / "q.onnx", tmp_path / "c.onnx", change), folder).foreign) == is_honest


@pytest.mark.parametrize("form", list(QuantFormat))
def test_quantized_folded_batch_norms_are_proven_unless_exchanged(zoo_export, tmp_path, form):
    made = zoo_export("resnet")
    path = made.output / "model.onnx"
    assert not prove_weights(calibrated(path, tmp_path / "q.onnx", form), made.model).foreign

    def change(arrays, model):
        one, other = [name for name, array in arrays.items() if array.shape == (4, 4, 3, 3)]
        arrays[one][...], arrays[other][...] = arrays[other].copy(), arrays[one].copy()

    proof = prove_weights(
        calibrated(changed(path, tmp_path / "c.onnx", change), tmp_path / "q.onnx", form), made.model
    )
    assert proof.foreign or proof.unchecked


@pytest.mark.parametrize("form", list(QuantFormat))
def test_scales_of_a_square_matrix_follow_the_operators_axis(zoo_export, tmp_path, form):
    made = zoo_export("roberta")  # its head is a Gemm of a transposed square matrix
    target = calibrated(made.output / "model.onnx", tmp_path / "q.onnx", form)
    assert not prove_weights(target, made.model).foreign


@pytest.mark.parametrize("form", list(QuantFormat))
def test_static_quantization_is_proven_but_a_zero_bias_is_not(bert, tmp_path, form):
    path, folder = bert
    target = calibrated(path, tmp_path / "q.onnx", form)
    proof = prove_weights(target, folder)
    assert not proof.foreign
    biases = [one.name for one in proof.findings if one.name.endswith("bias_quantized") and "int32" in one.how]
    if form is QuantFormat.QOperator:  # its operators take integers without a scale
        return
    assert biases

    def change(arrays, model):
        arrays[biases[0]][...], arrays[f"{biases[0]}_scale"][...] = 0, 1

    assert {one.name for one in prove_weights(changed(target, tmp_path / "m.onnx", change), folder).foreign} == {
        biases[0]
    }
