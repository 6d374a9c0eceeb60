"""Foreign graphs are not stamped as a model; a model's own graph is stamped after any rewriting."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from onnx import TensorProto, helper, numpy_helper

from optimum_htp import HTPExporter, inject_hub_metadata, is_hub_model, verify_metadata
from optimum_htp.errors import ExportError, HubUnreachableError, InvalidModelReferenceError, MismatchError
from optimum_htp.fit.graphs import graph_mismatch
from optimum_htp.hubs import HubAccess
from optimum_htp.onnxfile import read_graph, read_metadata, rewrite_model
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli
from tests.support.zoo import ZOO

SOME = ["albert", "bart", "bert", "clip", "deberta-v2", "electra", "gpt2", "llama", "resnet", "swin", "wav2vec2"]


def save(path, nodes, inputs, outputs, initializers=()):
    model = helper.make_model(
        helper.make_graph(nodes, "graph", inputs, outputs, initializers),
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=10,
    )
    onnx.save(model, path)
    return path


def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def logistic_regression(path):
    """An export of skl2onnx: a label, and a map of probabilities."""
    classify = helper.make_node(
        "LinearClassifier",
        ["X"],
        ["label", "scores"],
        domain="ai.onnx.ml",
        coefficients=[0.1] * 12,
        intercepts=[0.0] * 3,
        classlabels_ints=[0, 1, 2],
        post_transform="SOFTMAX",
    )
    to_map = helper.make_node("ZipMap", ["scores"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    maps = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    return save(
        path, [classify, to_map], [floats("X", "N", 4)], [label, helper.make_value_info("probabilities", maps)]
    )


def logistic_regression_of_tensors(path):
    classify = helper.make_node(
        "LinearClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml", coefficients=[0.1] * 12,
        intercepts=[0.0] * 3, classlabels_ints=[0, 1, 2],
    )  # fmt: skip
    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["N"])
    return save(path, [classify], [floats("X", "N", 4)], [label, floats("probabilities", "N", 3)])


def perceptron(path, name="input", width=48):
    """A network with weights and an unknown architecture."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((width, width), "float32"), f"layers.{i}.weight") for i in range(8)
    ]
    values = [name, *(f"v{i}" for i in range(1, 8)), "logits"]
    nodes = [
        helper.make_node("MatMul", [values[i], f"layers.{i}.weight"], [values[i + 1]]) for i in range(len(weights))
    ]
    return save(path, nodes, [floats(name, "N", width)], [floats("logits", "N", width)], weights)


def renamed_input(path):
    return perceptron(path, "input_ids")


