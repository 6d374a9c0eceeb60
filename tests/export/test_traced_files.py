"""Files that our engine writes with transformers' own exporters have all features of other files."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import transformers
from transformers.exporters import ExportedModel

from optimum_htp import HTPExporter, compare_models, embed_files, prove_weights, unembed_files
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import external_files, read_signature
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.support.sizes import fixed
from tests.support.traced import changed, names_in, says_nothing_of_this_machine


def test_a_model_of_one_graph_is_one_complete_file(traced_bert):
    assert names_in(traced_bert) == ["model.onnx"]
    assert external_files(traced_bert / "model.onnx") == ()
    record = read_record(traced_bert / "model.onnx")
    assert (record.hub_id, record.task, record.model_class) == (
        "small/bert",
        "text-classification",
        "BertForSequenceClassification",
    )
    embedded = embedded_in(traced_bert / "model.onnx", record)
    assert {"config.json", "export.json", "tokenizer.json"} <= {*embedded.names}
    manifest = json.loads(embedded.read(["export.json"])["export.json"])
    assert manifest["components"]["model"]["file"] == "model.onnx"
    assert says_nothing_of_this_machine(traced_bert / "model.onnx")
    onnx.checker.check_model(str(traced_bert / "model.onnx"))


def test_its_nodes_have_tags(traced_bert, traced):
    graph, assignment = read_modules(traced_bert / "model.onnx")
    rules = assignment.coverage
    model = transformers.AutoModelForSequenceClassification.from_pretrained(traced("bert").model)
    assert {*assignment.modules} <= {name for name, _ in model.named_modules()}
    assert "bert.encoder.layer.0.attention.self.query" in assignment.modules
    assert rules == {"name": len(graph.nodes)}


def test_its_record_matches_the_hub(traced_bert):
    verdict = verify_metadata(traced_bert / "model.onnx")
    assert verdict.status is Status.OK, verdict.reason
    assert "embedded files are identical to the commit's" in verdict.reason


def test_prefill_and_decode_share_one_data_file(traced_gpt2):
    assert names_in(traced_gpt2) == ["decode.onnx", "model.onnx.data", "prefill.onnx"]
    assert (
        external_files(traced_gpt2 / "decode.onnx")
        == external_files(traced_gpt2 / "prefill.onnx")
        == ("model.onnx.data",)
    )
    places = {}
    for name in ("decode", "prefill"):
        model = onnx.load(traced_gpt2 / f"{name}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.external_data and tensor.name.startswith("transformer."):
                places.setdefault(tensor.name, set()).add({e.key: e.value for e in tensor.external_data}["offset"])
    assert places
    assert all(len(found) == 1 for found in places.values())
    assert says_nothing_of_this_machine(traced_gpt2 / "decode.onnx")
    records = [read_record(traced_gpt2 / f"{name}.onnx") for name in ("decode", "prefill")]
    assert records[0].onnx_files == ("decode.onnx", "prefill.onnx")
    assert records[0].belongs_with(records[1])
    assert records[0].task == "text-generation-with-past"


def test_weights_whose_names_transformers_5_changed_have_to_be_in_their_place(model_folder, made_once, tmp_path):
    source = model_folder("vit")
    folder = made_once("traced/vit", lambda folder: HTPExporter().export(source, folder, engine="transformers"))
    proof = prove_weights(folder / "model.onnx", source)
    assert proof.counts["foreign"] == 0
    assert not any(finding.by_value for finding in proof.findings if finding.module and ".layers." in finding.module)
    model = onnx.load(folder / "model.onnx")
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    name, other = (f"vit.layers.{layer}.layernorm_before.weight" for layer in (0, 1))
    swapped = changed(folder / "model.onnx", tmp_path / "swapped.onnx", name, lambda _: values[other])
    assert [finding.name for finding in prove_weights(swapped, source).foreign] == [name]


def test_open_sizes_have_names(traced_bert, traced_gpt2):
    shapes = {spec.name: spec.shape for spec in read_signature(traced_bert / "model.onnx")[0]}
    assert shapes["input_ids"] == shapes["token_type_ids"] == ("batch_size", "sequence_length")
    shapes = {spec.name: spec.shape for spec in read_signature(traced_gpt2 / "decode.onnx")[0]}
    assert shapes["input_ids"] == ("batch_size", 1)
    assert shapes["input.cache.layers.0.keys"] == ("batch_size", 4, "past_sequence_length", 8)
    assert shapes["attention_mask"] == ("batch_size", "past_sequence_length + 1")


def test_the_masks_of_a_decoder_are_inputs(traced_gpt2):
    for name in ("prefill", "decode"):
        assert "attention_mask" in {spec.name for spec in read_signature(traced_gpt2 / f"{name}.onnx")[0]}


def test_decoders_are_compared_with_pytorch_stage_by_stage(traced_gpt2):
    for name in ("prefill", "decode"):
        comparison = compare_models(traced_gpt2 / f"{name}.onnx", pytorch=True)
        assert comparison.compared > 5
        assert not comparison.exceeds


@pytest.mark.parametrize(
    ("stage", "sizes"),
    [
        ("prefill", {"batch_size": 1, "sequence_length": 5}),
        ("decode", {"past_sequence_length": 5, "past_sequence_length + 1": 6}),
        ("decode", {"batch_size": 1}),
    ],
)
def test_stages_of_fixed_sizes_are_compared_with_pytorch(stage, sizes, traced_gpt2, tmp_path):
    shutil.copytree(traced_gpt2, tmp_path, dirs_exist_ok=True)
    file = fixed(traced_gpt2 / f"{stage}.onnx", tmp_path / f"{stage}.onnx", **sizes)
    comparison = compare_models(file, pytorch=True)
    assert comparison.compared > 5
    assert not comparison.exceeds


def test_the_command_line_accepts_and_reports_the_engine(traced_bert, tmp_path):
    document = json.loads(traced_bert.with_name("bert.json").read_text())
    assert (document["engine"], document["task"]) == ("transformers", "text-classification")
    with pytest.raises(TypeError, match="no option 'pad_token_id'"):
        HTPExporter().export("small/bert", tmp_path / "out", engine="transformers", pad_token_id=1)


def test_reembedded_file_loads(traced_bert, traced, tmp_path):
    file = Path(shutil.copy(traced_bert / "model.onnx", tmp_path))
    assert "export.json" in {embedded.name for embedded in embed_files(file)}
    assert "export.json" in {embedded.name for embedded in embed_files(file, traced("bert").model)}
    assert verify_metadata(file).status is Status.OK
    assert unembed_files(file, tmp_path)
    assert {*ExportedModel.from_pretrained(file).components} == {"model"}
    assert "export.json" in {embedded.name for embedded in embed_files(file)}
