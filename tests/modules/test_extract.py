"""An extracted module runs in ONNX Runtime and computes the output of PyTorch's own submodule."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from optimum.onnxruntime import (
    AutoOptimizationConfig,
    AutoQuantizationConfig,
    ORTModelForFeatureExtraction,
    ORTOptimizer,
    ORTQuantizer,
)

from optimum_htp import UnknownModuleError, extract_module
from optimum_htp.errors import ArgumentError, ExtractError, MetadataError, WrongTaskError
from optimum_htp.hierarchy.assign import assign
from optimum_htp.hierarchy.capture import module_tree
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tags import TagWriter
from optimum_htp.modules.extract import CuttableModel
from optimum_htp.modules.patterns import module_classes
from optimum_htp.onnxfile import read_graph, read_header, read_metadata, rewrite_model
from optimum_htp.stamping.tag import tag_file
from tests.conftest import optimum_cli
from tests.support.submodules import LAYER, inner_values, observed, run
from tests.support.zoo import ZOO

DEPTH = 4

# The reasons of refusals; all other modules must be equal.
REFUSED = {
    "squeezebert": {"transformer.encoder.layers.1": "transposition"},
    "resnet": {"resnet.embedder.embedder.convolution": "normalization"},
    "segformer": {"decode_head.linear_fuse": "normalization"},
    "unispeech-sat": {"tdnn.0.kernel": "no call", "tdnn.1.kernel": "no call"},
    "deberta-v2": {"deberta.encoder.rel_embeddings": "constants"},
    "clip": {"vision_model.embeddings.position_embedding": "constants"},
    "bart": {"model": "only model.encoder"},
    "whisper": {"model": "only model.encoder", "model.encoder.embed_positions": "no call"},
}


def alike(one, other):
    return one.shape == other.shape and np.allclose(one, other, rtol=1e-3, atol=1e-4)


def fits(spec, value):
    dims = zip(spec.shape or value.shape, value.shape, strict=True)
    return all(not isinstance(size, int) or size == there for size, there in dims)


@pytest.mark.parametrize("name", ZOO)
def test_module_equals_pytorchs(name, zoo_export, tmp_path):
    export, out = zoo_export(name), tmp_path / "module.onnx"
    refused = {}
    compared = 0
    files = [
        path for path in sorted(export.output.glob("*.onnx")) if "past" not in path.name and "merged" not in path.name
    ]
    for path in files:
        calls, values = observed(ZOO[name], export.model, path)
        with CuttableModel.at(path) as model:
            modules = [one for one in module_classes(model.assignment) if one and one.count(".") < DEPTH]
            for module in modules:
                number, count = 1, 1
                while number <= count:
                    try:
                        cut = model.extract(module, out, number)
                    except ExtractError as error:
                        refused[module] = str(error)
                        break
                    count = cut.calls
                    made = run(out, values)
                    assert made.keys() == {spec.name for spec in cut.outputs}
                    assert all(fits(spec, made[spec.name]) for spec in cut.outputs), module
                    assert all(fits(spec, values[spec.name]) for spec in cut.inputs), module
                    assert all(np.allclose(one, values[value], atol=1e-5) for value, one in made.items()), module
                    if calls.get(module):  # lists of modules are never called
                        assert len(calls[module]) == count, module
                        seen = calls[module][number - 1]
                        assert any(alike(one, other) for one in seen.returned for other in made.values()), module
                        compared += 1
                    number += 1
    assert compared >= 5
    assert refused.keys() == REFUSED.get(name, {}).keys()
    assert all(reason in refused[module] for module, reason in REFUSED.get(name, {}).items())


def test_calls_of_a_shared_layer(zoo_export, tmp_path):
    path, out = zoo_export("albert").output / "model.onnx", tmp_path / "layer.onnx"
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    with pytest.raises(ArgumentError, match=r"2 calls .* --call 1 to --call 2"):
        extract_module(path, layer, out)
    with pytest.raises(ArgumentError, match="no call 3"):
        extract_module(path, layer, out, call=3)
    assert not out.exists()
    calls, values = observed(ZOO["albert"], zoo_export("albert").model, path)
    for module in (layer, f"{layer}.attention.query"):
        for number in (1, 2):
            cut = extract_module(path, module, out, call=number)
            assert (cut.call, cut.calls) == (number, 2)
            assert read_metadata(out)["hf_submodule_call"] == str(number)
            (returned,) = calls[module][number - 1].returned[:1]
            assert any(alike(returned, one) for one in run(out, values).values())
    assert not alike(calls[layer][0].returned[0], calls[layer][1].returned[0])


def test_branches_of_a_merged_decoder_are_calls(zoo_export, tmp_path):
    folder, out = zoo_export("t5").output, tmp_path / "block.onnx"
    _, values = observed(ZOO["t5"], zoo_export("t5").model, folder / "decoder_model.onnx")
    first = extract_module(folder / "decoder_model_merged.onnx", "decoder.block.0", out, call=1)
    assert first.calls == 2
    made = run(out, values)
    assert all(np.allclose(one, values[name], atol=1e-5) for name, one in made.items())
    second = extract_module(folder / "decoder_model_merged.onnx", "decoder.block.0", out, call=2)
    assert "past_key_values.0.decoder.key" in {spec.name for spec in second.inputs}
    onnxruntime.InferenceSession(out)


def test_record_of_the_file(zoo_export, tmp_path):
    path, out = zoo_export("bert").output / "model.onnx", tmp_path / "layer.onnx"
    cut = extract_module(path, LAYER, out)
    assert (cut.module, cut.class_name, cut.call, cut.calls) == (LAYER, "BertLayer", 1, 1)
    before, after = read_metadata(path), read_metadata(out)
    assert after["hf_submodule"] == LAYER
    assert "hf_submodule_call" not in after
    assert {key: value for key, value in after.items() if key.startswith("hf_") and key != "hf_submodule"} == {
        key: value for key, value in before.items() if key.startswith("hf_") and not key.startswith("hf_embedded")
    }
    modules = json.loads(after["htp.modules"])
    assert modules[LAYER] == "BertLayer"
    assert "bert.encoder.layer.1" not in modules
    assert LAYER in read_header(out).doc_string
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    tags = {node.name: {entry.key: entry.value for entry in node.metadata_props} for node in model.graph.node}
    query = tags["/bert/encoder/layer.0/attention/self/query/MatMul"]
    assert query["htp.module"] == f"{LAYER}.attention.self.query"
    assert query["htp.relative_module"] == "attention.self.query"
    assert query["htp.relative_tag"].startswith("/BertLayer/BertAttention/")
    assert query["htp.tag"].endswith(query["htp.relative_tag"].removeprefix("/BertLayer"))
    used = {name for node in model.graph.node for name in node.input}
    assert all(tensor.name in used for tensor in model.graph.initializer)
    again = extract_module(out, f"{LAYER}.attention", tmp_path / "attention.onnx")
    assert again.module == f"{LAYER}.attention"
    assert read_metadata(again.path)["hf_submodule"] == f"{LAYER}.attention"


def test_patterns_name_one_module(zoo_export, tmp_path):
    path, out = zoo_export("bert").output / "model.onnx", tmp_path / "out.onnx"
    assert extract_module(path, "BertPredictionHeadTransform", out).module == "cls.predictions.transform"
    with pytest.raises(ArgumentError, match="matches 2 modules"):
        extract_module(path, "BertLayer", out)
    with pytest.raises(UnknownModuleError, match=r"bert\.encoder\.layer\.1"):
        extract_module(path, "bert.encoder.layer.7", out)
    with pytest.raises(ArgumentError, match="a file that this command reads"):
        extract_module(path, LAYER, path)


def test_file_without_tags_is_refused(plain, tmp_path):
    with pytest.raises(MetadataError, match="htp tag"):
        extract_module(plain("bert", task="text-classification") / "model.onnx", LAYER, tmp_path / "out.onnx")


def test_optimums_class_does_not_take_a_module_for_the_model(zoo_export, tmp_path):
    path = zoo_export("albert").output / "model.onnx"
    cut = extract_module(path, "embeddings", tmp_path / "model.onnx")
    with pytest.raises(WrongTaskError, match="the module embeddings of zoo/albert"):
        ORTModelForFeatureExtraction.from_pretrained(cut.path)


@pytest.mark.parametrize("made", ["optimized", "quantized"])
def test_operators_of_onnx_runtime(exported, tmp_path, made):
    """onnx has no types for these operators: ONNX Runtime computes them."""
    source = exported("bert") / "model.onnx"
    if made == "optimized":
        ORTOptimizer.from_pretrained(source).optimize(AutoOptimizationConfig.O2(), save_dir=tmp_path)
    else:
        ORTQuantizer.from_pretrained(source).quantize(AutoQuantizationConfig.avx2(is_static=False), save_dir=tmp_path)
    path = tmp_path / f"model_{made}.onnx"
    feeds = {"input_ids": np.array([[2, 7, 8, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    feeds["token_type_ids"] = np.zeros((1, 4), np.int64)
    values = inner_values(path, feeds)
    cut = extract_module(path, "bert.encoder.layer.1", tmp_path / "layer.onnx")
    assert all(spec.dtype is not None for spec in (*cut.inputs, *cut.outputs))
    made_values = run(cut.path, values)
    assert made_values
    assert all(np.allclose(one, values[name], atol=1e-5) for name, one in made_values.items())


def test_functions_and_captured_values_come_along(tmp_path):
    """A module with an `If` node, which takes a weight and an input from outside, and calls a function."""

    def tagged(node, module):
        node.metadata_props.extend(
            onnx.StringStringEntryProto(key=key, value=value)
            for key, value in {"htp.module": module, "htp.tag": "/M/" + module}.items()
        )
        return node

    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    other = helper.make_function(
        "own", "Other", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    value = helper.make_tensor_value_info
    branches = {
        name: helper.make_graph(
            [
                tagged(helper.make_node(op, ["hidden", "w"], [f"{name}_m"]), "m.inner"),
                tagged(helper.make_node("Double", [f"{name}_m"], [f"{name}_y"], domain="own"), "m.inner"),
            ],
            name,
            [],
            [value(f"{name}_y", TensorProto.FLOAT, ["n", 2])],
        )
        for name, op in (("then_branch", "Mul"), ("else_branch", "Sub"))
    }
    nodes = [
        tagged(helper.make_node("Other", ["x"], ["hidden"], domain="own"), ""),
        tagged(helper.make_node("If", ["flag"], ["y"], **branches), "m"),
        tagged(helper.make_node("Relu", ["y"], ["z"]), ""),
    ]
    weight = onnx.numpy_helper.from_array(np.array([2.0, 3.0], np.float32), "w")
    unused = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "unused")
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 2]), value("flag", TensorProto.BOOL, [])],
        [value("z", TensorProto.FLOAT, ["n", 2])],
        [weight, unused],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        functions=[double, other],
        ir_version=10,
    )
    helper.set_model_props(model, {"htp.modules": json.dumps({"": "M", "m": "Inner", "m.inner": "Leaf"})})
    onnx.save(model, tmp_path / "model.onnx")
    cut = extract_module(tmp_path / "model.onnx", "m", tmp_path / "m.onnx")
    assert [spec.name for spec in cut.inputs] == ["flag", "hidden"]
    made = onnx.load(cut.path)
    assert [one.name for one in made.functions] == ["Double"]
    assert [one.name for one in made.graph.initializer] == ["w"]
    feeds = {"flag": np.array(True), "hidden": np.array([[1.0, 1.0]], np.float32)}
    assert run(cut.path, feeds)["y"].tolist() == [[4.0, 6.0]]


@pytest.mark.slow
def test_commands(zoo_export, tmp_path):
    path = zoo_export("albert").output / "model.onnx"
    layer = "encoder.albert_layer_groups.0.albert_layers.0"
    names = optimum_cli("htp", "nodes", path, f"{layer}.attention.query", "AlbertEmbeddings").stdout.splitlines()
    assert f"/{layer.replace('.a', '/a')}/attention/query/MatMul" in names
    options = ("--module", layer, "--call", "2", "--json")
    document = json.loads(optimum_cli("htp", "extract", path, *options, "-o", tmp_path / "layer.onnx").stdout)
    assert document["calls"] == 2
    assert [spec["dtype"] for spec in document["outputs"]] == ["float32"]
    onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    failed = optimum_cli("htp", "extract", path, "--module", "encodr", "-o", tmp_path / "none.onnx", check=False)
    assert failed.returncode == 1
    assert "encoder" in failed.stderr


def test_calls_in_a_file_of_the_dynamo_exporter(tmp_path):
    """The names have no scopes: each call uses each weight once, with the same operators."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.act = torch.nn.Linear(4, 4), torch.nn.GELU()

        def forward(self, x):
            return x + self.act(self.fc(x))

    class Repeated(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(self.block(x))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.head = Repeated(), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.twice(x))

    path, out = tmp_path / "dynamo.onnx", tmp_path / "block.onnx"
    model, x = Model().eval(), torch.randn(3, 4)
    torch.onnx.export(model, (x,), path, dynamo=True, verbose=False)
    graph, tree = read_graph(path), module_tree(model, model)
    tags = TagWriter(assign(graph, ScopeResolver(tree), tree))
    rewrite_model(path, metadata=tags.metadata, nodes=tags.visitor(), ir_version=tags.ir_version(10))
    for number in (1, 2):
        cut = extract_module(path, "twice.block", out, call=number)
        assert cut.calls == 2
        (made,) = run(out, {cut.inputs[0].name: x.numpy()}).values()
        x = model.twice.block(x).detach()
        assert alike(made, x.numpy())
    with pytest.raises(ExtractError, match="the file does not contain which node belongs"):
        extract_module(path, "twice", out)


@pytest.mark.parametrize(
    ("operator", "attributes"), [("Bernoulli", {}), ("RandomNormalLike", {}), ("RandomUniformLike", {"seed": 1.0})]
)
def test_random_value_is_an_input_and_no_constant(operator, attributes, tmp_path):
    nodes = [
        helper.make_node(operator, ["p"], ["r"], name="/a/Random", **attributes),
        helper.make_node("Add", ["x", "r"], ["y"], name="/b/Add"),
    ]
    info, p = helper.make_tensor_value_info, onnx.numpy_helper.from_array(np.full(3, 0.5, np.float32), "p")
    graph = helper.make_graph(nodes, "g", [info("x", 1, [3])], [info("y", 1, [3])], [p])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx"
    )
    tag_file(tmp_path / "m.onnx")
    extract_module(tmp_path / "m.onnx", "b", tmp_path / "b.onnx")
    made = onnx.load(tmp_path / "b.onnx").graph
    assert [node.op_type for node in made.node] == ["Add"]
    assert {value.name for value in made.input} == {"x", "r"}
