"""Hub repos that contain only ONNX files with a record load by name, like other repos."""

from __future__ import annotations

import json
import sys

import onnx
import pytest
from optimum.onnxruntime import (
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
)
from sentence_transformers import CrossEncoder
from transformers import AutoConfig, AutoTokenizer, BertConfig, pipeline

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.errors import (
    ConfigLoadError,
    InvalidModelReferenceError,
    MissingSiblingError,
    ModelNotFoundError,
    OnnxFileNotFoundError,
)
from optimum_htp.onnxfile import rewrite_model
from tests.conftest import run_python


@pytest.fixture
def bert_repo(hub, exported):
    return hub.add("shipped/bert-classifier", exported("bert")).repo_id


def test_model_loads_by_the_name_of_the_repo(hub, bert_repo, cache):
    model = ORTModelForSequenceClassification.from_pretrained(bert_repo, cache_dir=cache)
    assert model.config.id2label[0] == "LABEL 0"
    assert model.preprocessors[0]("the cat").input_ids
    with hub.recorded() as requests:
        ORTModelForSequenceClassification.from_pretrained(bert_repo, cache_dir=cache, local_files_only=True)
    assert requests == []


@pytest.mark.parametrize("task", [None, "text-classification"])
def test_pipeline_accepts_the_name_of_a_repo(bert_repo, cache, task):
    run = pipeline(task, model=bert_repo, model_kwargs={"cache_dir": cache})
    assert type(run.model) is ORTModelForSequenceClassification
    assert run("the cat")[0]["label"].startswith("LABEL")


def test_class_is_selected_for_a_repo(bert_repo, cache):
    model, tokenizer = OptimumONNXModel.from_onnx(bert_repo, cache_dir=cache)
    assert type(model) is ORTModelForSequenceClassification
    assert tokenizer("the cat").input_ids


def test_config_and_tokenizer_load_without_downloading_the_model(hub, bert_repo, cache):
    with hub.recorded() as requests:
        config = AutoConfig.from_pretrained(bert_repo, cache_dir=cache)
        tokenizer = AutoTokenizer.from_pretrained(bert_repo, cache_dir=cache)
    assert config.id2label[0] == "LABEL 0"  # not the defaults of the model type in the repo's name
    assert tokenizer.tokenize("the cat") == ["the", "cat"]
    ranges = [request for request in requests if request.path.endswith(".onnx") and request.method == "GET"]
    assert {request.status for request in ranges} == {206}


def test_model_is_downloaded_where_ranges_are_not_served(hub, bert_repo, cache, home):
    hub.serve_ranges = False
    assert AutoTokenizer.from_pretrained(bert_repo, cache_dir=cache).tokenize("the cat") == ["the", "cat"]
    with hub.recorded() as requests:
        assert AutoConfig.from_pretrained(bert_repo, cache_dir=cache).id2label[0] == "LABEL 0"
    assert not [request for request in requests if request.path.endswith(".onnx")]


def test_parts_of_a_model_come_together(hub, exported, cache):
    hub.add("shipped/translator", {f"onnx/{one.name}": one.read_bytes() for one in exported("t5").iterdir()})
    model = ORTModelForSeq2SeqLM.from_pretrained("shipped/translator", cache_dir=cache)
    assert model.generate(**model.preprocessors[0]("the cat", return_tensors="pt"), max_new_tokens=3).shape[0] == 1


def test_external_data_is_downloaded_too(hub, exported, cache, tmp_path):
    model = onnx.load(exported("bert") / "model.onnx")
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    names = ("model.onnx", "model.onnx_data")
    hub.add("shipped/split", {name: (tmp_path / name).read_bytes() for name in names})
    assert ORTModelForSequenceClassification.from_pretrained("shipped/split", cache_dir=cache).config.num_labels == 3


def test_missing_config_of_a_subfolder_is_not_replaced_by_defaults(hub, exported, cache):
    bodies = {
        "config.json": b'{"model_type": "gpt2"}',
        "onnx/model.onnx": (exported("bert") / "model.onnx").read_bytes(),
    }
    hub.add("shipped/some-bert", bodies)
    for loader in (AutoConfig, BertConfig):  # one would use the name as model type, the other its own defaults
        config = loader.from_pretrained("shipped/some-bert", subfolder="onnx", cache_dir=cache)
        assert (config.model_type, config.hidden_size, config.id2label[0]) == ("bert", 32, "LABEL 0")


def test_revision_is_that_of_the_repo(hub, exported, cache):
    repo = hub.add("shipped/moved", {"model.onnx": (exported("bert") / "model.onnx").read_bytes()})
    pinned = repo.refs["main"]
    repo.commit({"readme.md": b"nothing here any more"})
    assert ORTModelForSequenceClassification.from_pretrained("shipped/moved", revision=pinned, cache_dir=cache)


