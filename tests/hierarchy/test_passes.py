"""Tags after passes that rewrite the graph: the number of tagged nodes, and of exact tags.

The table: for each pass the share of tagged nodes, and the share of uses of remaining weights with exact tags. A fused
node has the common module of the replaced nodes, so its tag is exact if the owners are in that module.
"""

from __future__ import annotations

import shutil

import onnx
import onnxruntime
import pytest
import transformers

from optimum_htp import HTPExporter, strip_metadata
from optimum_htp.hierarchy.tags import MODULE, TAG
from optimum_htp.profiling.inputs import sample_inputs
from optimum_htp.report.document import report_document
from optimum_htp.stamping.tag import Tagger, tag_file
from tests.conftest import optimum_cli
from tests.support.weights import nodes_of, property_of, weight_uses
from tests.support.zoo import ZOO

MODELS = ["bert", "gpt2", "albert", "swin"]


def _ort(level):
    def optimize(source, target):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    return optimize


def _dynamic(source, target):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)  # ONNX Runtime 1.20 has no ConvInteger for int8


def _static(source, target):
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        left = 2

        def get_next(self):
            self.left -= 1
            return sample_inputs(source) if self.left >= 0 else None

    quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ)


def _slim(source, target):
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), target)


def _simplified(source, target):
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(source))[0], target)


def _half(source, target):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _converted(source, target):
    onnx.save(onnx.version_converter.convert_version(onnx.load(source), 20), target)


def _external(source, target):
    onnx.save(onnx.load(source), target, save_as_external_data=True, location="weights.bin", size_threshold=0)


PASSES = {
    "ort-basic": _ort(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
    "ort-extended": _ort(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
    "ort-all": _ort(onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL),
    "dynamic": _dynamic,
    "static-qdq": _static,
    "onnxslim": _slim,
    "onnxsim": _simplified,
    "fp16": _half,
    "version": _converted,
    "external": _external,
}


def shares(path, model):
    """Return the share of nodes with a tag below the root, and of exact uses of weights, with their number."""
    nodes = list(nodes_of(onnx.load(path, load_external_data=False).graph))
    tagged = [node for node in nodes if property_of(node, MODULE) is not None and property_of(node, TAG)]
    uses = weight_uses(path, model)
    good = [use for use in uses if use.exact or _holds(use)]
    return len(tagged) / len(nodes), len(good) / len(uses) if uses else 1.0, len(uses)


def _holds(use):
    """Whether a fused node's module contains the owner of its weight, and is not larger than the fused modules."""
    fused = use.op_type.startswith(("Skip", "Fused", "Bias", "Attention", "Multi", "Gemm", "QAttention", "FastGelu"))
    return fused and any(owner.startswith(f"{use.module}.") for owner in use.owners)


def _is_valid(path):
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError:
        return False
    return True


@pytest.fixture(scope="module")
def passed(zoo_export, tmp_path_factory):
    """Run a pass on a model's export once; return the file that it wrote."""
    done = {}

    def run(name, kind):
        if (name, kind) not in done:
            target = tmp_path_factory.mktemp("passes") / f"{name}.onnx"
            PASSES[kind](zoo_export(name).output / "model.onnx", target)
            done[name, kind] = target
        return done[name, kind]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", PASSES)
def test_tags_are_transferred_from_the_original(name, kind, passed, zoo_export, tmp_path):
    files = zoo_export(name)
    model = getattr(transformers, ZOO[name].model).from_pretrained(files.model)
    if kind == "fp16":
        model = model.half()
    made = passed(name, kind)
    was_valid = _is_valid(made)  # some tools do not sort nodes
    tag_file(made, original=files.output / "model.onnx")
    tagged, exact, uses = shares(made, model)
    assert tagged >= 0.98
    assert exact >= 0.98
    if kind not in ("static-qdq", "dynamic"):
        assert uses >= 10
    coverage = Tagger(files.output / "model.onnx").assignment(made).coverage
    assert coverage.get("root", 0) <= 0.02 * sum(coverage.values())
    assert _is_valid(made) == was_valid
    onnxruntime.InferenceSession(str(made))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["names", "model"])
@pytest.mark.parametrize("kind", ["ort-basic", "dynamic", "onnxslim", "version"])
def test_tags_are_found_without_the_original(kind, how, passed, zoo_export, tmp_path):
    files = zoo_export("bert")
    made = tmp_path / "made.onnx"
    shutil.copy(passed("bert", kind), made)
    proto = onnx.load(made)
    for node in nodes_of(proto.graph):
        del node.metadata_props[:]
    del proto.metadata_props[:]
    onnx.save(proto, made)
    assignment = tag_file(made, model=files.model if how == "model" else None)
    tagged, exact, _ = shares(made, getattr(transformers, ZOO["bert"].model).from_pretrained(files.model))
    assert tagged >= 0.98
    assert exact >= 0.98
    assert any(assignment.tree.classes.values()) == (how == "model")
    depths = {one["depth"] for one in report_document([made])["files"][0]["modules"]}
    assert max(depths) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"optimize": "O1"}, {"optimize": "O2"}, {"optimize": "O3"}, {"slim": True}])
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_export_keeps_tags_through_optimums_passes(name, options, zoo_export, tmp_path):
    files = zoo_export(name)
    if name == "t5" and options == {"slim": True}:
        pytest.skip("onnxslim itself fails on T5's decoders")
    HTPExporter().export(files.model, tmp_path / "out", task=ZOO[name].task, **options)
    model = getattr(transformers, ZOO[name].model).from_pretrained(files.model)
    for path in sorted((tmp_path / "out").glob("*.onnx")):
        tagged, exact, uses = shares(path, model)
        assert tagged >= 0.98
        assert exact >= 0.98
        assert uses >= 8


