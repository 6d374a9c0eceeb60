"""Tags of files with few names: no node gets the tag of another module, and unknown nodes count as unknown."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from optimum_htp import compare_models, inject_hub_metadata, tag_file
from optimum_htp.errors import MismatchError
from optimum_htp.hierarchy.capture import watched_exports
from optimum_htp.hierarchy.rules import LAST_RESORTS, Rule
from optimum_htp.hierarchy.summary import summarize
from optimum_htp.hierarchy.tags import MODULE
from optimum_htp.hierarchy.tree import is_inside
from optimum_htp.onnxfile import read_graph
from optimum_htp.stamping.tag import Tagger
from tests.conftest import optimum_cli
from tests.support.weights import nodes_of


def modules_of(path):
    return [node.metadata[MODULE] for node in read_graph(path).nodes]


def untagged(source, change=lambda model: model):
    """Return a model without tags; its record stays."""
    model = onnx.load(source)
    for node in nodes_of(model.graph):
        del node.metadata_props[:]
    kept = [entry for entry in model.metadata_props if not entry.key.startswith("htp.")]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return change(model)


def without_names(model, *, weights=False):
    """Remove the names of nodes, values and weights, as other exporters and optimizers do."""
    ends = {spec.name for spec in (*model.graph.input, *model.graph.output)}
    if not weights:
        ends |= {tensor.name for tensor in model.graph.initializer}
    names = {}

    def other(name):
        return name if not name or name in ends else names.setdefault(name, f"v{len(names)}")

    for tensor in model.graph.initializer:
        tensor.name = other(tensor.name)
    for node in model.graph.node:
        node.name = ""
        node.input[:] = map(other, node.input)
        node.output[:] = map(other, node.output)
    del model.graph.value_info[:]
    return model


def prefixed(model, prefix="p/"):
    return onnx.compose.add_prefix(model, prefix)


@pytest.fixture
def tagged(zoo_export):
    """Return the file of a model of the zoo, and the model's folder."""

    def export(name):
        made = zoo_export(name)
        return made.output / "model.onnx", made.model

    return export


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("name", ["bert", "gpt2", "swin"])
def test_nodes_without_names_are_never_of_a_wrong_module(name, weights, tagged, tmp_path):
    path, model = tagged(name)
    onnx.save(untagged(path, lambda graph: without_names(graph, weights=weights)), tmp_path / "bare.onnx")
    assignment = Tagger(model=model).assignment(tmp_path / "bare.onnx")
    truth = modules_of(path)
    assert [pair for pair in zip(truth, assignment.modules, strict=True) if not is_inside(*pair)] == []
    inexact = [
        rule for module, had, rule in zip(assignment.modules, truth, assignment.rules, strict=True) if module != had
    ]
    assert set(inexact) <= {*LAST_RESORTS, Rule.DATA_FLOW}
    if not weights:
        assert len(inexact) < 0.9 * len(truth)


@pytest.mark.parametrize("prefix", ["p/", "net_", "a/b"])
@pytest.mark.parametrize("name", ["bert", "swin"])
def test_prefix_of_all_names_is_recognized(name, prefix, tagged, tmp_path):
    path, model = tagged(name)
    onnx.save(untagged(path, lambda graph: prefixed(graph, prefix)), tmp_path / "prefixed.onnx")
    truth = modules_of(path)
    assert list(Tagger(model=model).assignment(tmp_path / "prefixed.onnx").modules) == truth
    assert list(Tagger(path).assignment(tmp_path / "prefixed.onnx").modules) == truth


def test_fused_nodes_of_a_merged_decoder_belong_to_their_parameters(zoo_export, tmp_path):
    made = zoo_export("bart")
    onnx.save(untagged(made.output / "decoder_model_merged.onnx"), tmp_path / "bare.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    onnxruntime.InferenceSession(tmp_path / "bare.onnx", options, providers=["CPUExecutionProvider"])
    tag_file(tmp_path / "fused.onnx", model=made.model)
    fused = {node.metadata[MODULE] for node in read_graph(tmp_path / "fused.onnx").nodes if node.op_type == "BiasGelu"}
    assert fused
    assert {name.rpartition(".")[2] for name in fused} == {"fc1"}


def test_file_of_another_model_is_refused(tagged, tmp_path):
    path, _ = tagged("bert")
    other, other_model = tagged("swin")
    file = tmp_path / "model.onnx"
    file.write_bytes(path.read_bytes())
    before = file.read_bytes()
    for named in ({"original": other}, {"model": other_model}):
        with pytest.raises(MismatchError, match=r"model\.onnx does not (match|seem) .* pass --force\."):
            tag_file(file, **named)
    done = optimum_cli("htp", "tag", "--from", other, file, check=False)
    assert done.returncode == 1
    assert "does not seem to be derived from" in done.stderr
    assert file.read_bytes() == before
    tag_file(file, original=other, force=True)
    assert file.read_bytes() != before


def test_exact_tags_are_not_replaced_by_inferred_ones(tagged, tmp_path):
    path, model = tagged("bert")
    file = tmp_path / "model.onnx"
    bare = without_names(onnx.load(path))
    onnx.save(bare, file)
    truth = modules_of(path)
    assert tag_file(file, model=model).coverage.get("kept", 0) > 0
    assert modules_of(file) == truth
    tag_file(file, model=model, force=True)
    assert modules_of(file) != truth


class Twins(nn.Module):
    """`conv` is called twice: its second call has the scope `conv_1`, as the first of the module of that name."""

    def __init__(self):
        super().__init__()
        self.conv, self.conv_1 = nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1)
        self.act, self.act_1 = nn.Softplus(), nn.SiLU()

    def forward(self, x):
        return self.conv_1(self.act_1(self.conv(self.act(self.act(self.conv(x))))))


