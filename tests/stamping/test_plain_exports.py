"""Exports for generation by transformers alone: stamped, tagged, verified, and loaded."""

import itertools
import shutil

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

from optimum_htp import (
    compare_models,
    inject_hub_metadata,
    prove_weights,
    strip_metadata,
    tag_file,
    unembed_files,
)
from optimum_htp.errors import SeveralModelsError
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.support.traced import changed

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
PROMPT = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()}


@pytest.fixture
def one_by_one(traced, tmp_path):
    """Both files of a decoder, stamped one after the other; adjacent files are removed."""
    folder = shutil.copytree(traced("gpt2").output, tmp_path / "stamped")
    assert unembed_files(folder / "decode.onnx", folder)
    files = [folder / "decode.onnx", folder / "prefill.onnx"]
    for file in files:
        strip_metadata(file)
    for file in files:
        inject_hub_metadata(file, "small/gpt2")
    for other in folder.glob("*.json"):
        other.unlink()
    return folder


def test_stages_that_were_stamped_one_by_one_are_one_model(one_by_one):
    assert {*ExportedModel.from_pretrained(one_by_one).components} == {"prefill", "decode"}


def test_a_file_of_another_model_in_the_folder_is_still_another_model(one_by_one):
    shutil.copy(one_by_one / "decode.onnx", one_by_one / "other.onnx")
    with pytest.raises(SeveralModelsError, match="contains 3 models"):
        ExportedModel.from_pretrained(one_by_one)


def test_pytorchs_placeholder_is_not_a_module(tmp_path):
    unknown = "_empty_nn_module_stack_from_metadata_hook"
    scopes = {"a": ["", "encoder", "abs"], "b": [unknown, "abs_1"], "c": ["", "encoder", "abs_2"]}
    taken, *_ = names = ["x", *scopes]
    nodes = [onnx.helper.make_node("Abs", [before], [name], name) for before, name in itertools.pairwise(names)]
    for node in nodes:
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=str(scopes[node.name]))
    value = onnx.helper.make_tensor_value_info
    inputs, outputs = (value(name, onnx.TensorProto.FLOAT, ["batch"]) for name in (taken, names[-1]))
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [inputs], [outputs]), ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    tag_file(tmp_path / "model.onnx")
    assert read_modules(tmp_path / "model.onnx")[1].modules == ("encoder",) * 3


@pytest.fixture
def t5(traced, made_once):
    """The export by transformers alone of the stages of an encoder-decoder."""
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(traced("t5").model).eval()

    def make(folder):
        exporter, config = OnnxExporter(), OnnxConfig(dynamic=True)
        exporter.export_for_generation(model, dict(PROMPT), config).save_pretrained(folder)

    return made_once("plain/t5-stages", make)


@pytest.mark.slow
def test_an_encoder_decoder_is_stamped_tagged_verified_compared_and_loaded(t5, traced, tmp_path):
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(traced("t5").model).eval()
    shutil.copytree(t5, tmp_path, dirs_exist_ok=True)
    files = [tmp_path / "decode.onnx", tmp_path / "prefill.onnx"]
    for file in files:
        record = inject_hub_metadata(file, "small/t5")
        assert (record.task, record.model_class) == ("text2text-generation-with-past", "T5ForConditionalGeneration")
        assert {*tag_file(file).modules} <= {name for name, _ in model.named_modules()}
        assert verify_metadata(file).status is Status.OK
        assert prove_weights(file).counts["foreign"] == 0
        comparison = compare_models(file, pytorch=True)  # of one new token, which is fixed in the graph
        assert comparison.compared > 10
        assert not comparison.exceeds
    for other in tmp_path.glob("*.json"):
        other.unlink()
    with torch.inference_mode():
        encoded = model.get_encoder()(**PROMPT)
        start = torch.zeros(2, 1, dtype=torch.long)
        expected = model(encoder_outputs=encoded, decoder_input_ids=start, attention_mask=PROMPT["attention_mask"])
    for place in (tmp_path, *files):
        loaded = ExportedModel.from_pretrained(place)
        assert loaded.config.model_type == "t5"
        answer = loaded.runners["prefill"](
            encoder_outputs=encoded, decoder_input_ids=start, attention_mask=PROMPT["attention_mask"]
        )
        assert torch.allclose(answer.logits, expected.logits, atol=1e-4)


@pytest.mark.slow
def test_a_row_that_the_exporter_looked_up_in_a_table_is_proven(t5, traced, tmp_path):
    source = traced("t5").model
    file = shutil.copytree(t5, tmp_path / "plain") / "prefill.onnx"
    tag_file(file)
    proof = prove_weights(file, source)
    assert proof.counts["foreign"] == 0
    [row] = [finding for finding in proof.findings if finding.how == "rows of a table"]
    assert row.tensors == ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",)
    found = prove_weights(changed(file, tmp_path / "changed.onnx", row.name, lambda array: array * 1.001), source)
    assert [finding.name for finding in found.foreign] == [row.name]
