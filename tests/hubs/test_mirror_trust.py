"""Responses of mirrors are verified, and mirrors get no tokens or passwords."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from optimum_htp import OptimumONNXModel
from optimum_htp.errors import (
    MirrorError,
    OnnxFileNotFoundError,
)
from optimum_htp.extras.mirror.filling import mirror_model
from optimum_htp.hubs import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.origin.mirrors import MANIFEST, fetch

pytestmark = pytest.mark.usefixtures("from_the_commit")


@pytest.fixture
def redirecting(hub, monkeypatch):
    """Set HF_ENDPOINT to a mirror that redirects everything to the Hub with 308."""
    from huggingface_hub import constants, file_download

    from optimum_htp.hubs import http

    monkeypatch.setattr(constants, "ENDPOINT", hub.mirror)
    for module in (constants, file_download):
        template = hub.mirror + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(http, "_HUBS", (*http._HUBS, hub.url))
    return hub


def test_mirror_that_redirects_to_the_hub_is_followed_with_the_token(redirecting, access):
    from optimum_htp.plugins import hub as huggingface

    hub = redirecting
    hub.tokens["hf_mine"] = {"org/mirrored"}
    hub.add("org/mirrored", {"config.json": b"{}", "model.onnx": b"x" * 200_000}, private=True)
    access = replace(access, token="hf_mine")
    with hub.recorded() as requests:
        info = huggingface().info("org/mirrored", None, access)
        folder = huggingface().snapshot(
            "org/mirrored", info.commit, ["config.json", "none.json", "model.onnx"], access
        )
        assert huggingface().digests("org/mirrored", info.commit, access).keys() == {"config.json", "model.onnx"}
        with huggingface().opened("org/mirrored", None, "model.onnx", access) as window:
            assert window.read(150_000, 5) == b"xxxxx"
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "model.onnx").stat().st_size == 200_000
    assert {request.origin for request in requests if request.token == "hf_mine"} == {"mirror", "hub"}
    assert {request.token for request in requests if request.origin == "cdn"} == {None}
    with pytest.raises(OnnxFileNotFoundError, match="Check repo, revision and path"):
        huggingface().opened("org/mirrored", None, "none.onnx", access).__enter__()


def test_token_is_not_sent_to_other_redirect_targets(redirecting, hub, access, monkeypatch):
    from optimum_htp.hubs import http
    from optimum_htp.plugins import hub as huggingface

    monkeypatch.setattr(http, "_HUBS", ())
    hub.add("org/mirrored", {"config.json": b"{}"})
    with hub.recorded() as requests:
        huggingface().info("org/mirrored", None, replace(access, token="hf_mine"))
    assert [(request.origin, request.token) for request in requests] == [("mirror", "hf_mine"), ("hub", None)]


@pytest.mark.parametrize("fault", ["config.json", MANIFEST, "another commit", "no such protocol"])
def test_mirror_that_cannot_be_believed_is_left_out_and_named(
    fault, bert, mirrored, hub, tmp_path, monkeypatch, caplog
):
    if fault == "no such protocol":
        monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", "nowhere://models")
    elif fault == "another commit":
        text = (mirrored / MANIFEST).read_text()
        (mirrored / MANIFEST).write_text(text.replace(mirrored.name, "0" * 40))
    else:
        content = (mirrored / fault).read_bytes()
        (mirrored / fault).write_bytes(content.replace(b'"', b"'", 2))
    with hub.recorded() as requests:
        model, _ = OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "empty")
    assert model.config.id2label[0] == "LABEL 0"
    assert requests
    assert "is skipped for tiny/bert" in caplog.text


def test_names_that_lead_out_of_the_folder_are_no_manifest(bert, mirrored, access, caplog):
    content = json.loads((mirrored / MANIFEST).read_text())
    content["files"]["../../out.json"] = content["files"]["config.json"]
    (mirrored / MANIFEST).write_text(json.dumps(content))
    assert fetch("huggingface", "tiny/bert", mirrored.name, ["config.json"], HubAccess(cache_dir=mirrored)) is None
    assert "not a valid file name" in caplog.text


def test_token_does_not_reach_a_mirror(bert, mirrored, hub, tmp_path, monkeypatch):
    names = {f"mirror/{one.name}": one.read_bytes() for one in mirrored.iterdir()}
    hub.add("served/mirror", names)
    base = f"{hub.url}/served/mirror/resolve/main"
    commit = mirrored.name
    hub.repos["served/mirror"].commit(
        {f"tiny/bert/{commit}/{one.name}": one.read_bytes() for one in mirrored.iterdir()}
    )
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", base)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub.recorded() as requests:
        OptimumONNXModel.from_onnx(bert, cache_dir=tmp_path / "empty", token="hf_secret")
    assert requests
    assert all("/served/mirror/" in request.path and request.token is None for request in requests)


def test_password_of_a_mirror_is_masked(bert, web, folder, tmp_path, monkeypatch, caplog):
    url, record = web.replace("://", "://me:secret@"), read_record(bert)
    damaged = folder / record.hub_id / record.hub_sha / MANIFEST
    damaged.parent.mkdir(parents=True)
    damaged.write_text("damaged")
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", url)
    with caplog.at_level("DEBUG", logger="optimum_htp"):
        access = HubAccess(cache_dir=tmp_path / "cache")
        assert fetch("huggingface", record.hub_id, record.hub_sha, ["config.json"], access) is None
    assert "The mirror http://***@127.0.0.1" in caplog.text
    with pytest.raises(MirrorError, match=r"\*\*\*@127") as caught:
        mirror_model(str(bert), url, access)
    assert "secret" not in caplog.text + str(caught.value)
