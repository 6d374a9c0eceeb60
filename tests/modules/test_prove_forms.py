"""Proofs of files in many forms: tensors computed by the model's code are explained, and exchanges are found."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import onnx
import onnx.numpy_helper as nh
import pytest
import torch
import transformers
from onnxruntime.quantization import QuantFormat
from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

from optimum_htp import HTPExporter
from optimum_htp.modules.prove import Evidence, prove_weights
from tests.conftest import optimum_cli
from tests.support.changed_weights import QUERY, calibrated, changed, weight_of
from tests.support.models import _seeded
from tests.support.multimodal import colpali, gemma3

TEXT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
}

SEQUENCES = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 37,
    "decoder_ffn_dim": 37,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "decoder_start_token_id": 1,
}

PICTURES = {"image_size": 32, "hidden_sizes": [8, 16, 16, 32], "num_attention_heads": [1, 2, 2, 4], "depths": [1] * 4}

# For each: its class and config, and the tensors of its export that are not in the checkpoint.
COMPUTING = {
    "1 + weight": ("Gemma2", "ForCausalLM", {**TEXT, "num_key_value_heads": 2, "head_dim": 8}),
    "slopes of ALiBi": ("Bloom", "ForCausalLM", {"vocab_size": 60, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "positions that are not saved": ("Marian", "MTModel", SEQUENCES),
    "slices of a table": ("Pvt", "ForImageClassification", PICTURES),
    "a layer norm without bias": ("ModernBert", "ForMaskedLM", {**TEXT, "pad_token_id": 0, "sep_token_id": 2}),
}


@pytest.fixture(scope="module")
def made(made_once):
    def export(what):
        name, ending, settings = COMPUTING[what]

        def make(folder):
            model = _seeded(getattr(transformers, name + ending), getattr(transformers, f"{name}Config")(**settings))
            model.save_pretrained(folder / "model")
            HTPExporter().export(folder / "model", folder / "out")

        folder = made_once(f"computing/{name}", make)
        return SimpleNamespace(model=folder / "model", files=sorted(folder.glob("out/*.onnx")))

    return export


def bare(arrays, model):
    """Remove tags and node names."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.name = ""
    del model.metadata_props[:]


@pytest.mark.parametrize("what", COMPUTING)
@pytest.mark.parametrize("tagged", [True, False])
def test_results_of_the_models_code_are_explained(made, tmp_path, what, tagged):
    export = made(what)
    for path in export.files:
        file = path if tagged else changed(path, tmp_path / "bare.onnx", bare)
        proof = prove_weights(file, export.model)
        assert not proof.foreign
        assert [finding for finding in proof.findings if finding.how.startswith("computed by")] or tagged


def test_changed_result_of_the_models_code_is_foreign(made, tmp_path):
    export = made("1 + weight")
    (path,) = export.files
    name = next(one.name for one in prove_weights(path, export.model).findings if "add" in one.how)

    def change(arrays, model):
        if name in arrays:
            arrays[name].reshape(-1)[3] += 1e-3
        for node in model.graph.node:
            if name in node.output:
                array = nh.to_array(node.attribute[0].t).copy()
                array.reshape(-1)[3] += 1e-3
                node.attribute[0].t.CopyFrom(nh.from_array(array))

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), export.model)
    assert [finding.name for finding in proof.foreign] == [name]


def test_exchanged_results_of_the_models_code_are_not_taken(made, tmp_path):
    export = made("1 + weight")
    path = changed(export.files[0], tmp_path / "bare.onnx", bare)
    first, *_, last = [one.name for one in prove_weights(path, export.model).findings if "add" in one.how]

    def exchange(arrays, model):
        arrays[first][...], arrays[last][...] = arrays[last].copy(), arrays[first].copy()

    proof = prove_weights(changed(path, tmp_path / "m.onnx", exchange), export.model)
    assert proof.foreign or proof.unchecked


def test_quantized_results_of_the_models_code_are_explained(made, tmp_path):
    export = made("1 + weight")
    target = calibrated(export.files[0], tmp_path / "q.onnx", QuantFormat.QDQ)
    proof = prove_weights(target, export.model)
    assert not proof.foreign
    assert [one for one in proof.findings if "add" in one.how and "quantized" in one.name]


def other_config(export, folder, old, new):
    """A copy of a model with a replaced text in its config."""
    shutil.copytree(export.model, folder)
    config = (folder / "config.json").read_text()
    assert old in config
    (folder / "config.json").write_text(config.replace(old, new))
    return folder


