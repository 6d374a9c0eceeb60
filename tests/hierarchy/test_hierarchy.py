"""Tags of every architecture of the zoo, compared with weights: the node that uses a parameter has its owner's tag.

`tests/support/weights.py` matches parameters by value and ignores names.
"""

from __future__ import annotations

import json

import onnx
import onnxruntime
import pytest
import transformers

from optimum_htp import strip_metadata, tag_file
from optimum_htp.hierarchy.tags import COVERAGE, MODULE, MODULES, NAMESPACE, TAG
from optimum_htp.onnxfile import read_graph, read_header
from optimum_htp.profiling.inputs import sample_inputs
from tests.support.weights import nodes_of, property_of, weight_uses
from tests.support.zoo import ZOO

# Folded: the shift of a batch norm is the bias of the previous convolution, whose weight is no longer a parameter.
FOLDED = {"resnet": {"Conv"}, "segformer": {"Conv"}}


def model_of(name, files):
    return getattr(transformers, ZOO[name].model).from_pretrained(files.model)


def onnx_files(files):
    return sorted(files.output.glob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_node_that_uses_a_weight_belongs_to_its_owner(name, zoo_export):
    files = zoo_export(name)
    model = model_of(name, files)
    for path in onnx_files(files):
        uses = weight_uses(path, model)
        assert len(uses) >= (1 if name in FOLDED else 10)
        wrong = [use for use in uses if not use.exact]
        unexpected = [use for use in wrong if use.op_type not in FOLDED.get(name, ())]
        assert not unexpected
        # A folded weight is in the module next to or around the owner.
        for use in wrong:
            owner = min(use.owners)
            assert owner.rpartition(".")[0].startswith(use.module.rpartition(".")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_node_is_tagged_with_a_module_of_the_model(name, zoo_export):
    files = zoo_export(name)
    model = model_of(name, files)
    modules = {path: type(module).__name__ for path, module in model.named_modules()}
    for path in onnx_files(files):
        proto = onnx.load(path)
        assert proto.ir_version >= 10
        written = json.loads(read_header(path).metadata[MODULES])
        nodes = list(nodes_of(proto.graph))
        for node in nodes:
            module = property_of(node, MODULE)
            assert written[module] == modules[module]
            assert property_of(node, NAMESPACE) == module.replace(".", "/")
            kind = property_of(node, TAG).rpartition("/")[2]
            atom = module.rpartition(".")[2]
            assert kind == (f"{modules[module]}.{atom}" if atom.isdigit() else modules[module])
        coverage = json.loads(read_header(path).metadata[COVERAGE])
        assert sum(coverage.values()) == len(nodes)
        assert coverage.get("root", 0) == 0
        assert coverage.get("partial_name", 0) == 0


def _size_without_tags(path):
    proto = onnx.load(path)
    for node in nodes_of(proto.graph):
        del node.metadata_props[:]
    kept = [one for one in proto.metadata_props if not one.key.startswith("htp.")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    return proto.ByteSize(), proto


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "albert", "qwen3_moe", "trocr", "pix2struct", "swin"])
def test_tags_are_valid_and_change_nothing(name, zoo_export):
    for path in onnx_files(zoo_export(name)):
        onnx.checker.check_model(str(path), full_check=True)
        size, untagged = _size_without_tags(path)
        count = len(read_graph(path).nodes)
        assert (path.stat().st_size - size) / count < 350
        ours = onnxruntime.InferenceSession(str(path))
        theirs = onnxruntime.InferenceSession(untagged.SerializeToString())
        feeds = sample_inputs(path)
        for mine, reference in zip(ours.run(None, feeds), theirs.run(None, feeds), strict=True):
            assert mine.tobytes() == reference.tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_tagging_again_changes_nothing(name, zoo_export, tmp_path):
    for path in onnx_files(zoo_export(name)):
        for known in (None, path):  # from the file's names, and with its module tree
            file = tmp_path / path.name
            if known is None:
                strip_metadata(path, file)
            else:
                file.write_bytes(path.read_bytes())
            tag_file(file)
            once = file.read_bytes()
            tag_file(file)
            assert file.read_bytes() == once


def test_query_key_and_value_differ(zoo_export):
    nodes = read_graph(zoo_export("bert").output / "model.onnx").nodes
    modules = {node.metadata[MODULE] for node in nodes if node.op_type == "MatMul"}
    self_attention = "bert.encoder.layer.0.attention.self"
    assert {f"{self_attention}.{one}" for one in ("query", "key", "value")} < modules


def test_part_has_the_names_of_the_whole_model(zoo_export):
    nodes = read_graph(zoo_export("t5").output / "encoder_model.onnx").nodes
    modules = {node.metadata[MODULE] for node in nodes}
    assert "encoder.block.0.layer.0.SelfAttention.q" in modules
    assert {"shared", "encoder.embed_tokens"} & modules  # in transformers 5, the encoder has its own
    tags = {node.metadata[TAG] for node in nodes}
    assert "/T5ForConditionalGeneration/T5Stack/T5Block.0/T5LayerSelfAttention.0/T5Attention/Linear" in tags


def test_root_owns_nodes_of_its_own_forward(zoo_export):
    nodes = read_graph(zoo_export("llama").output / "model.onnx").nodes
    assert not [node for node in nodes if node.metadata[MODULE] == ""]
    nodes = read_graph(zoo_export("albert").output / "model.onnx").nodes
    at_root = [node for node in nodes if node.metadata[MODULE] == ""]
    assert at_root
    assert all(node.name.count("/") <= 1 for node in at_root)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "albert", "convnext", "gpt2", "swin"])
def test_dynamo_export_agrees(name, zoo_export, tmp_path):
    import torch

    from optimum_htp.stamping.tag import tag_file

    files = zoo_export(name)
    model = model_of(name, files).eval()
    inputs = _inputs_for_dynamo(name)
    torch.onnx.export(model, (), str(tmp_path / "dynamo.onnx"), kwargs=inputs, dynamo=True, verbose=False)
    before = [sorted(_keys(node)) for node in onnx.load(tmp_path / "dynamo.onnx").graph.node]
    assert any("stack" in key for keys in before for key in keys)
    tag_file(tmp_path / "dynamo.onnx", model=files.model)
    theirs = {use.owners: use.module for use in weight_uses(tmp_path / "dynamo.onnx", model)}
    assert len(theirs) >= 5
    ours = {use.owners: use.module for use in weight_uses(files.output / "model.onnx", model)}
    shared = theirs.keys() & ours.keys()
    assert len(shared) >= 5
    assert {owner: theirs[owner] for owner in shared} == {owner: ours[owner] for owner in shared}
    strip_metadata(tmp_path / "dynamo.onnx")  # foreign node properties are restored
    assert [sorted(_keys(node)) for node in onnx.load(tmp_path / "dynamo.onnx").graph.node] == before


def _keys(node):
    return [one.key for one in node.metadata_props]


def _inputs_for_dynamo(name):
    from tests.support.animals import inputs

    batch = inputs(ZOO[name])
    return {**batch, "use_cache": False} if name == "gpt2" else batch


def test_hierarchy_can_be_left_out(published, tmp_path):
    from optimum_htp import HTPExporter

    HTPExporter().export(published("bert").repo_id, tmp_path, hierarchy=False)
    assert MODULES not in read_header(tmp_path / "model.onnx").metadata
    assert not any(node.metadata for node in read_graph(tmp_path / "model.onnx").nodes)
