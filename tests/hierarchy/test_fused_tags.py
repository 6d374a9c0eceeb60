"""Tags of fused nodes, and of models whose scopes begin below the root: none is more precise than known."""

from __future__ import annotations

from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import transformers

from optimum_htp import HTPExporter, tag_file
from optimum_htp.hierarchy.tags import MODULE
from optimum_htp.hierarchy.tree import is_inside
from optimum_htp.onnxfile import read_graph
from tests.support.models import _seeded
from tests.support.weights import nodes_of, weight_uses

OPT = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 37,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
}


def fused(source, target, rename=lambda model: None):
    """Optimize a file with ONNX Runtime, and remove its tags."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    model = onnx.load(target)
    for node in nodes_of(model.graph):
        del node.metadata_props[:]
    del model.metadata_props[:]
    rename(model)
    onnx.save(model, target)
    return target


@pytest.fixture(scope="module")
def opt(made_once):
    """A model that calls `self.model.decoder` without `self.model`, and an activation after a fused layer."""

    def make(folder):
        model = _seeded(transformers.OPTForCausalLM, transformers.OPTConfig(**OPT))
        model.save_pretrained(folder / "model")
        HTPExporter().export(folder / "model", folder / "out")

    folder = made_once("fused/opt", make)
    return SimpleNamespace(model=folder / "model", file=folder / "out" / "model.onnx")


def without_names_of_nodes(model):
    for node in model.graph.node:
        node.name = ""


def without_names_of_weights(model):
    """Give weights the names of exporters for transposed ones."""
    without_names_of_nodes(model)
    names = {tensor.name: f"onnx::{number}" for number, tensor in enumerate(model.graph.initializer)}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]


@pytest.mark.parametrize("rename", [lambda model: None, without_names_of_nodes, without_names_of_weights])
def test_layer_that_took_in_its_activation_is_not_the_activations(opt, tmp_path, rename):
    path = fused(opt.file, tmp_path / "fused.onnx", rename)
    tag_file(path, model=opt.model)
    modules = {node.metadata[MODULE] for node in read_graph(path).nodes if node.op_type == "FusedGemm"}
    assert len(modules) == 2
    assert {name.rpartition(".")[2] for name in modules} <= {"0", "1", "fc1"}
    uses = weight_uses(path, transformers.OPTForCausalLM.from_pretrained(opt.model))
    assert uses
    assert not [use for use in uses if not any(is_inside(owner, use.module or "") for owner in use.owners)]


def test_head_outside_the_module_of_the_scopes_is_tagged(opt, tmp_path):
    path = fused(opt.file, tmp_path / "fused.onnx")
    tag_file(path, model=opt.model)
    uses = weight_uses(path, transformers.OPTForCausalLM.from_pretrained(opt.model))
    assert "lm_head" in {use.module for use in uses}
    assert not [use for use in uses if not use.exact]


def test_fused_node_belongs_to_the_outer_module_without_a_model(zoo_export, tmp_path):
    path = fused(zoo_export("bert").output / "model.onnx", tmp_path / "fused.onnx")
    tag_file(path)
    modules = {node.metadata[MODULE] for node in read_graph(path).nodes if node.op_type == "BiasGelu"}
    layers = {f"bert.encoder.layer.{one}.intermediate" for one in (0, 1)}
    assert modules == {*layers, "cls.predictions.transform"}


def test_prefix_is_recognized_where_few_nodes_have_a_scope(zoo_export, tmp_path):
    made = zoo_export("bert")
    model = onnx.load(made.output / "model.onnx")
    for node in nodes_of(model.graph):
        del node.metadata_props[:]
    del model.metadata_props[:]
    for number, node in enumerate(model.graph.node):
        if number % 3 and node.op_type != "MatMul":
            node.name = f"{node.op_type}_{number}"
            for name in node.output:
                rename_value(model, name, f"value_{number}")
    onnx.save(model, tmp_path / "plain.onnx")
    onnx.save(onnx.compose.add_prefix(model, "part/"), tmp_path / "prefixed.onnx")
    plain, prefixed = (tag_file(tmp_path / name, model=made.model).modules for name in ("plain.onnx", "prefixed.onnx"))
    assert prefixed == plain


def rename_value(model, old, new):
    if old in {spec.name for spec in model.graph.output}:
        return
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    kept = [value for value in model.graph.value_info if value.name != old]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
