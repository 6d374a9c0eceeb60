"""inject, strip and verify: stamping files of other exporters, taking it back, and checking the claim."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSequenceClassification

from optimum_htp import HFHubConfigLoader, inject_hub_metadata, is_hub_model, strip_metadata, verify_metadata
from optimum_htp.errors import (
    ConfigLoadError,
    ExportError,
    InvalidOnnxFileError,
    MisfitError,
    ModelNotFoundError,
    OnnxWriteError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli


@pytest.fixture(scope="session")
def plain(model_folder, published, tmp_path_factory):
    """Export with Optimum alone: files that know nothing."""
    done = {}

    def export(name, **options):
        key = (name, *sorted(options.items()))
        if key not in done:
            published(name)
            folder = tmp_path_factory.mktemp("plain") / name
            main_export(str(model_folder(name)), folder, do_validation=False, **options)
            for path in folder.iterdir():
                if path.suffix != ".onnx":
                    path.unlink()
            done[key] = folder
        return done[key]

    return export


@pytest.fixture
def bert(plain, tmp_path):
    return Path(shutil.copy(plain("bert", task="text-classification") / "model.onnx", tmp_path / "bert.onnx"))


@pytest.fixture
def access(tmp_path):
    return HubAccess(cache_dir=tmp_path / "cache")


def test_injected_file_loads_from_the_hub_and_keeps_its_graph(bert, hub, access):
    before = onnx.load(bert)
    record = inject_hub_metadata(bert, "tiny/bert@main", access=access)
    assert (record.hub_id, record.hub_sha) == ("tiny/bert", hub.repos["tiny/bert"].refs["main"])
    assert (record.task, record.model_class) == ("text-classification", "BertForSequenceClassification")
    assert record.preprocessors == ("AutoTokenizer",)
    assert record.original_producer.startswith("pytorch")
    assert onnx.load(bert).graph == before.graph
    model = ORTModelForSequenceClassification.from_pretrained(bert, cache_dir=access.cache_dir)
    assert model.config.id2label[0] == "LABEL 0"


def test_looking_up_fetches_no_weights(bert, hub, access):
    with hub.recorded() as requests:
        inject_hub_metadata(bert, "tiny/bert", access=access)
    assert not [request for request in requests if "safetensors" in request.path]


def test_what_was_found_before_pins_the_commit(bert, hub, access):
    found, metadata = is_hub_model("tiny/bert")
    assert found
    commit = hub.repos["tiny/bert"].refs["main"]
    hub.repos["tiny/bert"].commit({"config.json": b"{}"})
    try:
        assert inject_hub_metadata(bert, "tiny/bert", metadata, access=access).hub_sha == commit
    finally:
        hub.repos["tiny/bert"].refs["main"] = commit


def test_stamping_again_replaces_the_record_and_remembers_the_first_producer(bert, hub, access):
    first = inject_hub_metadata(bert, "tiny/bert", access=access)
    rewrite_model(bert, metadata={"hf_stale_key": "x", "mine": "kept"})
    second = inject_hub_metadata(bert, "tiny/bert", task="sequence-classification", access=access)
    assert second.original_producer == first.original_producer
    assert second.task == "text-classification"
    assert "hf_stale_key" not in read_metadata(bert)
    assert read_metadata(bert)["mine"] == "kept"


@pytest.mark.parametrize(
    ("model", "reason"),
    [("tiny/vit", "pixel_values"), ("tiny/five-labels", "5 labels"), ("tiny/more-words", "vocabulary of 27")],
)
def test_file_that_is_plainly_of_another_model_is_refused(bert, hub, published, access, model, reason):
    published("vit")
    repo = hub.repos["tiny/bert"]
    files = dict(repo.commits[repo.refs["main"]])
    config = json.loads(files["config.json"])
    labels = {**config, "id2label": {str(i): str(i) for i in range(5)}}
    hub.add("tiny/five-labels", {**files, "config.json": json.dumps(labels).encode()}, pipeline_tag=repo.pipeline_tag)
    words = {**config, "vocab_size": config["vocab_size"] + 1}
    hub.add("tiny/more-words", {**files, "config.json": json.dumps(words).encode()}, pipeline_tag=repo.pipeline_tag)
    before = bert.read_bytes()
    with pytest.raises(MisfitError, match=reason):
        inject_hub_metadata(bert, model, access=access)
    assert bert.read_bytes() == before
    assert inject_hub_metadata(bert, model, force=True, access=access).hub_id == model


def test_quantised_embedding_is_compared_too(hub, published, access, tmp_path):
    """Weights of a quantised model pass through DequantizeLinear before they are looked up."""
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
    with pytest.raises(MisfitError, match="30522 rows"):
        inject_hub_metadata(tmp_path / "q.onnx", "tiny/bert", access=access)


def test_task_is_told_by_the_graph_where_it_tells_it(plain, access, tmp_path):
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


def test_command_goes_on_after_a_failure_and_exits_with_1(bert, tmp_path, empty_home):
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    done = optimum_cli(
        "htp", "inject", tmp_path / "*.onnx", tmp_path / "none.onnx", "--model", "tiny/bert", check=False, **empty_home
    )
    assert done.returncode == 1
    assert "bert.onnx: stamped as tiny/bert" in done.stdout
    assert "broken.onnx is not a valid ONNX file" in done.stderr
    assert "There is no ONNX file" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_writes_nothing(bert, empty_home):
    before = bert.read_bytes()
    done = optimum_cli("htp", "inject", bert, "--model", "tiny/bert", "--dry-run", **empty_home)
    assert "would be stamped as tiny/bert" in done.stdout
    assert bert.read_bytes() == before


def test_unknown_model_is_refused(bert, access):
    with pytest.raises(ModelNotFoundError):
        inject_hub_metadata(bert, "nobody/nothing", access=access)


def test_what_is_no_model_is_refused(access, published, tmp_path):
    published("bert")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(InvalidOnnxFileError):
        inject_hub_metadata(tmp_path / "text.onnx", "tiny/bert", access=access)


def test_stripping_gives_the_file_back_as_it_was(bert, access):
    before = onnx.load(bert)
    inject_hub_metadata(bert, "tiny/bert", access=access)
    assert strip_metadata(bert) > 10
    assert onnx.load(bert) == before


def test_stripping_takes_tags_off_nodes_and_leaves_the_rest(bert):
    def tag(known):
        return {"htp.module": "bert", "htp.tag": "/Bert", "namespace": "bert", "mine": "kept"}

    rewrite_model(bert, metadata={"htp.modules": "{}", "mine": "kept"}, nodes=tag, ir_version=10)
    nodes = len(onnx.load(bert).graph.node)
    assert strip_metadata(bert) == nodes + 1
    model = onnx.load(bert)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} == {"mine"}
    assert {entry.key for entry in model.metadata_props} == {"mine"}


def test_stripping_elsewhere_takes_external_data_along(bert, access, tmp_path):
    onnx.save(onnx.load(bert), bert, save_as_external_data=True, location="bert.onnx_data", size_threshold=0)
    inject_hub_metadata(bert, "tiny/bert", access=access)
    stamped = bert.read_bytes()
    (tmp_path / "out").mkdir()
    optimum_cli("htp", "strip", bert, "--output", tmp_path / "out")
    assert bert.read_bytes() == stamped
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bert.onnx", "bert.onnx_data"]
    onnx.checker.check_model(str(tmp_path / "out" / "bert.onnx"))
    assert not any(key.startswith("hf_") for key in read_metadata(tmp_path / "out" / "bert.onnx"))


def test_every_finding_has_an_exit_code_of_its_own(bert, hub, access, tmp_path, empty_home):
    def verify():
        done = optimum_cli("htp", "verify", bert, check=False, **empty_home)
        return done.returncode, done.stdout + done.stderr

    code, text = verify()
    assert (code, "no record" in text) == (1, True)
    inject_hub_metadata(bert, "tiny/bert", access=access)
    code, text = verify()
    assert (code, "ok" in text) == (0, True)
    record = read_metadata(bert)
    rewrite_model(bert, metadata={"hf_hub_sha": "0" * 40, "hf_hub_revision": "0" * 8})
    code, text = verify()
    assert (code, "invalid" in text) == (1, True)
    hub.add("tiny/other-words", {"config.json": b'{"model_type": "bert", "vocab_size": 9, "id2label": {}}'})
    other = hub.repos["tiny/other-words"].refs["main"]
    moved = {"hf_hub_id": "tiny/other-words", "hf_hub_sha": other, "hf_hub_revision": other[:8]}
    rewrite_model(bert, metadata={**record, **moved})
    code, text = verify()
    assert (code, "does not fit" in text) == (3, True)
    hub.status = 500
    code, text = verify()
    assert (code, "unreachable" in text) == (4, True)


def test_verdict_of_a_bad_value_names_its_key(bert, access):
    inject_hub_metadata(bert, "tiny/bert", access=access)
    rewrite_model(bert, metadata={"hf_model_likes": "many"})
    verdict = verify_metadata(bert, access)
    assert verdict.status is Status.INVALID
    assert "hf_model_likes" in verdict.reason


def test_info_of_several_files_and_of_a_file_on_a_hub(exported, hub, empty_home):
    hub.add("org/shipped", {"m.onnx": (exported("bert") / "model.onnx").read_bytes()})
    done = optimum_cli("htp", "info", exported("t5"), "hf://org/shipped/m.onnx", "--json", **empty_home)
    document = json.loads(done.stdout)
    assert [one["record"]["hub_id"] for one in document["files"]] == ["tiny/t5"] * 4 + ["tiny/bert"]
    encoder = next(one for one in document["files"] if "encoder" in one["file"])
    assert [one["name"] for one in encoder["graph"]["inputs"]] == ["input_ids", "attention_mask"]
    assert encoder["graph"]["nodes"] > 10


def test_config_loader_extracts_and_loads(exported, access):
    path = exported("bert") / "model.onnx"
    loader = HFHubConfigLoader(access.cache_dir)
    metadata = loader.extract_metadata(path)
    assert (metadata["hf_hub_id"], metadata["hf_model_type"]) == ("tiny/bert", "hub")
    assert (metadata["hf_model_likes"], metadata["hf_private"]) == (56, False)
    assert loader.read_record(path).hub_id == "tiny/bert"
    config, tokenizer = loader.load_from_onnx(path)
    assert config.model_type == "bert"
    assert tokenizer("the cat")["input_ids"]
    other_config, other_tokenizer = loader.load_from_onnx(path)
    assert other_tokenizer is not tokenizer
    assert other_config is not config


def test_config_loader_refuses_a_file_that_is_of_no_hub(bert):
    with pytest.raises(ConfigLoadError, match="does not come from a Hub"):
        HFHubConfigLoader().load_from_onnx(bert)


def test_header_of_an_injected_file_is_for_people(bert, access):
    inject_hub_metadata(bert, "tiny/bert", access=access)
    header = read_header(bert)
    assert header.producer_name == "optimum-htp"
    assert "tiny/bert" in header.doc_string


def test_what_others_said_of_the_model_stays_and_comes_back(bert, access):
    mine = {"model_author": "ACME", "model_license": "proprietary"}
    rewrite_model(bert, metadata=mine, producer_name="ONNX Optimizer", producer_version="1.2", doc_string="Mine.")
    before = onnx.load(bert)
    inject_hub_metadata(bert, "tiny/bert", access=access)
    assert {key: read_metadata(bert)[key] for key in mine} == mine
    assert read_header(bert).doc_string == "Mine."
    strip_metadata(bert)
    assert onnx.load(bert) == before


def test_task_that_is_none_is_refused(bert, access):
    with pytest.raises(ExportError, match="'nonsense' is not a task"):
        inject_hub_metadata(bert, "tiny/bert", task="nonsense", access=access)


def test_part_that_does_not_fit_keeps_the_others_from_being_stamped(plain, tmp_path, empty_home):
    folder = Path(shutil.copytree(plain("t5", task="text2text-generation-with-past"), tmp_path / "t5"))
    shutil.copy(plain("vit", task="image-classification") / "model.onnx", folder / "decoder_model.onnx")
    done = optimum_cli(
        "htp", "inject", folder, folder / "encoder_model.onnx", "-m", "tiny/t5", check=False, **empty_home
    )
    assert done.returncode == 1
    assert "pixel_values" in done.stderr
    assert not any("hf_hub_id" in read_metadata(path) for path in folder.glob("*.onnx"))


def test_stripping_elsewhere_overwrites_no_other_data(bert, access, tmp_path):
    onnx.save(onnx.load(bert), bert, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(b"of another model")
    with pytest.raises(OnnxWriteError, match="is there already"):
        strip_metadata(bert, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"of another model"
    assert not (tmp_path / "out" / "m.onnx").exists()


def test_stripping_elsewhere_copies_nothing_from_outside_the_folder(bert, tmp_path):
    model = onnx.load(bert)
    tensor = model.graph.initializer.add(name="evil", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../payload")
    bert.write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        strip_metadata(bert, tmp_path / "out" / "m.onnx")


def test_empty_argument_is_not_the_current_folder(bert, empty_home):
    done = optimum_cli("htp", "strip", "", check=False, **empty_home)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
