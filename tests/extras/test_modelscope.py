"""ModelScope as the first Hub: its SDK and a server of its API, without requests to other Hubs."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import pytest
from transformers import AutoConfig, AutoTokenizer

from optimum_htp import HTPExporter, OptimumONNXModel, inject_hub_metadata, is_hub_model, verify_metadata
from optimum_htp.errors import (
    ChangedCacheError,
    DamagedDownloadError,
    HubUnreachableError,
    InvalidModelReferenceError,
    MissingDependencyError,
    ModelNotFoundError,
    OfflineError,
    RevisionNotFoundError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.onnxfile import read_metadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import HubSource, LocalSource, locate
from optimum_htp.plugins import hub as hub_of
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli, run_python
from tests.support.modelscope import LoopbackModelScope

FILES = {"config.json": b'{"model_type": "bert"}', "sub/notes.txt": b"notes", "README.md": b"# A model"}


@pytest.fixture(scope="module")
def server():
    with LoopbackModelScope().serving() as server:
        yield server


@pytest.fixture
def scope(server, monkeypatch, tmp_path):
    """The server, with an empty cache and no login."""
    variables = {
        "MODELSCOPE_ENDPOINT": server.url,
        "MODELSCOPE_CACHE": str(tmp_path / "modelscope"),
        "MODELSCOPE_HOME": str(tmp_path / "modelscope-home"),
        "MODELSCOPE_API_MAX_RETRIES": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield server
    server.status = None
    server.damaged.clear()


@pytest.fixture
def repo(scope):
    repo = scope.add("acme/small", FILES, pipeline_tag="text-classification")
    repo.refs["v1"] = repo.refs["master"]
    repo.commit({**FILES, "config.json": b"{}"}, "master")
    return repo


@pytest.fixture(scope="module")
def bert(server, model_folder):
    return server.add("acme/bert", model_folder("bert"), pipeline_tag="text-classification")


@pytest.fixture
def exported_bert(scope, bert, made_once, hub):
    """An export of the model on ModelScope."""

    def make(folder):
        with hub.recorded() as requests:
            HTPExporter().export("ms://acme/bert", folder, do_validation=False)
        assert requests == []

    return made_once("modelscope/bert", make)


def test_revision_becomes_a_commit(repo):
    assert locate("ms://acme/small", None, HubAccess()).commit == repo.refs["master"]
    source = locate("modelscope://acme/small@v1", None, HubAccess())
    assert isinstance(source, HubSource)
    assert (source.provider, source.repo_id, source.commit) == ("modelscope", "acme/small", repo.refs["v1"])
    assert source.info is not None
    assert source.info.files == tuple(sorted(FILES))
    assert (source.info.pipeline_tag, source.info.license) == ("text-classification", "apache-2.0")
    assert locate("ms://acme/small", repo.refs["v1"], HubAccess()).commit == repo.refs["v1"]


def test_files_are_those_of_the_commit_and_fetched_once(repo, scope):
    modelscope, commit = hub_of("modelscope"), repo.refs["v1"]
    folder = modelscope.snapshot("acme/small", commit, ["config.json", "sub/notes.txt", "none.json"], HubAccess())
    assert (folder / "config.json").read_bytes() == FILES["config.json"]
    assert (folder / "sub" / "notes.txt").read_bytes() == b"notes"
    assert not (folder / "none.json").exists()
    before = len(scope.requests)
    offline = HubAccess(local_files_only=True)
    assert modelscope.snapshot("acme/small", commit, ["config.json", "none.json"], offline) == folder
    assert len(scope.requests) == before
    with pytest.raises(OfflineError, match="acme/small"):
        modelscope.snapshot("acme/small", commit, ["README.md"], offline)


def test_files_of_any_commit_that_an_older_sdk_kept_are_not_believed(repo, tmp_path):
    old = tmp_path / "modelscope" / "models" / "acme" / "small"
    old.mkdir(parents=True)
    (old / "config.json").write_text("of some other commit")
    folder = hub_of("modelscope").snapshot("acme/small", repo.refs["v1"], ["config.json"], HubAccess())
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_content_that_differs_from_the_listing_is_rejected(repo, scope):
    scope.damaged.add("README.md")
    with pytest.raises(DamagedDownloadError, match="acme/small"):
        hub_of("modelscope").snapshot("acme/small", repo.refs["v1"], ["README.md"], HubAccess())
    assert hub_of("modelscope").cached_commit("acme/small", repo.refs["v1"], HubAccess()) == repo.refs["v1"]
    scope.damaged.clear()
    folder = hub_of("modelscope").snapshot("acme/small", repo.refs["v1"], ["README.md"], HubAccess())
    assert (folder / "README.md").read_bytes() == FILES["README.md"]


def test_folder_in_the_cache_counts_as_the_commit_while_its_files_are_the_commits(repo, tmp_path, caplog):
    source = locate("ms://acme/small", None, HubAccess())
    folder = fetch_checkpoint(source, HubAccess(), None, weights=False).folder
    offline = HubAccess(local_files_only=True)
    assert locate(folder, None, offline) == replace(source, ref=None, folder=folder, info=None)
    copied = tmp_path / "models" / "acme--small" / "snapshots" / folder.name
    shutil.copytree(folder, copied)
    assert isinstance(locate(copied, None, offline), LocalSource)
    (folder / "config.json").write_bytes(b'{"model_type": "t5"}')
    assert isinstance(locate(folder, None, offline), LocalSource)
    assert "config.json differs" in caplog.text
    with pytest.raises(ChangedCacheError, match=r"config\.json"):
        fetch_checkpoint(source, HubAccess(), None, weights=False)


def test_large_files_are_fetched_by_the_sdk(repo, capfd):
    commit = repo.commit({**FILES, "model.safetensors": bytes(9 << 20)}, "large")
    small = hub_of("modelscope").snapshot("acme/small", commit, ["config.json"], HubAccess())
    assert "config.json" not in capfd.readouterr().err  # no progress bar
    folder = hub_of("modelscope").snapshot("acme/small", commit, ["model.safetensors"], HubAccess())
    assert folder == small
    assert (folder / "model.safetensors").read_bytes() == bytes(9 << 20)


def test_short_commit_is_found_in_the_history(repo):
    assert hub_of("modelscope").full_commit("acme/small", repo.refs["v1"][:8], HubAccess()) == repo.refs["v1"]
    with pytest.raises(RevisionNotFoundError, match="0 commits"):
        hub_of("modelscope").full_commit("acme/small", "0" * 8, HubAccess())


def test_private_repo_needs_the_sdks_token(repo, scope, monkeypatch):
    repo.private = True
    scope.tokens["ms-mine"] = {"acme/small"}
    with pytest.raises(ModelNotFoundError, match="MODELSCOPE_API_TOKEN"):
        locate("ms://acme/small", None, HubAccess())
    assert locate("ms://acme/small", None, HubAccess(token="ms-mine")).info.private is True
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", "ms-mine")
    assert locate("ms://acme/small", None, HubAccess()).commit == repo.refs["master"]
    with pytest.raises(ModelNotFoundError):
        locate("ms://acme/small", None, HubAccess(token=False))


def test_a_token_of_hugging_face_does_not_get_there(repo, scope, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = len(scope.requests)
    locate("ms://acme/small", None, HubAccess(token="hf_secret"))
    locate("ms://acme/small", None, HubAccess(token=True))
    assert {request.token for request in scope.requests[before:]} == {None}


def test_missing_models_and_revisions_are_reported(repo, scope):
    with pytest.raises(ModelNotFoundError, match="acme/none"):
        locate("ms://acme/none", None, HubAccess())
    with pytest.raises(RevisionNotFoundError, match="no revision v9"):
        locate("ms://acme/small@v9", None, HubAccess())
    with pytest.raises(RevisionNotFoundError):
        locate("ms://acme/small@" + "0" * 40, None, HubAccess())
    with pytest.raises(InvalidModelReferenceError):
        locate("ms://../small", None, HubAccess())
    assert is_hub_model("ms://acme/none")[1]["type"] == "not_found"


def test_cache_is_used_if_the_hub_cannot_be_reached(repo, scope):
    commit = locate("ms://acme/small@v1", None, HubAccess()).commit
    hub_of("modelscope").snapshot("acme/small", commit, ["config.json"], HubAccess(), ref="v1")
    scope.status = 503
    source = locate("ms://acme/small@v1", None, HubAccess())
    assert (source.commit, source.info) == (commit, None)
    with pytest.raises(HubUnreachableError):
        locate("ms://acme/small", None, HubAccess())


def test_export_records_the_hub_and_asks_no_other(exported_bert, bert):
    record = read_metadata(exported_bert / "model.onnx")
    assert record["hf_hub_provider"] == "modelscope"
    assert (record["hf_hub_id"], record["hf_hub_sha"]) == ("acme/bert", bert.refs["master"])
    assert [path.name for path in exported_bert.iterdir()] == ["model.onnx"]


def test_export_loads_verifies_and_is_shown(exported_bert, scope, hub):
    file = exported_bert / "model.onnx"
    with hub.recorded() as requests:
        model, tokenizer = OptimumONNXModel.from_onnx(file)
        assert model(**tokenizer("the cat", return_tensors="pt")).logits.shape == (1, 3)
        verdict = verify_metadata(file)
    assert verdict.status is Status.OK, verdict.reason
    assert requests == []
    shown = optimum_cli("htp", "info", file).stdout
    assert "modelscope" in shown


def test_auto_classes_ask_the_hub_of_the_file_in_a_process_of_their_own(exported_bert, hub):
    code = f"""
