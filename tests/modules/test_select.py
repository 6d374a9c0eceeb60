"""The pattern language, and the nodes of the matching modules."""

from __future__ import annotations

import json

import pytest

from optimum_htp import UnknownModuleError, select_nodes
from optimum_htp.errors import MetadataError, OptimumHTPError
from optimum_htp.modules.patterns import find_modules, is_inside_any, matching, nearest
from optimum_htp.modules.select import find_nodes, find_nodes_of_files
from optimum_htp.onnxfile import read_graph
from tests.conftest import optimum_cli

MODEL = {
    "": "Model",
    "encoder": "Encoder",
    "encoder.layer": "ModuleList",
    "encoder.layer.0": "Layer",
    "encoder.layer.0.norm": "LayerNorm",
    "encoder.layer.0.dense": "Linear",
    "encoder.layer.1": "Layer",
    "encoder.layer.1.norm": "LayerNorm",
    "encoder.layer.10": "Layer",
    "encoder.layer.10.norm": "LayerNorm",
    "norm": "LayerNorm",
    "head": "Linear",
}


@pytest.mark.parametrize(
    ("pattern", "modules"),
    [
        ("head", ["head"]),
        ("encoder.layer.*", ["encoder.layer.0", "encoder.layer.1", "encoder.layer.10"]),
        ("encoder.layer.1*", ["encoder.layer.1", "encoder.layer.10"]),
        ("encoder.layer.[01].norm", ["encoder.layer.0.norm", "encoder.layer.1.norm"]),
        ("encoder.*.norm", []),
        ("**.norm", ["encoder.layer.0.norm", "encoder.layer.1.norm", "encoder.layer.10.norm", "norm"]),
        ("encoder.**.norm", ["encoder.layer.0.norm", "encoder.layer.1.norm", "encoder.layer.10.norm"]),
        ("encoder.**", [name for name in MODEL if name.startswith("encoder")]),
        ("**", list(MODEL)),
        ("**.**.layer.**.dense", ["encoder.layer.0.dense"]),
        ("Linear", ["encoder.layer.0.dense", "head"]),
        ("Layer*", [name for name, kind in MODEL.items() if kind.startswith("Layer")]),
        ("Model", [""]),
        ("layer", []),
        ("", []),
        ("linear", []),
    ],
)
def test_patterns(pattern, modules):
    assert matching(pattern, MODEL) == modules


def test_path_goes_before_class():
    assert matching("norm", {"norm": "A", "other": "norm"}) == ["norm"]


def test_many_stars_take_no_time():
    names = {".".join(["a"] * 60): "A"}
    assert matching(".".join(["**"] * 40) + ".b", names) == []


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("encoder.layer.*.nrom", "encoder.layer.*.norm"),
        ("encoder.layr.1", "encoder.layer.1"),
        ("Liner", "Linear"),
        ("**.nrm", "**.norm"),
        ("dense", "**.dense"),
    ],
)
def test_nearest_names_are_shown(pattern, near):
    assert near in nearest(pattern, MODEL)
    with pytest.raises(UnknownModuleError) as caught:
        find_modules(["head", pattern], MODEL, "model.onnx")
    assert caught.value.pattern == pattern
    assert near in caught.value.nearest
    assert near in str(caught.value)
    assert isinstance(caught.value, (LookupError, OptimumHTPError))


def test_suggested_patterns_match():
    for wrong in ("encodr.layer.*.norm", "LayrNorm", "**.hed", "encoder.layer.7.norm"):
        assert all(matching(one, MODEL) for one in nearest(wrong, MODEL))


def test_a_name_that_begins_alike_is_not_inside():
    assert is_inside_any("encoder.layer.1.norm", ["encoder.layer.1"])
    assert not is_inside_any("encoder.layer.10", ["encoder.layer.1"])
    assert is_inside_any("anything", [""])


def test_nodes_of_a_module_include_submodules(zoo_export):
    path = zoo_export("bert").output / "model.onnx"
    nodes = find_nodes(path, "bert.encoder.layer.0.attention.output")
    assert {node.module for node in nodes} == {
        f"bert.encoder.layer.0.attention.output{inner}" for inner in ("", ".dense", ".LayerNorm")
    }
    norm = next(node for node in nodes if node.op_type == "LayerNormalization")
    assert norm.class_name == "LayerNorm"
    assert norm.initializers == tuple(
        f"bert.encoder.layer.0.attention.output.LayerNorm.{name}" for name in ("weight", "bias")
    )
    assert select_nodes(path, ["bert.encoder.layer.0.attention.output"]) == [node.name for node in nodes]
    assert len(select_nodes(path, "**")) == len({node.name for node in read_graph(path).nodes})


def test_of_several_files_a_pattern_has_to_match_in_one(zoo_export):
    files = sorted(zoo_export("t5").output.glob("*.onnx"))
    found = find_nodes_of_files(files, ["encoder.block.0.**.q", "T5LayerCrossAttention"])
    assert {node.module for node in found[str(files[0].parent / "encoder_model.onnx")]} == {
        "encoder.block.0.layer.0.SelfAttention.q"
    }
    assert all(found.values())
    with pytest.raises(UnknownModuleError, match="The model has no module"):
        find_nodes_of_files(files, "encoder.block.9")


def test_file_without_tags_says_how_to_add_them(plain):
    with pytest.raises(MetadataError, match="optimum-cli htp tag"):
        select_nodes(plain("bert", task="text-classification") / "model.onnx", "**")


@pytest.mark.slow
def test_command(zoo_export):
    path = zoo_export("bert").output / "model.onnx"
    result = optimum_cli("htp", "nodes", path, "BertSelfOutput", "cls.**.dense", "--json")
    (file,) = json.loads(result.stdout)["files"]
    assert {node["class_name"] for node in file["nodes"]} == {"BertSelfOutput", "Linear", "LayerNorm"}
    failed = optimum_cli("htp", "nodes", path, "BertSelfOutputs", check=False)
    assert failed.returncode == 1
    assert "BertSelfOutput" in failed.stderr
    assert not failed.stdout
