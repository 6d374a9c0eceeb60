"""Repos like the ONNX Model Zoo's: ONNX files of any exporter and age, without any config."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from optimum.onnxruntime import ORTModelForImageClassification

from optimum_htp import HTPExporter, OptimumONNXModel, inject_hub_metadata, tag_file
from optimum_htp.errors import ConfigFileNotFoundError, ConfigLoadError, InvalidModelReferenceError, MismatchError
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_graph
from optimum_htp.resolve.remote_file import read_remote_header
from tests.conftest import optimum_cli


def resnet() -> bytes:
    """A convolutional network as MXNet exported it: IR version 3, opset 7, weights among the inputs."""
    draw = np.random.default_rng(0).normal
    weights = {
        "resnetv17_conv0_weight": draw(size=(8, 3, 3, 3)),
        "resnetv17_dense0_weight": draw(size=(10, 8)),
        "resnetv17_dense0_bias": draw(size=10),
    }
    layers = [
        ("Conv", ["data", "resnetv17_conv0_weight"], "resnetv17_conv0_fwd", {"kernel_shape": [3, 3]}),
        ("Relu", ["resnetv17_conv0_fwd"], "resnetv17_relu0_fwd", {}),
        ("GlobalAveragePool", ["resnetv17_relu0_fwd"], "resnetv17_pool0_fwd", {}),
        ("Flatten", ["resnetv17_pool0_fwd"], "flatten_0", {}),
        (
            "Gemm",
            ["flatten_0", "resnetv17_dense0_weight", "resnetv17_dense0_bias"],
            "resnetv17_dense0_fwd",
            {"transB": 1},
        ),
    ]
    shapes = {"data": (1, 3, 224, 224), **{name: value.shape for name, value in weights.items()}}
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], name=made, **attributes) for kind, given, made, attributes in layers],
        "mxnet_converted_model",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info("resnetv17_dense0_fwd", TensorProto.FLOAT, (1, 10))],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 7)], ir_version=3)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.fixture
def zoo(hub, plain, published):
    """Two repos: a network of another framework, and a transformers model that is on the Hub."""
    published("bert")
    model = onnx.load(plain("bert", task="text-classification") / "model.onnx")
    model.ir_version, model.producer_version = 8, "1.13.1"
    name = "bert_Opset17_transformers"
    hub.add("onnxmodelzoo/resnet50-v1-7", {"README.md": b"---\nlicense: mit\n---\n", "resnet50-v1-7.onnx": resnet()})
    hub.add(f"onnxmodelzoo/{name}", {f"{name}.onnx": model.SerializeToString(), "turnkey_stats.yaml": b"a: 1\n"})
    return hub


@pytest.fixture
def bert(zoo, tmp_path):
    path = tmp_path / "bert.onnx"
    repo = zoo.repos["onnxmodelzoo/bert_Opset17_transformers"]
    path.write_bytes(repo.commits[repo.refs["main"]]["bert_Opset17_transformers.onnx"])
    return path


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "resnet50-v1-7.onnx"
    path.write_bytes(resnet())
    return path


def test_remote_file_is_shown_without_a_download(zoo):
    header = read_remote_header("hf://onnxmodelzoo/resnet50-v1-7/resnet50-v1-7.onnx")
    assert (header.ir_version, header.opsets) == (3, {"": 7})
    answer = json.loads(optimum_cli("htp", "info", "hf://onnxmodelzoo/resnet50-v1-7", "--json").stdout)["files"][0]
    assert (answer["record"], answer["header"]["ir_version"]) == (None, 3)


def test_repo_with_another_number_of_files_lists_them(zoo):
    zoo.add("onnxmodelzoo/two", {"a.onnx": resnet(), "b.onnx": resnet()})
    with pytest.raises(InvalidModelReferenceError, match=r"The repo has a\.onnx, b\.onnx"):
        read_remote_header("hf://onnxmodelzoo/two")
    with pytest.raises(InvalidModelReferenceError, match="no ONNX file"):
        read_remote_header("hf://tiny/bert")


def test_weights_among_the_inputs_are_not_inputs(network):
    assert [spec.name for spec in read_graph(network).inputs] == ["data"]


def test_file_of_a_transformers_model_is_tagged_stamped_and_loads(bert, access):
    assert tag_file(bert, model="tiny/bert").tree.classes[""] == "BertForSequenceClassification"
    inject_hub_metadata(bert, "tiny/bert", access=access)
    assert read_record(bert).task == "text-classification"
    model, tokenizer = OptimumONNXModel.from_onnx(bert, cache_dir=access.cache_dir)
    assert model(**tokenizer("the cat", return_tensors="pt")).logits.shape == (1, 3)


def test_names_that_lead_to_no_module_are_not_made_into_tags(network, published):
    published("bert")
    before = network.read_bytes()
    with pytest.raises(MismatchError, match="None of the 5 nodes has a name that contains a module; an example is"):
        tag_file(network)
    with pytest.raises(MismatchError, match="does not match tiny/bert: the model takes input_ids"):
        tag_file(network, model="tiny/bert")
    with pytest.raises(MismatchError, match="a module of tiny/bert"):
        tag_file(network, model="tiny/bert", force=True)
    assert network.read_bytes() == before


def test_model_without_an_original_on_the_hub_is_rejected(zoo, network, access, tmp_path):
    repo_id = "onnxmodelzoo/resnet50-v1-7"
    for call in (
        lambda: inject_hub_metadata(network, repo_id, access=access),
        lambda: tag_file(network, model=repo_id),
        lambda: HTPExporter().export(repo_id, tmp_path / "out"),
    ):
        with pytest.raises(ConfigFileNotFoundError, match=rf"^{repo_id} has no config\.json at .*--revision"):
            call()
    with pytest.raises(MismatchError, match="the model takes input_ids, but the graph takes data"):
        inject_hub_metadata(network, "tiny/bert", access=access)


def test_unloadable_repo_is_reported_before_the_download(zoo, tmp_path):
    for load in (ORTModelForImageClassification.from_pretrained, OptimumONNXModel.from_onnx):
        with zoo.recorded() as requests, pytest.raises(ConfigLoadError, match=r"with onnxruntime\.InferenceSession"):
            load("onnxmodelzoo/resnet50-v1-7", cache_dir=tmp_path / "cache")
        ranges = [one for one in requests if one.path.endswith("50-v1-7.onnx") and one.method == "GET"]
        assert {request.status for request in ranges} == {206}


def test_commands_that_change_files_require_a_download():
    done = optimum_cli("htp", "tag", "hf://onnxmodelzoo/resnet50-v1-7/resnet50-v1-7.onnx", check=False)
    assert done.returncode == 1
    assert "`hf download ORG/REPO FILE --local-dir .`" in done.stderr
