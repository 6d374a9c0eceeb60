"""`htp inject` stamps files of other exporters with the model of their export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSequenceClassification

from optimum_htp import inject_hub_metadata, is_hub_model, strip_metadata
from optimum_htp.errors import (
    ExportError,
    InvalidOnnxFileError,
    MismatchError,
    ModelNotFoundError,
)
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from tests.conftest import optimum_cli


def test_injected_file_loads_from_the_hub_and_keeps_its_graph(plain_bert, hub, access):
    before = onnx.load(plain_bert)
    record = inject_hub_metadata(plain_bert, "tiny/bert@main", access=access)
    assert (record.hub_id, record.hub_sha) == ("tiny/bert", hub.repos["tiny/bert"].refs["main"])
    assert (record.task, record.model_class) == ("text-classification", "BertForSequenceClassification")
    assert record.preprocessors == ("AutoTokenizer",)
    assert record.original_producer.startswith("pytorch")
    assert onnx.load(plain_bert).graph == before.graph
    model = ORTModelForSequenceClassification.from_pretrained(plain_bert, cache_dir=access.cache_dir)
    assert model.config.id2label[0] == "LABEL 0"


def test_looking_up_fetches_the_headers_of_weights_at_most(plain_bert, hub, access):
    with hub.recorded() as requests:
        inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    of_weights = [request for request in requests if "safetensors" in request.path and request.method == "GET"]
    assert all((request.span or "").startswith("bytes=0-") for request in of_weights)


def test_earlier_lookup_pins_the_commit(plain_bert, hub, access):
    found, metadata = is_hub_model("tiny/bert")
    assert found
    commit = hub.repos["tiny/bert"].refs["main"]
    hub.repos["tiny/bert"].commit({"config.json": b"{}"})
    try:
        assert inject_hub_metadata(plain_bert, "tiny/bert", metadata, access=access).hub_sha == commit
    finally:
        hub.repos["tiny/bert"].refs["main"] = commit


def test_stamping_again_replaces_the_record_and_remembers_the_first_producer(plain_bert, hub, access):
    first = inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={"hf_submodule": "stale", "hf_of_another_tool": "x", "mine": "kept"})
    second = inject_hub_metadata(plain_bert, "tiny/bert", task="sequence-classification", access=access)
    assert second.original_producer == first.original_producer
    assert second.task == "text-classification"
    known = read_metadata(plain_bert)
    assert "hf_submodule" not in known
    assert (known["hf_of_another_tool"], known["mine"]) == ("x", "kept")


@pytest.mark.parametrize(
    ("model", "reason"),
    [("tiny/vit", "pixel_values"), ("tiny/five-labels", "5 labels"), ("tiny/more-words", "vocabulary of 27")],
)
def test_file_of_a_clearly_different_model_is_rejected(plain_bert, hub, published, access, model, reason):
    published("vit")
    repo = hub.repos["tiny/bert"]
    files = dict(repo.commits[repo.refs["main"]])
    config = json.loads(files["config.json"])
    labels = {**config, "id2label": {str(i): str(i) for i in range(5)}}
    hub.add("tiny/five-labels", {**files, "config.json": json.dumps(labels).encode()}, pipeline_tag=repo.pipeline_tag)
    words = {**config, "vocab_size": config["vocab_size"] + 1}
    hub.add("tiny/more-words", {**files, "config.json": json.dumps(words).encode()}, pipeline_tag=repo.pipeline_tag)
    before = plain_bert.read_bytes()
    with pytest.raises(MismatchError, match=reason):
        inject_hub_metadata(plain_bert, model, access=access)
    assert plain_bert.read_bytes() == before
    assert inject_hub_metadata(plain_bert, model, force=True, access=access).hub_id == model


def test_quantised_embedding_is_compared_too(hub, published, access, tmp_path):
    """Weights of a quantized model pass through DequantizeLinear before they are used."""
    published("bert")
    table = numpy_helper.from_array(np.zeros((30522, 32), "uint8"), "table")
    scale = numpy_helper.from_array(np.float32(0.1), "scale")
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["table", "scale"], ["float_table"]),
            helper.make_node("Gather", ["float_table", "input_ids"], ["last_hidden_state"]),
        ],
        "quantised",
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("last_hidden_state", onnx.TensorProto.FLOAT, ["batch", "sequence", 32])],
        [table, scale],
    )
    onnx.save(helper.make_model(graph), tmp_path / "q.onnx")
    with pytest.raises(MismatchError, match="30522 rows"):
        inject_hub_metadata(tmp_path / "q.onnx", "tiny/bert", access=access)


def test_task_is_inferred_from_the_graph_if_unique(plain, access, tmp_path):
    path = Path(shutil.copy(plain("bert", task="feature-extraction") / "model.onnx", tmp_path / "m.onnx"))
    record = inject_hub_metadata(path, "tiny/bert", access=access)
    assert (record.task, record.model_class) == ("feature-extraction", "BertModel")
    path = Path(shutil.copy(plain("gpt2", task="text-generation-with-past") / "model.onnx", tmp_path / "g.onnx"))
    assert inject_hub_metadata(path, "tiny/gpt2", access=access).task == "text-generation-with-past"


def test_parts_of_a_model_are_stamped_as_one(plain, tmp_path, empty_home):
    folder = Path(shutil.copytree(plain("t5", task="text2text-generation-with-past"), tmp_path / "t5"))
    done = optimum_cli("htp", "inject", folder, "--model", "tiny/t5", "--json", **empty_home)
    document = json.loads(done.stdout)
    assert document["failed"] == 0
    assert {tuple(one["record"]["onnx_files"]) for one in document["files"]} == {
        tuple(sorted(path.name for path in folder.glob("*.onnx")))
    }
    model = ORTModelForSeq2SeqLM.from_pretrained(folder / "encoder_model.onnx", cache_dir=tmp_path / "cache")
    assert Path(model.decoder.session._model_path).name == "decoder_model_merged.onnx"


def test_command_continues_after_a_failure_and_exits_with_1(plain_bert, tmp_path, empty_home):
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    done = optimum_cli(
        "htp", "inject", tmp_path / "*.onnx", tmp_path / "none.onnx", "--model", "tiny/bert", check=False, **empty_home
    )
    assert done.returncode == 1
    assert "bert.onnx: stamped as tiny/bert" in done.stdout
    assert "broken.onnx is not a valid ONNX file" in done.stderr
    assert "There is no ONNX file" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_writes_nothing(plain_bert, empty_home):
    before = plain_bert.read_bytes()
    done = optimum_cli("htp", "inject", plain_bert, "--model", "tiny/bert", "--dry-run", **empty_home)
    assert "would be stamped as tiny/bert" in done.stdout
    assert plain_bert.read_bytes() == before


def test_unknown_model_is_refused(plain_bert, access):
    with pytest.raises(ModelNotFoundError):
        inject_hub_metadata(plain_bert, "nobody/nothing", access=access)


def test_non_model_is_rejected(access, published, tmp_path):
    published("bert")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(InvalidOnnxFileError):
        inject_hub_metadata(tmp_path / "text.onnx", "tiny/bert", access=access)


def test_header_of_an_injected_file_is_for_people(plain_bert, access):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    header = read_header(plain_bert)
    assert header.producer_name == "optimum-htp"
    assert "tiny/bert" in header.doc_string


def test_values_of_other_tools_are_kept_and_restored(plain_bert, access):
    mine = {"model_author": "ACME", "model_license": "proprietary"}
    texts = {"producer_name": "ONNX Optimizer", "producer_version": "1.2", "doc_string": "Mine."}
    rewrite_model(plain_bert, metadata=mine, texts=texts)
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert {key: read_metadata(plain_bert)[key] for key in mine} == mine
    assert read_header(plain_bert).doc_string == "Mine."
    strip_metadata(plain_bert)
    assert onnx.load(plain_bert) == before


def test_invalid_task_is_rejected(plain_bert, access):
    with pytest.raises(ExportError, match="'nonsense' is not a task"):
        inject_hub_metadata(plain_bert, "tiny/bert", task="nonsense", access=access)


def test_mismatched_part_stops_stamping_of_the_others(plain, tmp_path, empty_home):
    folder = Path(shutil.copytree(plain("t5", task="text2text-generation-with-past"), tmp_path / "t5"))
    shutil.copy(plain("vit", task="image-classification") / "model.onnx", folder / "decoder_model.onnx")
    done = optimum_cli(
        "htp", "inject", folder, folder / "encoder_model.onnx", "-m", "tiny/t5", check=False, **empty_home
    )
    assert done.returncode == 1
    assert "pixel_values" in done.stderr
    assert not any("hf_hub_id" in read_metadata(path) for path in folder.glob("*.onnx"))


def test_empty_argument_is_not_the_current_folder(plain_bert, empty_home):
    done = optimum_cli("htp", "strip", "", check=False, **empty_home)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
