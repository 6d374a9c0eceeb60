"""Mirrors: local places that replace the Hub, by full commit."""

from __future__ import annotations

import json
import sys

import pytest
from transformers import AutoConfig, AutoTokenizer

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.caching import forget
from optimum_htp.errors import (
    ArgumentError,
    DownloadError,
    HubUnreachableError,
    MirrorError,
    ModelNotFoundError,
)
from optimum_htp.extras.mirror import filling
from optimum_htp.extras.mirror.filling import mirror_model
from optimum_htp.hubs import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.origin.mirrors import MANIFEST, MirrorFolder, fetch
from optimum_htp.resolve.config_folder import config_source, preprocessor_folder
from tests.conftest import optimum_cli, run, run_python
from tests.support.s3 import serving_bucket

pytestmark = pytest.mark.usefixtures("from_the_commit")

LOADS = """
import sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
model = ORTModelForSequenceClassification.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
logits = model(**tokenizer("a", return_tensors="pt")).logits
print(model.config.id2label[0], *tokenizer.tokenize("the cat"), tuple(logits.shape))
"""
WITHOUT_SOCKETS = """
import socket
def refuse(*arguments):
    raise RuntimeError(f"a socket was opened: {arguments}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
LOADED = "LABEL 0 the cat (1, 3)\n"


@pytest.fixture(scope="module")
def s3():
    with serving_bucket("models"):
        yield "s3://models/a/prefix"


@pytest.fixture(params=["folder", "s3"])
def url(request, folder):
    return folder.as_uri() if request.param == "folder" else request.getfixturevalue("s3")


@pytest.mark.parametrize("order", ["mirror,embedded", "mirror,adjacent,embedded,hub", "cache,mirror,embedded"])
def test_mirror_listed_first_is_searched_before_embedded_files(bert, mirrored, tmp_path, monkeypatch, order):
    record, cold = read_record(bert), HubAccess(cache_dir=tmp_path / "cold")
    assert record.embedded_files
    monkeypatch.delenv("OPTIMUM_HTP_RESOLVE")
    assert preprocessor_folder(bert, record, cold) != mirrored
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", order)
    assert preprocessor_folder(bert, record, cold) == mirrored
    assert config_source(bert, record, cold, None, False, needed=True).folder == mirrored
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", (tmp_path / "nothing").as_uri())
    forget()
    assert config_source(bert, record, cold, None, False, needed=True).names  # embedded files


@pytest.mark.slow
def test_model_loads_from_a_mirror_and_the_hub_hears_nothing(bert, url, hub, empty_home):
    done = optimum_cli("htp", "mirror", bert, "-o", url, "--json")
    (answer,) = json.loads(done.stdout)["files"]
    assert answer["reference"] == "tiny/bert"
    assert set(read_record(bert).config_files) == set(answer["files"])
    forbidding = WITHOUT_SOCKETS if url.startswith("file:") else ""
    with hub.recorded() as requests:
        done = run(sys.executable, "-c", forbidding + LOADS, bert, OPTIMUM_HTP_MIRRORS=url, **empty_home)
    assert done.stdout == LOADED
    assert "mirror" not in done.stderr
    assert requests == []


def test_files_of_a_mirror_are_downloaded_once(bert, s3, hub, access, monkeypatch):
    mirror_model(str(bert), s3, access)
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", s3)
    record = read_record(bert)
    cold = HubAccess(cache_dir=access.cache_dir / "cold")
    first = fetch("huggingface", "tiny/bert", record.hub_sha, record.config_files, cold)
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", "s3://no-such-bucket/at-all")
    assert fetch("huggingface", "tiny/bert", record.hub_sha, record.config_files, cold) == first
    assert fetch("huggingface", "tiny/bert", record.hub_sha, [*record.config_files, "no-such.json"], cold) == first


@pytest.mark.parametrize("order", ["", "mirror", "cache,mirror"])
def test_mirror_is_a_web_server_too(bert, mirrored, web, hub, tmp_path, monkeypatch, order):
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", web)
    if order:
        monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", order)
    with hub.recorded() as requests:
        tokenizer = AutoTokenizer.from_pretrained(bert, cache_dir=tmp_path / "cold")
        model, _ = OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "cold")
    assert requests == []
    assert tokenizer.tokenize("the cat") == ["the", "cat"]
    assert model.config.id2label[0] == "LABEL 0"
    (mirrored / "config.json").write_text("{}")
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "mirror")
    with pytest.raises(DownloadError, match="No mirror"):
        AutoConfig.from_pretrained(bert, cache_dir=tmp_path / "colder")


def test_mirror_is_searched_after_the_cache_and_before_the_hub(bert, mirrored, hub, access, tmp_path):
    with hub.recorded() as requests:
        OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "empty")
    assert requests == []
    (mirrored / MANIFEST).write_text("{}")
    with hub.recorded() as requests:
        OptimumONNXModel.from_onnx(bert, cache_dir=access.cache_dir)  # from the time when the mirror was filled
    assert requests == []


def test_branch_is_looked_up_on_the_hub(bert, mirrored, hub, tmp_path):
    with hub.recorded() as requests:
        OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "empty", revision="refs/heads/main")
    assert any(request.path.startswith("/api/models/tiny/bert/revision/refs") for request in requests)


def test_only_folders_are_searched_without_connections(bert, mirrored, tmp_path, monkeypatch, s3, access):
    options = {"cache_dir": tmp_path / "empty", "local_files_only": True}
    assert OptimumONNXModel.from_onnx(bert, **options)[1] is not None
    mirror_model(str(bert), s3, access)
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", s3)
    with pytest.raises(HubUnreachableError):
        OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "other", local_files_only=True)


def test_commit_appears_with_its_manifest_and_a_cut_off_run_is_gone_on_with(bert, url, access, monkeypatch):
    url = f"{url}/cut-off"
    record = read_record(bert)
    copied = []

    def stopped(place, path, file):
        if copied:
            raise KeyboardInterrupt
        copy(place, path, file)
        copied.append(path)

    copy = filling._put
    with monkeypatch.context() as patch:
        patch.setattr(filling, "_put", stopped)
        with pytest.raises(KeyboardInterrupt):
            mirror_model(str(bert), url, access)
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", url)
    assert (
        fetch("huggingface", "tiny/bert", record.hub_sha, ["config.json"], HubAccess(cache_dir=access.cache_dir / "x"))
        is None
    )
    place = MirrorFolder.at(url)
    (first,) = copied
    before = place.files.modified(first)
    done = mirror_model(str(bert), url, access)
    assert set(done.files) == set(record.config_files)
    assert place.files.modified(first) == before
    names = {path.rpartition("/")[2] for path in place.files.ls(first.rpartition("/")[0], detail=False, refresh=True)}
    assert names == {*record.config_files, MANIFEST}
    assert mirror_model(str(bert), url, access).added == ()


def test_export_from_a_mirror_needs_its_weights(published, folder, hub, access, tmp_path, monkeypatch):
    published("bert")
    commit = hub.repos["tiny/bert"].refs["main"]
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", str(folder))
    mirror_model("tiny/bert", str(folder), access)
    hub.status = 503
    options = {"cache_dir": tmp_path / "empty", "do_validation": False}
    with pytest.raises(DownloadError, match="htp mirror --weights"):
        HTPExporter().export(f"tiny/bert@{commit}", tmp_path / "out", **options)
    with pytest.raises(HubUnreachableError):
        HTPExporter().export("tiny/bert", tmp_path / "out", **options)
    hub.status = None
    assert mirror_model("tiny/bert", str(folder), access, weights=True).added == ("model.safetensors",)
    hub.status = 503
    result = HTPExporter().export(f"tiny/bert@{commit}", tmp_path / "out", **options)
    assert (result.metadata.hub_sha, result.metadata.preprocessors) == (commit, ("AutoTokenizer",))
    assert OptimumONNXModel.from_onnx(tmp_path / "out" / "model.onnx", cache_dir=tmp_path / "e")[1]


def test_invalid_mirror_source_is_rejected(plain_bert, folder, access, model_folder):
    with pytest.raises(ArgumentError, match="has no record of a model on a Hub"):
        mirror_model(str(plain_bert), str(folder), access)
    with pytest.raises(ArgumentError, match="local model"):
        mirror_model(str(model_folder("bert")), str(folder), access)
    with pytest.raises(ModelNotFoundError):
        mirror_model("no/such-model", str(folder), access)
    assert not folder.exists()


def test_mirror_that_cannot_be_written_is_named(bert, tmp_path, access):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MirrorError, match="file"):
        mirror_model(str(bert), str(tmp_path / "file"), access)


@pytest.mark.slow
def test_missing_s3fs_warning_names_the_package(bert, empty_home):
    code = f"import sys; sys.modules['s3fs'] = None; sys.argv = ['', {str(bert)!r}]\n{LOADS}"
    done = run_python(code, forked=True, OPTIMUM_HTP_MIRRORS="s3://models/x", **empty_home)
    assert done.stdout == LOADED
    assert "pip install s3fs" in done.stderr


def test_verify_uses_a_mirror_without_the_hub(bert, mirrored, hub, tmp_path, monkeypatch):
    from optimum_htp.hubs import HubAccess
    from optimum_htp.stamping.verify import Status, verify_metadata

    access = HubAccess(cache_dir=tmp_path / "empty")
    hub.status = 503
    verdict = verify_metadata(bert, access)
    assert verdict.status is Status.OK, verdict.reason
    assert "config" in verdict.checked
    assert "a mirror has files of the commit" in verdict.unchecked["commit"]
    monkeypatch.delenv("OPTIMUM_HTP_MIRRORS")
    assert verify_metadata(bert, access).status is Status.UNREACHABLE