def test_fused_node_belongs_to_the_common_module_of_the_replaced_nodes(passed, zoo_export, tmp_path):
    files = zoo_export("bert")
    made = passed("bert", "ort-all")
    tag_file(made, original=files.output / "model.onnx")
    gelus = {property_of(node, MODULE) for node in onnx.load(made).graph.node if node.op_type == "BiasGelu"}
    layers = {f"bert.encoder.layer.{one}.intermediate" for one in (0, 1)}  # the dense layer's Add, and the activation
    assert gelus == {*layers, "cls.predictions.transform"}
    HTPExporter().export(files.model, tmp_path / "out", task="fill-mask", optimize="O2")
    nodes = onnx.load(tmp_path / "out" / "model.onnx").graph.node
    modules = {property_of(node, MODULE) for node in nodes if node.op_type == "SkipLayerNormalization"}
    assert {"bert.encoder.layer.0.attention.output", "bert.encoder.layer.1.output"} < modules


@pytest.mark.slow
def test_optimums_optimizer_and_quantizer_keep_tags(zoo_export, tmp_path):
    source = zoo_export("bert").output
    optimum_cli("onnxruntime", "quantize", "--onnx_model", source, "--avx2", "-o", tmp_path / "out")
    nodes = list(nodes_of(onnx.load(tmp_path / "out" / "model_quantized.onnx").graph))
    assert all(property_of(node, TAG) for node in nodes)


@pytest.mark.slow
def test_command_tags_a_file_that_was_exported_by_something_else(published, tmp_path, empty_home):
    import torch
    from transformers import AutoModelForSequenceClassification

    architecture = published("bert")
    model = AutoModelForSequenceClassification.from_pretrained(architecture.repo_id).eval()
    batch = (torch.ones(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.long))
    torch.onnx.export(model, batch, tmp_path / "theirs.onnx", dynamo=False)
    done = optimum_cli("htp", "tag", tmp_path / "theirs.onnx", "--model", architecture.repo_id, **empty_home)
    assert "nodes of" in done.stdout
    assert f"Building {architecture.repo_id} in PyTorch" in done.stderr
    tagged, exact, uses = shares(tmp_path / "theirs.onnx", model)
    assert (tagged, exact) == (1.0, 1.0)
    assert uses >= 30


@pytest.mark.slow
@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(("name", "part"), [("squeezebert", ""), ("t5", "encoder"), ("bart", "model.encoder")])
def test_plain_export_is_tagged_by_its_model(name, part, dynamo, zoo_export, tmp_path):
    """Also for a part that was exported alone, and for a model that does not call forward of its modules."""
    import torch

    files = zoo_export(name)
    model = getattr(transformers, ZOO[name].model).from_pretrained(files.model).eval()
    path = tmp_path / "plain.onnx"
    torch.onnx.export(model.get_submodule(part), (torch.ones(1, 5, dtype=torch.long),), str(path), dynamo=dynamo)
    tag_file(path, model=files.model)
    uses = weight_uses(path, model)
    assert len(uses) >= 10
    assert not [use for use in uses if not use.exact]


@pytest.mark.slow
def test_table_used_by_another_module_is_recognized_by_shape(zoo_export, tmp_path):
    files = zoo_export("whisper")
    path = tmp_path / "plain.onnx"
    shutil.copy(files.output / "encoder_model.onnx", path)
    strip_metadata(path)
    assignment = tag_file(path, model=files.model)
    uses = weight_uses(path, getattr(transformers, ZOO["whisper"].model).from_pretrained(files.model))
    assert "model.encoder.embed_positions" in assignment.modules  # it is never called; its weight is added directly
    assert not [use for use in uses if not use.exact]