def test_file_of_several_models_has_to_be_named(hub, exported, cache):
    body = (exported("bert") / "model.onnx").read_bytes()
    hub.add("shipped/two", {"first.onnx": body, "second.onnx": body})
    with pytest.raises(ConfigLoadError, match=r"first.onnx, second.onnx.*file_name="):
        ORTModelForSequenceClassification.from_pretrained("shipped/two", cache_dir=cache)
    named = {"file_name": "second.onnx", "cache_dir": cache}
    assert ORTModelForSequenceClassification.from_pretrained("shipped/two", **named).config.num_labels == 3


def test_file_without_a_record_is_reported(hub, cache, exported):
    model = onnx.load(exported("bert") / "model.onnx")
    del model.metadata_props[:]
    hub.add("shipped/unknown", {"model.onnx": model.SerializeToString()})
    with pytest.raises(ConfigLoadError, match="has no record of its model"):
        ORTModelForSequenceClassification.from_pretrained("shipped/unknown", cache_dir=cache)


@pytest.mark.parametrize("name", ["no/such-model", "shipped/nothing-at-all"])
def test_missing_repo_raises_transformers_error(name, cache):
    ours = _error_of(lambda: AutoTokenizer.from_pretrained(name, cache_dir=cache))
    code = f"""
from transformers import AutoTokenizer
try:
    AutoTokenizer.from_pretrained({name!r}, cache_dir={str(cache)!r})
except Exception as error:
    print(type(error).__name__, error)
"""
    theirs = run_python(code, OPTIMUM_HTP_DISABLE="1").stdout
    assert f"{type(ours).__name__} {ours}".strip() == theirs.strip()


def _error_of(call):
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty Hugging Face home, in which embedded files are unpacked."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))


def test_embedded_files_of_a_repo_load_without_source_repo_and_model(hub, bert_repo, cache, home):
    hub.repos["tiny/bert"].private = True
    with hub.recorded() as requests:
        config = AutoConfig.from_pretrained(bert_repo, cache_dir=cache)
        tokenizer = AutoTokenizer.from_pretrained(bert_repo, cache_dir=cache)
    assert config.id2label[0] == "LABEL 0"
    assert tokenizer.tokenize("the cat") == ["the", "cat"]
    assert not [request for request in requests if "tiny/bert" in request.path]
    ranges = [request for request in requests if request.path.endswith(".onnx") and request.method == "GET"]
    assert {request.status for request in ranges} == {206}
    sent = []
    hub.tamper = lambda method, url, status, body, headers: sent.append(len(body)) or (status, body, headers)
    assert AutoTokenizer.from_pretrained(bert_repo, cache_dir=cache).is_fast
    assert max(sent) <= 64 * 1024  # the embedded files are unpacked already


def test_configs_of_a_local_model_load_from_a_repo_of_its_file(hub, model_folder, cache, home, tmp_path):
    HTPExporter().export(model_folder("t5"), tmp_path / "out", do_validation=False)
    for name in ("config.json", "generation_config.json"):
        (tmp_path / "out" / name).unlink()
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.onnx")}
    hub.add("shipped/local", {name: files[name] for name in sorted(files)[::-1]})
    assert AutoConfig.from_pretrained("shipped/local", cache_dir=cache).model_type == "t5"
    assert AutoTokenizer.from_pretrained("shipped/local", cache_dir=cache)("a cat").input_ids


def test_file_of_a_repo_is_named_by_its_url(hub, exported, cache, home):
    body = (exported("bert") / "model.onnx").read_bytes()
    repo = hub.add("shipped/many", {"config.json": b'{"model_type": "gpt2"}', "a/one.onnx": body, "two.onnx": b"x"})
    pinned = repo.refs["main"]
    repo.commit({"readme.md": b"nothing here any more"})
    url, options = f"hf://shipped/many@{pinned}/a/one.onnx", {"cache_dir": cache}
    assert AutoConfig.from_pretrained(url, **options).id2label[0] == "LABEL 0"
    assert AutoTokenizer.from_pretrained(url, **options).tokenize("the cat") == ["the", "cat"]
    assert not [*cache.rglob("*.onnx")]
    model = ORTModelForSequenceClassification.from_pretrained(url, **options)
    assert model.preprocessors[0]("the cat").input_ids
    assert type(OptimumONNXModel.from_pretrained(url, **options)) is type(model)
    (answer,) = pipeline(model=url, model_kwargs=options)("the cat")
    assert answer["label"].startswith("LABEL")
    cached = {"cache_folder": str(cache), "backend": "onnx"}
    assert CrossEncoder(url, **cached).predict([("the cat", "a dog")]).shape == (1, 3)
    assert CrossEncoder("hf://shipped/many/a/one.onnx", revision=pinned, **cached).config.num_labels == 3
    with pytest.raises(OnnxFileNotFoundError, match=r"a/one\.onnx in shipped/many"):
        AutoConfig.from_pretrained("hf://shipped/many/a/one.onnx", **options)
    with pytest.raises(ModelNotFoundError, match="shipped/none"):
        ORTModelForSequenceClassification.from_pretrained("hf://shipped/none/model.onnx", **options)


