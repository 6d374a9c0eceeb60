"""Proofs of tensors computed from weights and then quantized, and of models whose code caches computed tensors."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
import transformers
from onnxruntime.quantization import QuantFormat
from safetensors.numpy import save_file

from optimum_htp import HTPExporter
from optimum_htp.modules.prove import Evidence, prove_weights
from tests.support.changed_weights import calibrated, changed
from tests.support.models import _seeded

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37}
TEXT = {**WIDTH, "vocab_size": 60, "max_position_embeddings": 64}

MODELS = {
    "tables kept between calls": (
        *("EsmModel", "EsmConfig"),
        {**TEXT, "mask_token_id": 4, "pad_token_id": 1, "position_embedding_type": "rotary"},
    ),
    "rows of a table": ("Dinov2Model", "Dinov2Config", {**WIDTH, "image_size": 32, "patch_size": 8}),
    "1 + weight": ("GemmaForCausalLM", "GemmaConfig", {**TEXT, "num_key_value_heads": 2, "head_dim": 8}),
}


@pytest.fixture(scope="module")
def made(made_once):
    def export(what):
        name, config, settings = MODELS[what]

        def make(folder):
            model = _seeded(getattr(transformers, name), getattr(transformers, config)(**settings))
            model.save_pretrained(folder / "model")
            if "image_size" in settings:
                size = {"height": 32, "width": 32}
                transformers.ViTImageProcessor(size=size).save_pretrained(folder / "model")
            HTPExporter().export(folder / "model", folder / "out")

        folder = made_once(f"computed/{name}", make)
        return folder / "out" / "model.onnx", folder / "model"

    return export


def test_tables_that_a_model_keeps_between_calls_hinder_no_proof(made, tmp_path):
    """ESM's attention caches its rotary tables, and the proof runs its code without weights."""
    path, folder = made("tables kept between calls")
    assert not prove_weights(path, folder).foreign

    def change(arrays, model):
        name = next(name for name in arrays if name.endswith("layer.0.output.dense.bias"))
        arrays[name][3] += 1
        change.name = name

    spoilt = prove_weights(changed(path, tmp_path / "m.onnx", change), folder)
    assert [one.name for one in spoilt.foreign] == [change.name]


def test_quantized_rows_of_a_table_are_found(made, tmp_path):
    """An exporter folds the first position out of the table; in a fully quantized file, that row is quantized too."""
    path, folder = made("rows of a table")
    target = calibrated(path, tmp_path / "q.onnx", QuantFormat.QDQ)
    proof = prove_weights(target, folder)
    assert not proof.foreign
    (row,) = [one for one in proof.findings if one.how == "rows of a table, quantized"]
    assert row.tensors == ("embeddings.position_embeddings",)
    arrays = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(target).graph.initializer}
    spoilt = {
        "another number": lambda numbers: numbers.reshape(-1).__setitem__(5, numbers.reshape(-1)[5] ^ 8),
        "another order": lambda numbers: numbers.__setitem__(..., numbers[..., ::-1].copy()),
        "zeros": lambda numbers: numbers.__setitem__(..., 0),
    }
    for what, spoil in spoilt.items():

        def change(arrays, model, spoil=spoil):
            spoil(arrays[row.name])

        foreign = prove_weights(changed(target, tmp_path / "m.onnx", change), folder).foreign
        assert [one.name for one in foreign] == [row.name], what

    def flatten(arrays, model):  # a step so large that every value is within half of it
        arrays[row.name][...] = arrays[f"{row.name.removesuffix('_quantized')}_zero_point"]
        arrays[f"{row.name.removesuffix('_quantized')}_scale"][...] = 1000

    assert arrays[row.name].dtype == np.int8
    foreign = prove_weights(changed(target, tmp_path / "m.onnx", flatten), folder).foreign
    assert row.name in {one.name for one in foreign}


@pytest.mark.parametrize("form", ["QDQ"])
def test_integers_that_only_code_explains_are_unchecked_if_it_cannot_run(made, tmp_path, form):
    path, folder = made("1 + weight")
    target = calibrated(path, tmp_path / "q.onnx", QuantFormat[form])
    computed = {one.name for one in prove_weights(target, folder).findings if one.how.startswith("computed by")}
    computed = {name for name in computed if name.endswith("_quantized")}
    assert computed
    shutil.copytree(folder, tmp_path / "unknown")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "unknown" / "config.json").write_text(json.dumps({**config, "model_type": "no-such-model"}))
    proof = prove_weights(target, tmp_path / "unknown")
    assert not proof.foreign
    assert {one.name for one in proof.findings if one.evidence is Evidence.UNCHECKED} >= computed


@pytest.mark.parametrize(("width", "evidence"), [(3, Evidence.UNCHECKED), (32, Evidence.DERIVED)])
def test_short_rows_cannot_be_distinguished(tmp_path, width, evidence):
    """Among thousands of rows, one is within half a step of any three numbers."""
    table = np.random.default_rng(0).uniform(-1, 1, (4096, width)).astype(np.float32)
    (tmp_path / "model").mkdir()
    save_file({"layer.table": table}, tmp_path / "model" / "model.safetensors")
    step = np.float32(2 / 255)
    row = np.round(table[7:8] / step).astype(np.int8)
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["rows", "step"], ["given"]),
            helper.make_node("Concat", ["x", "given"], ["y"], axis=0),
        ],
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, width])],
        [onnx.numpy_helper.from_array(row, "rows"), onnx.numpy_helper.from_array(step, "step")],
    )
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx"
    )
    found = {one.name: one for one in prove_weights(tmp_path / "m.onnx", tmp_path / "model").findings}
    assert found["rows"].evidence is evidence
    assert found["rows"].tensors == ("layer.table",)


def test_two_towers_without_tags_and_names_are_proven(zoo_export, tmp_path):
    """The order in which CLIP's code uses its weights is known only with texts and images as inputs."""
    made = zoo_export("clip")

    def bare(arrays, model):
        del model.metadata_props[:]
        for node in model.graph.node:
            del node.metadata_props[:]
            node.name = ""

    path = changed(made.output / "model.onnx", tmp_path / "bare.onnx", bare)
    proof = prove_weights(path, made.model)
    assert not proof.foreign
    assert not proof.unchecked

    def exchange(arrays, model):
        one, other = [name for name, array in arrays.items() if array.shape == (32, 32)][:2]
        arrays[one][...], arrays[other][...] = arrays[other].copy(), arrays[one].copy()

    spoilt = prove_weights(changed(path, tmp_path / "m.onnx", exchange), made.model)
    assert spoilt.foreign or spoilt.unchecked
