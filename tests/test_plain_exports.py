"""What transformers' own exporters wrote without this package, for generation: stamped, tagged, and loaded alone."""

import itertools
import shutil

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import ExportedModel, OnnxConfig, OnnxExporter

from optimum_htp import HTPExporter, inject_hub_metadata, prove_weights, strip_metadata, tag_file, unembed_files
from optimum_htp.errors import SeveralModelsError
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.stamping.verify import Status, verify_metadata

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])


@pytest.fixture
def one_by_one(published, made_once, tmp_path):
    """Both files of a decoder, stamped one after the other; what was beside them is gone."""
    repo_id = published("gpt2").repo_id
    made = made_once("engine/gpt2", lambda folder: HTPExporter().export(repo_id, folder, engine="transformers"))
    folder = shutil.copytree(made, tmp_path / "stamped")
    assert unembed_files(folder / "decode.onnx", folder)
    files = [folder / "decode.onnx", folder / "prefill.onnx"]
    for file in files:
        strip_metadata(file)
    for file in files:
        inject_hub_metadata(file, repo_id)
    for other in folder.glob("*.json"):
        other.unlink()
    return folder


def test_stages_that_were_stamped_one_by_one_are_one_model(one_by_one):
    assert {*ExportedModel.from_pretrained(one_by_one).components} == {"prefill", "decode"}


def test_a_file_of_another_model_in_the_folder_is_still_another_model(one_by_one):
    shutil.copy(one_by_one / "decode.onnx", one_by_one / "other.onnx")
    with pytest.raises(SeveralModelsError, match="holds 3 models"):
        ExportedModel.from_pretrained(one_by_one)


def test_what_pytorch_writes_where_it_knows_no_module_is_no_module(tmp_path):
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


@pytest.mark.slow
def test_an_encoder_decoder_is_stamped_tagged_verified_and_loaded(published, model_folder, made_once, tmp_path):
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(model_folder("t5")).eval()
    inputs = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long()}
    exporter, config = OnnxExporter(), OnnxConfig(dynamic=True)
    exporter.export_for_generation(model, inputs, config).save_pretrained(tmp_path)
    files = [tmp_path / "decode.onnx", tmp_path / "prefill.onnx"]
    for file in files:
        record = inject_hub_metadata(file, published("t5").repo_id)
        assert (record.task, record.model_class) == ("text2text-generation-with-past", "T5ForConditionalGeneration")
        assert {*tag_file(file).modules} <= {name for name, _ in model.named_modules()}
        assert verify_metadata(file).status is Status.OK
        assert prove_weights(file).counts["foreign"] == 0
    for other in tmp_path.glob("*.json"):
        other.unlink()
    with torch.inference_mode():
        encoded = model.get_encoder()(**inputs)
        start = torch.zeros(2, 1, dtype=torch.long)
        expected = model(encoder_outputs=encoded, decoder_input_ids=start, attention_mask=inputs["attention_mask"])
    for place in (tmp_path, *files):
        loaded = ExportedModel.from_pretrained(place)
        assert loaded.config.model_type == "t5"
        answer = loaded.runners["prefill"](
            encoder_outputs=encoded, decoder_input_ids=start, attention_mask=inputs["attention_mask"]
        )
        assert torch.allclose(answer.logits, expected.logits, atol=1e-4)