def test_model_that_cannot_be_run_leaves_its_tensors_unchecked(made, tmp_path):
    export = made("slopes of ALiBi")
    folder = other_config(export, tmp_path / "model", '"bloom"', '"no-such-model"')
    proof = prove_weights(export.files[0], folder)
    assert not proof.foreign
    assert proof.unchecked
    done = optimum_cli("htp", "verify", "--weights", "--model", folder, export.files[0], check=False)
    assert done.returncode == 5
    assert "not checkable" in done.stdout


@pytest.mark.parametrize(("build", "task"), [(gemma3, "text-generation"), (colpali, "feature-extraction")])
def test_names_that_a_checkpoint_has_instead_of_the_models_hide_no_exchange(tmp_path, build, task):
    """Classes with a conversion mapping: models of text and images, whose exported part may be the text model only."""
    build().save_pretrained(tmp_path / "model")
    file = HTPExporter().export(tmp_path / "model", tmp_path / "out", task=task).files[0]
    proof = prove_weights(file, tmp_path / "model")
    assert not proof.foreign
    assert not proof.unchecked
    model = onnx.load(file)
    shapes = {}
    for tensor in model.graph.initializer:
        shapes.setdefault(tuple(tensor.dims), []).append(tensor)
    one, other = next(tensors for shape, tensors in shapes.items() if len(shape) == 2 and len(tensors) > 1)[:2]
    arrays = [nh.to_array(tensor).copy() for tensor in (one, other)]
    one.CopyFrom(nh.from_array(arrays[1], one.name))
    other.CopyFrom(nh.from_array(arrays[0], other.name))
    onnx.save(model, tmp_path / "exchanged.onnx")
    assert prove_weights(tmp_path / "exchanged.onnx", tmp_path / "model").foreign


def test_read_limit_accuses_no_weight(made, monkeypatch):
    export = made("1 + weight")
    monkeypatch.setattr("optimum_htp.modules.proof.traced._MOST_READ", 1)
    proof = prove_weights(export.files[0], export.model)
    assert not proof.foreign
    assert any("more weights than are read" in finding.how for finding in proof.unchecked)