def nothing_but_the_names(path):
    """The right inputs and outputs, but no weights between them."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["N", "S"])
    cast = helper.make_node("Cast", ["input_ids"], ["last_hidden_state"], to=TensorProto.FLOAT)
    return save(path, [cast], [ids], [floats("last_hidden_state", "N", "S")])


FOREIGN = [
    logistic_regression,
    logistic_regression_of_tensors,
    perceptron,
    renamed_input,
    nothing_but_the_names,
]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_graph_is_rejected_and_detected_after_force(foreign, zoo_export, tmp_path, caplog):
    zoo_export("electra")
    path = foreign(tmp_path / "foreign.onnx")
    before = path.read_bytes()
    with pytest.raises(MismatchError, match="does not match zoo/electra"):
        inject_hub_metadata(path, "zoo/electra")
    assert path.read_bytes() == before
    inject_hub_metadata(path, "zoo/electra", force=True, task="fill-mask")
    assert verify_metadata(path).status is Status.MISMATCH
    if foreign is FOREIGN[0]:
        assert optimum_cli("htp", "verify", path, check=False).returncode == 3


@pytest.mark.parametrize("name", sorted(ZOO))
def test_export_of_a_model_fits_it(name, zoo_export):
    export = zoo_export(name)
    config = json.loads((export.model / "config.json").read_text())
    for path in sorted(export.output.rglob("*.onnx")):
        assert graph_mismatch(config, ZOO[name].task, read_graph(path)) is None


def test_exports_of_other_architectures_do_not_fit(zoo_export):
    """All of them have the same width, depth and vocabulary, unlike real models."""
    configs = {name: json.loads((zoo_export(name).model / "config.json").read_text()) for name in SOME}
    graphs = {
        f"{name}/{path.name}": read_graph(path)
        for name in SOME
        for path in sorted(zoo_export(name).output.rglob("*.onnx"))
    }
    fitting = [
        (key, name)
        for name, config in configs.items()
        for key, graph in graphs.items()
        if not key.startswith(f"{name}/") and graph_mismatch(config, ZOO[name].task, graph) is None
    ]
    assert fitting == []


def test_model_of_half_the_layers_does_not_fit(zoo_export):
    export = zoo_export("gpt2")
    config = json.loads((export.model / "config.json").read_text())
    graph = read_graph(export.output / "model.onnx")
    assert "2 layers, but the model has 4" in graph_mismatch({**config, "n_layer": 4}, ZOO["gpt2"].task, graph)
    assert "2 layers, but the model has 1" in graph_mismatch({**config, "n_layer": 1}, ZOO["gpt2"].task, graph)
    deep = json.loads((zoo_export("bert").model / "config.json").read_text()) | {"num_hidden_layers": 1}
    graph = read_graph(zoo_export("bert").output / "model.onnx")
    assert "encoder.layer.1." in graph_mismatch(deep, "fill-mask", graph)


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_renamed_inputs_are_accepted_if_the_weights_match(name, zoo_export, tmp_path):
    model = onnx.load(zoo_export(name).output / "model.onnx")
    inputs = {value.name: f"in{index}" for index, value in enumerate(model.graph.input)}
    for value in model.graph.input:
        value.name = inputs[value.name]
    for node in model.graph.node:
        node.input[:] = [inputs.get(value, value) for value in node.input]
    onnx.save(model, tmp_path / "renamed.onnx")
    config = json.loads((zoo_export(name).model / "config.json").read_text())
    assert graph_mismatch(config, ZOO[name].task, read_graph(tmp_path / "renamed.onnx")) is None


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet", "t5"])
def test_quantised_optimised_and_half_precision_files_fit(name, zoo_export, tmp_path):
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.transformers.float16 import convert_float_to_float16

    export = zoo_export(name)
    config = json.loads((export.model / "config.json").read_text())
    for path in sorted(export.output.rglob("*.onnx")):
        quantize_dynamic(path, tmp_path / "quantized.onnx")
        onnx.save(convert_float_to_float16(onnx.load(path)), tmp_path / "half.onnx")
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(path, options)
        for made in ("quantized.onnx", "half.onnx", "optimized.onnx"):
            assert graph_mismatch(config, ZOO[name].task, read_graph(tmp_path / made)) is None, (path.name, made)


@pytest.mark.parametrize("prefix", ["TF", "Flax", "No"])
def test_config_that_names_classes_of_other_frameworks(prefix, zoo_export, hub, tmp_path):
    export = zoo_export("electra")
    files = {path.name: path.read_bytes() for path in export.model.iterdir()}
    config = json.loads(files["config.json"])
    config["architectures"] = [prefix + config["architectures"][0]]
    hub.add("zoo/other-framework", {**files, "config.json": json.dumps(config).encode()}, pipeline_tag="fill-mask")
    path = Path(shutil.copy(export.output / "model.onnx", tmp_path))
    assert inject_hub_metadata(path, "zoo/other-framework", task=ZOO["electra"].task).hub_id == "zoo/other-framework"
    assert verify_metadata(path).status is Status.OK


@pytest.mark.timeout(60)
def test_config_of_a_billion_layers_is_not_built(zoo_export):
    export = zoo_export("bert")
    config = json.loads((export.model / "config.json").read_text())
    graph = read_graph(export.output / "model.onnx")
    for key in ("num_hidden_layers", "num_labels"):
        graph_mismatch({**config, key: 10**9}, "fill-mask", graph)


@pytest.fixture
def known(zoo_export):
    zoo_export("electra")
    return is_hub_model("zoo/electra")[1]


@pytest.fixture
def plain(zoo_export, tmp_path):
    """A file without a record."""
    path = Path(shutil.copy(zoo_export("electra").output / "model.onnx", tmp_path))
    rewrite_model(path, drop=lambda key: key.startswith("hf_"))
    return path


def test_earlier_lookup_is_stamped_without_the_hub(known, plain, hub, tmp_path, caplog):
    hub.status = 503
    access = HubAccess(cache_dir=tmp_path / "cache")
    with caplog.at_level(logging.WARNING, "optimum_htp"):
        record = inject_hub_metadata(plain, "zoo/electra", known, task="fill-mask", access=access)
    assert (record.hub_id, record.hub_sha, record.task) == ("zoo/electra", known["sha"], "fill-mask")
    assert record.unchecked == ("config", "preprocessors")
    assert read_metadata(plain)["hf_unchecked"] == "config,preprocessors"
    assert "Its config and its preprocessors were not looked up" in caplog.text
    hub.status = None
    assert verify_metadata(plain, access).status is Status.OK
    again = inject_hub_metadata(plain, "zoo/electra", known, task="fill-mask", access=access)
    assert again.unchecked == ()


def test_nothing_is_made_up_while_the_hub_is_away(known, plain, hub, tmp_path):
    hub.status = 503
    access = HubAccess(cache_dir=tmp_path / "cache")
    with pytest.raises(HubUnreachableError):
        inject_hub_metadata(plain, "zoo/electra", access=access)
    with pytest.raises(ExportError, match="task"):
        inject_hub_metadata(plain, "zoo/electra", {**known, "pipeline_tag": None}, access=access)
    with pytest.raises(InvalidModelReferenceError, match="hf_hub_sha"):
        inject_hub_metadata(plain, "zoo/electra", {**known, "sha": "main"}, task="fill-mask", access=access)
    with pytest.raises(MismatchError):
        inject_hub_metadata(
            logistic_regression(tmp_path / "x.onnx"), "zoo/electra", known, task="fill-mask", access=access
        )
    assert "hf_hub_id" not in read_metadata(plain)


PERCEIVER = {
    "vocab_size": 60,
    "d_model": 32,
    "d_latents": 32,
    "num_latents": 8,
    "num_blocks": 1,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "max_position_embeddings": 64,
    "qk_channels": 32,
    "v_channels": 32,
}


def test_model_of_inputs_of_any_kind_may_be_exported_for_one_kind(zoo_export, tmp_path):
    """Perceiver takes `inputs`; its exports take `input_ids` or `pixel_values`."""
    model = transformers.PerceiverForMaskedLM(transformers.PerceiverConfig(**PERCEIVER))
    model.save_pretrained(tmp_path / "model")
    (path,) = HTPExporter().export(tmp_path / "model", tmp_path / "out", task="fill-mask").files
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert graph_mismatch(config, "fill-mask", read_graph(path)) is None
    other = read_graph(zoo_export("bert").output / "model.onnx")
    assert graph_mismatch(config, "fill-mask", other) is not None