from transformers import AutoConfig, AutoTokenizer
config = AutoConfig.from_pretrained({str(exported_bert / "model.onnx")!r})
tokenizer = AutoTokenizer.from_pretrained({str(exported_bert / "model.onnx")!r})
print(config.model_type, *tokenizer.tokenize("the cat"))
"""
    with hub.recorded() as requests:
        assert run_python(code, forked=True).stdout.split() == ["bert", "the", "cat"]
    assert requests == []


def test_auto_classes_take_a_reference(scope, bert, hub):
    with hub.recorded() as requests:
        assert AutoConfig.from_pretrained("ms://acme/bert").model_type == "bert"
        assert AutoTokenizer.from_pretrained("ms://acme/bert", revision="master").tokenize("the cat") == ["the", "cat"]
        with pytest.raises(ModelNotFoundError, match="acme/none"):
            AutoTokenizer.from_pretrained("ms://acme/none")
        with pytest.raises((OSError, ValueError), match="nowhere"):
            AutoTokenizer.from_pretrained("nowhere://acme/none")
    assert requests == []


def test_inject_takes_the_reference_and_what_was_known_of_it(plain_bert, scope, bert, hub):
    with hub.recorded() as requests:
        assert inject_hub_metadata(plain_bert, "ms://acme/bert").hub_provider == "modelscope"
        _, known = is_hub_model("ms://acme/bert")
        assert (known["provider"], known["sha"], known["revision"]) == ("modelscope", bert.refs["master"], "master")
        scope.status = 503
        record = inject_hub_metadata(plain_bert, "acme/bert", known, task="text-classification")
    assert (record.hub_provider, record.hub_id, record.hub_ref) == ("modelscope", "acme/bert", None)
    assert requests == []


def test_file_in_a_repo_is_read_remotely(exported_bert, scope):
    scope.add("acme/onnx", {"onnx/model.onnx": (exported_bert / "model.onnx").read_bytes()})
    shown = json.loads(optimum_cli("htp", "info", "ms://acme/onnx/onnx/model.onnx", "--json").stdout)
    assert shown["files"][0]["record"]["hub_id"] == "acme/bert"
    model, _ = OptimumONNXModel.from_onnx("ms://acme/onnx")
    assert model.config.model_type == "bert"


def test_snapshot_in_its_cache_is_known_by_its_path(repo, tmp_path):
    folder = hub_of("modelscope").snapshot("acme/small", repo.refs["v1"], ["config.json"], HubAccess())
    source = locate(folder, None, HubAccess())
    assert (source.provider, source.repo_id, source.commit) == ("modelscope", "acme/small", repo.refs["v1"])
    copied = shutil.copytree(folder, tmp_path / "copy")
    assert locate(copied, None, HubAccess()) == LocalSource(copied)


def test_error_without_the_sdk_names_the_package_to_install():
    code = """
import sys
sys.modules["modelscope_hub"] = None
from optimum_htp import HTPExporter
HTPExporter().export("ms://acme/bert", "out")
"""
    done = run_python(code, check=False, forked=True)
    assert "pip install modelscope-hub" in done.stderr.splitlines()[-1]


def test_missing_sdk_is_named(scope, repo, monkeypatch, access):
    commit = repo.refs["master"]
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    for call in (
        lambda: hub_of("modelscope").info(repo.repo_id, commit, access),
        lambda: hub_of("modelscope").snapshot(repo.repo_id, commit, ["config.json"], access),
        lambda: hub_of("modelscope").full_commit(repo.repo_id, commit[:8], access),
    ):
        with pytest.raises(MissingDependencyError, match="pip install modelscope-hub"):
            call()