@pytest.mark.parametrize("kind", ["resolve", "blob"])
def test_file_of_a_repo_is_named_by_its_address(hub, bert_repo, cache, kind):
    url, options = f"{hub.url}/{bert_repo}/{kind}/main/model.onnx", {"cache_dir": cache}
    for loader in (AutoConfig, BertConfig):
        assert loader.from_pretrained(url, **options).id2label[0] == "LABEL 0"
    assert AutoTokenizer.from_pretrained(url, **options).tokenize("the cat") == ["the", "cat"]
    model = ORTModelForSequenceClassification.from_pretrained(url, **options)
    assert model.preprocessors[0]("the cat").input_ids
    (answer,) = pipeline(model=url, model_kwargs=options)("the cat")
    assert answer["label"].startswith("LABEL")
    cached = {"cache_folder": str(cache), "backend": "onnx"}
    assert CrossEncoder(url, **cached).predict([("the cat", "a dog")]).shape == (1, 3)
    with pytest.raises(OnnxFileNotFoundError, match=r"There is no file none.onnx in shipped/bert-classifier"):
        AutoConfig.from_pretrained(f"{hub.url}/{bert_repo}/{kind}/main/none.onnx", **options)


@pytest.mark.parametrize("loader", [AutoConfig, AutoTokenizer, BertConfig, ORTModelForSequenceClassification])
def test_address_outside_the_hub_is_rejected(hub, loader):
    with (
        hub.recorded() as requests,
        pytest.raises(InvalidModelReferenceError, match=r"is not a Hub file.*Download"),
    ):
        loader.from_pretrained("https://example.com/models/bert/resolve/main/model.onnx")
    assert requests == []


def test_part_at_a_wrong_path_is_reported(hub, exported, cache, tmp_path):
    part = tmp_path / "model.onnx"
    part.write_bytes((exported("bert") / "model.onnx").read_bytes())
    names = json.dumps(["onnx/model.onnx", "onnx/other.onnx"])
    rewrite_model(part, metadata={"hf_onnx_file": "onnx/model.onnx", "hf_onnx_files": names, "hf_export_id": "0" * 32})
    hub.add("shipped/moved", {"model.onnx": part.read_bytes()})
    with pytest.raises(MissingSiblingError, match=r"model.onnx of shipped/moved is recorded as onnx/model.onnx"):
        OptimumONNXModel.from_pretrained("shipped/moved", cache_dir=cache)


AGAIN = """
from optimum.onnxruntime import ORTModelForFeatureExtraction
from sentence_transformers import SentenceTransformer
for name, revision in {revisions!r}.items():
    model = ORTModelForFeatureExtraction.from_pretrained(name, revision=revision)
    assert model.preprocessors[0]("the cat").input_ids
    made = SentenceTransformer(name, backend="onnx", revision=revision)
    print(made.encode("the cat")[:4].round(4).tolist())
"""
OTHER = """
from optimum.onnxruntime import ORTModelForSequenceClassification
ORTModelForSequenceClassification.from_pretrained("shipped/plain", revision={revision!r})
"""


@pytest.mark.slow
@pytest.mark.stack
def test_repos_in_the_cache_load_without_a_connection(hub, exported, plain_bert, model_folder, tmp_path):
    """Optimum and sentence_transformers request the list of a repo's files, also for cached repos."""
    hub.add("shipped/alone", {"onnx/model.onnx": (exported("minilm") / "model.onnx").read_bytes()})
    ORTModelForFeatureExtraction.from_pretrained(exported("minilm")).save_pretrained(tmp_path / "saved")
    hub.add("shipped/saved", tmp_path / "saved")
    config = (model_folder("bert") / "config.json").read_bytes()
    hub.add("shipped/plain", {"model.onnx": plain_bert.read_bytes(), "config.json": config})
    revisions = {name: hub.repos[name].refs["main"] for name in ("shipped/alone", "shipped/saved")}
    again, other = AGAIN.format(revisions=revisions), OTHER.format(revision=hub.repos["shipped/plain"].refs["main"])
    cached, offline = {"HF_HOME": str(tmp_path / "home"), "python": sys.executable}, {"HF_HUB_OFFLINE": "1"}
    online = run_python(again, **cached).stdout
    run_python(other, **cached)
    with hub.recorded() as requests:
        assert run_python(again, **cached, **offline).stdout == online
        done = run_python(other, **cached, **offline, check=False)
    assert "OfflineModeIsEnabled: " in done.stderr  # other repos raise the library's error
    assert requests == []
    assert len(online.splitlines()) == 2