def test_config_with_a_picture_of_terabytes_makes_none(made, tmp_path):
    export = made("slices of a table")
    folder = other_config(export, tmp_path / "model", '"num_channels": 3', '"num_channels": 30000000')
    assert not prove_weights(export.files[0], folder).foreign  # and without a large allocation


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("tagged", [True, False])
def test_transposed_square_weight_is_foreign(zoo_export, tmp_path, name, tagged):
    export = zoo_export(name)
    path = next(export.output.glob("*.onnx"))

    def change(arrays, model):
        uses = [node.input[1] for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
        square = next(one for one in uses if one in arrays and len({*arrays[one].shape}) == 1)
        arrays[square] = np.ascontiguousarray(arrays[square].T)
        if not tagged:
            bare(arrays, model)

    (finding,) = prove_weights(changed(path, tmp_path / "m.onnx", change), export.model).foreign
    assert "axes exchanged" in finding.how


@pytest.mark.parametrize("named", [True, False])
def test_exchanged_layers_of_a_file_without_tags_are_not_taken(bert, tmp_path, named):
    path, folder = bert

    def change(arrays, model):
        one, other = (weight_of(model, QUERY.format(layer)) for layer in (0, 1))
        arrays[one], arrays[other] = arrays[other], arrays[one]
        for node in model.graph.node:
            del node.metadata_props[:]
            node.name = node.name if named else ""
        del model.metadata_props[:]

    proof = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert len(proof.foreign) == 2 if named else proof.unchecked
    assert proof.modules[""] in (Evidence.FOREIGN, Evidence.UNCHECKED)


def test_zeros_in_the_place_of_a_matrix_are_foreign(bert, tmp_path):
    path, folder = bert

    def change(arrays, model):
        arrays[weight_of(model, QUERY.format(0))][:] = 0
        bare(arrays, model)

    assert len(prove_weights(changed(path, tmp_path / "m.onnx", change), folder).foreign) == 1


@pytest.mark.parametrize("name", ["t5", "qwen3_moe"])
def test_zeros_that_the_models_code_makes_too_are_not_taken_for_a_matrix(zoo_export, tmp_path, name):
    made = zoo_export(name)
    file = next(path for path in sorted(made.output.glob("*.onnx")) if "encoder" not in path.name)
    model = onnx.load(file)
    multiplied = {value for node in model.graph.node if node.op_type == "MatMul" for value in node.input}
    weight = next(one for one in model.graph.initializer if one.name in multiplied and list(one.dims) == [32, 32])
    weight.CopyFrom(nh.from_array(np.zeros((32, 32), np.float32), weight.name))
    for node in model.graph.node:
        node.ClearField("name")
        node.ClearField("metadata_props")
    onnx.save(model, tmp_path / "m.onnx")
    proof = prove_weights(tmp_path / "m.onnx", made.model)
    assert weight.name in {finding.name for finding in (*proof.foreign, *proof.unchecked)}


def test_integers_that_are_cast_to_a_weight_are_foreign(bert, tmp_path):
    path, folder = bert
    model = onnx.load(path)
    name = weight_of(model, QUERY.format(0))
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(nh.from_array((nh.to_array(tensor) * 100).astype(np.int64), f"{name}_integers"))
    model.graph.node.insert(0, onnx.helper.make_node("Cast", [f"{name}_integers"], [name], to=onnx.TensorProto.FLOAT))
    onnx.save(model, tmp_path / "m.onnx")
    (finding,) = prove_weights(tmp_path / "m.onnx", folder).foreign
    assert finding.name == f"{name}_integers"


@pytest.mark.parametrize("gathered", [True, False])
def test_eight_bits_give_the_tensors_back(bert, tmp_path, gathered):
    nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="ONNX Runtime is too old")
    path, folder = bert
    operators = ("MatMul", "Gather") if gathered else ("MatMul",)
    settings = nbits.DefaultWeightOnlyQuantConfig(
        block_size=16,
        bits=4 if gathered else 8,
        op_types_to_quantize=operators,
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    quantizer = nbits.MatMulNBitsQuantizer(onnx.load(path), algo_config=settings)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
    proof = prove_weights(tmp_path / "q.onnx", folder)
    assert not proof.foreign
    assert not proof.unchecked
    kinds = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert ("GatherBlockQuantized" in kinds) == gathered

    def change(arrays, model):
        operator = "GatherBlockQuantized" if gathered else "MatMulNBits"
        node = next(node for node in model.graph.node if node.op_type == operator)
        arrays[node.input[0 if gathered else 1]].reshape(-1)[5] ^= 0x44

    assert len(prove_weights(changed(tmp_path / "q.onnx", tmp_path / "m.onnx", change), folder).foreign) == 1


@pytest.mark.parametrize("kind", [MatMulBnb4Quantizer.FP4, MatMulBnb4Quantizer.NF4])
def test_codes_of_bitsandbytes_give_the_tensors_back(bert, tmp_path, kind):
    path, folder = bert
    quantizer = MatMulBnb4Quantizer(onnx.load(path), kind, 16)
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "q.onnx"))
    proof = prove_weights(tmp_path / "q.onnx", folder)
    assert not proof.foreign
    assert not proof.unchecked

    def change(arrays, model):
        node = next(node for node in model.graph.node if node.op_type == "MatMulBnb4")
        arrays[node.input[1]].reshape(-1)[5] ^= 0x44

    assert len(prove_weights(changed(tmp_path / "q.onnx", tmp_path / "m.onnx", change), folder).foreign) == 1


def test_bfloat16_is_compared_however_it_is_stored(tmp_path):
    values = torch.randn(8, 8).bfloat16()
    (tmp_path / "model").mkdir()
    from safetensors.torch import save_file

    save_file({"layer.weight": values}, tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "config.json").write_text("{}")
    typed = onnx.helper.make_tensor(
        "layer.weight", onnx.TensorProto.BFLOAT16, (8, 8), values.float().flatten().tolist()
    )
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.BFLOAT16, (8, 8))
    node = onnx.helper.make_node("Identity", ["layer.weight"], ["y"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [result], [typed])), tmp_path / "m.onnx")
    (finding,) = prove_weights(tmp_path / "m.onnx", tmp_path / "model").findings
    assert finding.evidence is Evidence.PROVEN


def test_zeroed_bias_of_a_part_without_tags_is_found(zoo_export, tmp_path):
    """The names of an encoder's parameters begin at the encoder, and the decoder has some of the same names."""
    made = zoo_export("bart")
    model = onnx.load(made.output / "encoder_model.onnx")
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "plain.onnx")
    assert not prove_weights(tmp_path / "plain.onnx", made.model).foreign
    bias = next(one for one in model.graph.initializer if one.name == "layers.0.fc1.bias")
    bias.CopyFrom(nh.from_array(np.zeros_like(nh.to_array(bias)), bias.name))
    onnx.save(model, tmp_path / "zeroed.onnx")
    assert [one.name for one in prove_weights(tmp_path / "zeroed.onnx", made.model).foreign] == ["layers.0.fc1.bias"]
