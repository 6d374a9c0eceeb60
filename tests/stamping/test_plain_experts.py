"""A mixture of experts that transformers' own exporters wrote without this package."""

import shutil
from pathlib import Path

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

from optimum_htp import compare_models, extract_module, inject_hub_metadata, prove_weights, report_document, tag_file
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.support.models import _seeded
from tests.support.traced import changed

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
PROMPT = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()}


@pytest.fixture(scope="module")
def mixtral(made_once):
    """A mixture of experts, and its export by transformers alone."""
    config = transformers.MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=32,
    )

    def make(folder):
        model = _seeded(transformers.MixtralForCausalLM, config)
        model.save_pretrained(folder / "model")
        inputs = {**PROMPT, "use_cache": False}
        OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True)).save_pretrained(folder / "plain")

    return made_once("engine/mixtral", make)


@pytest.fixture
def plain(mixtral, hub, tmp_path):
    """A copy of the export by transformers alone of a model on the Hub, for changes."""
    hub.add("me/mixtral", mixtral / "model", pipeline_tag="text-generation", library_name="transformers")
    shutil.copytree(mixtral / "plain", tmp_path / "plain")
    return tmp_path / "plain" / "model.onnx"


def test_transformers_loads_what_it_saved(mixtral):
    assert ExportedModel.from_pretrained(mixtral / "plain")(**PROMPT).logits.shape == (2, 5, 40)


def test_files_of_transformers_can_be_injected_and_verified(plain):
    record = inject_hub_metadata(plain, "me/mixtral")
    assert (record.task, record.model_class) == ("text-generation", "MixtralForCausalLM")
    assert "export.json" in {file.name for file in record.embedded_files}
    assert verify_metadata(plain).status is Status.OK
    for other in plain.parent.glob("*.json"):
        other.unlink()
    loaded = ExportedModel.from_pretrained(plain)
    assert loaded(**PROMPT).logits.shape == (2, 5, 40)
    assert loaded.config.num_local_experts == 4


def test_files_of_transformers_can_be_tagged_without_the_model(plain):
    assignment = tag_file(plain)
    assert assignment.coverage.get("root", 0) + assignment.coverage.get("partial_name", 0) == 0
    assert "model.layers.1.self_attn.q_proj" in assignment.modules
    assert assignment.tree.classes["model.layers.1.self_attn.q_proj"] == "Linear"


def test_the_file_is_proven_compared_cut_and_described(plain, tmp_path):
    inject_hub_metadata(plain, "me/mixtral")
    tag_file(plain)
    proof = prove_weights(plain)
    assert proof.counts["foreign"] == 0
    assert proof.counts["proven"] > 15
    comparison = compare_models(plain, pytorch=True)
    assert comparison.compared > 10
    assert not comparison.exceeds  # a different order of experts for equal tokens is not a difference
    assert any(".experts." in module.name and module.values for module in comparison.modules)
    module = extract_module(plain, "model.layers.1", tmp_path / "layer.onnx")
    assert "model.layers.1.self_attn.q_proj" in read_modules(tmp_path / "layer.onnx")[1].modules
    assert module
    assert "model.layers.1.self_attn.q_proj" in {
        row["name"] for row in report_document([plain])["files"][0]["modules"]
    }


def test_the_experts_of_a_layer_in_one_tensor_are_proven_and_a_change_of_them_is_found(mixtral, tmp_path):
    file = Path(shutil.copytree(mixtral / "plain", tmp_path / "plain"), "model.onnx")
    tag_file(file)
    proof = prove_weights(file, mixtral / "model")
    assert proof.counts["foreign"] == 0
    stacks = [finding for finding in proof.findings if "experts" in finding.how]
    assert len(stacks) == 4
    assert {finding.tensors[0] for finding in stacks if len(finding.tensors) == 8} == {
        f"model.layers.{layer}.block_sparse_moe.experts.0.w1.weight" for layer in (0, 1)
    }
    first, other = (next(one for one in stacks if f"layers.{layer}." in one.module).name for layer in (0, 1))
    values = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}

    def one_number(array):
        array[(3,) * array.ndim] += 1e-3
        return array

    for change in (one_number, lambda array: array[[0, 2, 1, 3]], lambda array: values[other]):
        assert change(values[first].copy()).shape == values[first].shape
        found = prove_weights(changed(file, tmp_path / "changed.onnx", first, change), mixtral / "model")
        assert [finding.name for finding in found.foreign] == [first]
    both, down = sorted((one for one in stacks if "layers.0." in one.module), key=lambda one: -len(one.tensors))
    gates = values[both.name][..., : values[both.name].shape[-1] // 2].swapaxes(1, 2)  # are of the same size
    assert gates.shape == values[down.name].shape
    exchanged = changed(file, tmp_path / "changed.onnx", down.name, lambda array: gates)
    assert prove_weights(exchanged, mixtral / "model").foreign