def test_second_call_is_not_taken_for_the_module_of_that_name(tmp_path):
    model = Twins().eval()
    with watched_exports(tmp_path, lambda: model, wanted=True) as parts:
        torch.onnx.export(model, (torch.ones(1, 3, 5),), str(tmp_path / "model.onnx"), dynamo=False)
    assignment = parts.assignment("model.onnx", tmp_path / "model.onnx")
    nodes = read_graph(tmp_path / "model.onnx").nodes
    found = [(node.op_type, module) for node, module in zip(nodes, assignment.modules, strict=True)]
    assert [module for operator, module in found if operator == "Conv"] == ["conv", "conv", "conv_1"]
    assert {module for operator, module in found if operator == "Softplus"} <= {"act", ""}
    assert {module for operator, module in found if operator == "Sigmoid"} <= {"act_1", ""}


def test_values_of_functions_are_not_those_of_the_graph(tmp_path):
    body = [helper.make_node("Constant", [], ["c"], value_float=2.0), helper.make_node("Mul", ["x", "c"], ["y"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["x"], ["y"], body, opsets[:1])
    nodes = [
        helper.make_node("Constant", [], ["c"], name="/a/Constant", value_float=3.0),
        helper.make_node("Mul", ["x", "c"], ["m"], name="/a/Mul"),
        helper.make_node("F", ["m"], ["out"], name="/b/F", domain="own"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, functions=[function], opset_imports=opsets), tmp_path / "f.onnx")
    assignment = Tagger().assignment(tmp_path / "f.onnx")
    by_operator = dict(
        zip([(n.op_type, n.name) for n in read_graph(tmp_path / "f.onnx").nodes], assignment.modules, strict=True)
    )
    assert by_operator["Mul", ""] in ("b", "")
    assert by_operator["Constant", ""] in ("b", "")


def test_weights_count_wherever_a_file_keeps_them(tmp_path):
    weight = numpy_helper.from_array(np.full((20, 20), 0.5, "float32"), "w")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(3, "float32"), "s"),
        numpy_helper.from_array(np.array([[0, 1], [2, 3], [4, 5]]), "s_at"),
        [20, 20],
    )
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 20]) for name in ("x", "out")]
    condition = helper.make_tensor_value_info("on", TensorProto.BOOL, [])

    def branch(node, tensors=()):
        made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 20])]
        return helper.make_graph([node], "branch", [], made, tensors)

    nodes = [
        helper.make_node("Constant", [], ["c"], name="/a/Constant", value=weight),
        helper.make_node("MatMul", ["x", "c"], ["h"], name="/a/MatMul"),
        helper.make_node("MatMul", ["h", "s"], ["z"], name="/s/MatMul"),
        helper.make_node(
            "If",
            ["on"],
            ["out"],
            name="/b/If",
            then_branch=branch(helper.make_node("MatMul", ["z", "w"], ["y"], name="/b/inner/MatMul"), [weight]),
            else_branch=branch(helper.make_node("Identity", ["z"], ["y"], name="/b/Identity")),
        ),
    ]
    graph = helper.make_graph(nodes, "g", [ends[0], condition], ends[1:], sparse_initializer=[sparse])
    path = tmp_path / "kept.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    modules = summarize(read_graph(path), Tagger().assignment(path))
    assert {name: modules[name].parameters for name in ("", "a", "b.inner", "s")} == {
        "": 1200,
        "a": 400,
        "b.inner": 400,
        "s": 400,
    }


@pytest.fixture
def encoder(plain, published, tmp_path):
    """The encoder of a translation model as exported by Optimum alone, with a record."""
    file = shutil.copy(plain("t5", task="text2text-generation") / "encoder_model.onnx", tmp_path)
    inject_hub_metadata(file, published("t5").repo_id)
    return file


def test_modules_of_a_stamped_part_are_named_as_in_the_whole_model(encoder):
    tag_file(encoder)
    assert {module.partition(".")[0] for module in modules_of(encoder)} - {"shared"} == {"encoder"}
    found = compare_models(encoder, pytorch=True)
    assert found.first is None
    assert len([module for module in found.modules if module.values]) > 9


def test_names_determine_the_modules_if_the_commit_is_unavailable(encoder, tmp_path, caplog):
    tag_file(encoder, cache_dir=tmp_path / "empty", local_files_only=True)
    assert "block.0.layer.0.SelfAttention" in modules_of(encoder)
    assert "its modules are inferred from the names in it only" in caplog.text
