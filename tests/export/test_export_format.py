"""transformers' AutoHfExporter writes files of this package: the format `htp`."""

import shutil
from pathlib import Path

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import AutoExportConfig, AutoHfExporter, ExportedModel

import optimum_htp
from optimum_htp import compare_models
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_signature
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.support.traced import names_in, says_nothing_of_this_machine

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
INPUTS = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long(), "token_type_ids": torch.zeros_like(TOKENS)}


def test_auto_hf_exporter_writes_a_stamped_file_in_the_format_htp(traced, tmp_path):
    traced("bert")
    model = transformers.AutoModelForSequenceClassification.from_pretrained("small/bert").eval()
    config = AutoExportConfig.from_dict({"export_format": "htp", "dynamic": True})
    exported = AutoHfExporter.from_config(config).export(model, INPUTS, config)
    exported.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "export.json", "model.onnx"]
    file = tmp_path / "model.onnx"
    assert says_nothing_of_this_machine(file)
    assert verify_metadata(file).status is Status.OK
    assert read_record(file).hub_id == "small/bert"
    assert "bert.encoder.layer.0.attention.self.query" in read_modules(file)[1].modules
    with torch.inference_mode():
        expected = model(**INPUTS).logits
    assert torch.allclose(ExportedModel.from_pretrained(tmp_path)(**INPUTS).logits, expected, atol=1e-5)
    alone = Path(shutil.copy(file, tmp_path / "alone.onnx"))
    assert torch.allclose(ExportedModel.from_pretrained(alone)(**INPUTS).logits, expected, atol=1e-5)
    again = ExportedModel.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert read_record(tmp_path / "again" / "model.onnx") == read_record(file)


@pytest.fixture
def stages(traced, made_once):
    """The output of `AutoHfExporter` for a decoder on the Hub, and the model's results before and after it."""
    traced("gpt2")
    model = transformers.AutoModelForCausalLM.from_pretrained("small/gpt2").eval()
    config = AutoExportConfig.from_dict({"export_format": "htp", "dynamic": True})
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), "attention_mask": torch.ones(2, 4).long()}

    def make(folder):
        exported = AutoHfExporter.from_config(config).export_for_generation(model, inputs, config)
        exported.save_pretrained(folder)
        assert exported.runners["prefill"](**inputs, position_ids=torch.arange(4).expand(2, -1)).logits.shape[0] == 2
        exported.save_pretrained(folder.with_name("twice"))

    return made_once("traced/stages", make)


def offsets_in(path):
    """Return the place in the data file of each external weight of a graph."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {one.name: {e.key: e.value for e in one.external_data}["offset"] for one in tensors if one.external_data}


def test_the_stages_of_a_decoder_in_the_format_htp_are_one_model_with_one_data_file(stages, traced, hub):
    files = ["config.json", "decode.onnx", "export.json", "model.onnx.data", "prefill.onnx"]
    assert [name for name in names_in(stages) if name != "generation_config.json"] == files
    ours = traced("gpt2").output
    assert (stages / "model.onnx.data").stat().st_size <= (ours / "model.onnx.data").stat().st_size
    decode, prefill = offsets_in(stages / "decode.onnx"), offsets_in(stages / "prefill.onnx")
    shared = [name for name in decode if name.startswith("transformer.")]
    assert shared
    assert all(decode[name] == prefill[name] for name in shared)
    first, second = (read_record(stages / f"{name}.onnx") for name in ("decode", "prefill"))
    assert first.onnx_files == ("decode.onnx", "prefill.onnx")
    assert first.belongs_with(second)
    assert (first.hub_id, first.task) == ("small/gpt2", "text-generation-with-past")
    for name in ("decode", "prefill"):
        assert verify_metadata(stages / f"{name}.onnx").status is Status.OK
        assert "transformer.h.0.attn" in read_modules(stages / f"{name}.onnx")[1].modules
        assert says_nothing_of_this_machine(stages / f"{name}.onnx")


def test_stages_without_a_mask_are_compared_without_one(stages):
    for name in ("prefill", "decode"):
        assert "attention_mask" not in {spec.name for spec in read_signature(stages / f"{name}.onnx")[0]}
        comparison = compare_models(stages / f"{name}.onnx", pytorch=True)
        assert comparison.compared > 5
        assert not comparison.exceeds


def test_stages_in_the_format_htp_load_from_a_folder_a_file_and_a_repo(stages, traced, hub, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(traced("gpt2").model).eval()
    inputs = {"input_ids": torch.tensor([[7, 8, 9]]), "attention_mask": torch.ones(1, 3).long()}
    with torch.inference_mode():
        expected = model(**inputs).logits[:, -1]
    hub.add("me/stages", stages)
    again = ExportedModel.from_pretrained(stages)
    again.save_pretrained(tmp_path / "again")
    for name in (stages, stages.with_name("twice"), stages / "prefill.onnx", "me/stages", tmp_path / "again"):
        loaded = ExportedModel.from_pretrained(name)
        assert {*loaded.components} == {"prefill", "decode"}
        answer = loaded.runners["prefill"](**inputs, position_ids=torch.arange(3)[None]).logits[:, -1]
        assert torch.allclose(answer, expected, atol=1e-5)
    assert names_in(tmp_path / "again") == names_in(stages)


def test_deactivate_removes_the_export_format():
    optimum_htp.deactivate()
    try:
        with pytest.raises(ValueError, match="Unknown export format"):
            AutoHfExporter.from_config({"export_format": "htp"})
    finally:
        optimum_htp.activate()
    assert AutoHfExporter.from_config({"export_format": "htp"}).export_format == "htp"
