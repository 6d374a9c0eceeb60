"""Failures between a file and its Hub: each has its own exception and next step."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import constants

from optimum_htp import HFHubConfigLoader, errors
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.plugins import hub as huggingface
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors

FILES = {"config.json": json.dumps({"model_type": "bert"}).encode(), "vocab.txt": b"[PAD]\n" * 2000}
_COUNT = iter(range(1000))


@pytest.fixture
def repo(hub):
    return hub.add(f"refusing/model-{next(_COUNT)}", FILES)


def record(repo, **fields):
    return ExportMetadata(
        **{
            "model_type": "hub",
            "hub_id": repo.repo_id,
            "hub_sha": repo.refs["main"],
            "config_files": tuple(FILES),
            "export_library": "transformers",
            **fields,
        }
    )


@pytest.fixture
def refused(repo, tmp_path):
    """Resolve a file of the repo with an empty cache; return the raised exception."""

    def resolve(kind, metadata=None, **access):
        access = HubAccess(cache_dir=tmp_path / "cache", **{"token": False, **access})
        with pytest.raises(errors.OptimumHTPError) as caught:
            resolve_preprocessors(metadata or record(repo), access)
        assert type(caught.value) is kind
        assert repo.repo_id in str(caught.value)
        return str(caught.value)

    return resolve


def test_private_model_error_uses_the_record(refused, repo):
    repo.private = True
    assert "was private" in refused(errors.ModelNotFoundError, record(repo, private=True))
    assert "removed or made private" in refused(errors.ModelNotFoundError, record(repo, private=False))
    assert "HF_TOKEN" in refused(errors.ModelNotFoundError)


def test_missing_model(refused, repo, hub):
    del hub.repos[repo.repo_id]
    assert "has no model" in refused(errors.ModelNotFoundError)


def test_missing_commit(refused, repo):
    assert "Check the branch" in refused(errors.RevisionNotFoundError, record(repo, hub_sha="0" * 40))


def test_commit_without_config(repo, tmp_path):
    commit = repo.commit({"vocab.txt": b"[PAD]"})
    with pytest.raises(errors.ConfigFileNotFoundError, match=r"no config.json at .*revision="):
        resolve_configs(record(repo, hub_sha=commit), HubAccess(cache_dir=tmp_path))


def test_gated_model(refused, repo):
    repo.gated = True
    assert "Request access" in refused(errors.GatedModelError)
    assert "Request access" in refused(errors.GatedModelError, token="hf_other")


def test_disabled_model(refused, repo):
    repo.disabled = True
    assert "disabled" in refused(errors.RepoDisabledError)


def test_renamed_model_is_followed(hub, repo, tmp_path):
    hub.renamed["refusing/old-name"] = repo.repo_id
    folder = resolve_configs(record(repo, hub_id="refusing/old-name"), HubAccess(cache_dir=tmp_path)).folder
    assert (folder / "config.json").read_bytes() == FILES["config.json"]


def test_too_many_requests_reports_the_waiting_time(refused, hub, repo, tmp_path, monkeypatch):
    hub.status = 429
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "2")
    assert "in 7 seconds" in refused(errors.RateLimitedError)
    with pytest.raises(errors.RateLimitedError) as caught:
        huggingface().info(repo.repo_id, None, HubAccess(cache_dir=tmp_path))
    assert caught.value.retry_after == 7


def test_server_error(refused, hub):
    hub.status = 501
    assert "501" in refused(errors.HubServerError)


def test_forced_download_from_a_failing_hub(refused, hub):
    hub.status = 501
    assert "501" in refused(errors.HubServerError, force_download=True)


def test_refused_token(refused, hub):
    hub.status = 403
    assert "The server is set to fail" in refused(errors.AccessDeniedError, token="hf_stale")


def test_answer_that_takes_too_long(refused, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.2)
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1")
    hub.latency = 3.0
    assert "HF_HUB_ETAG_TIMEOUT" in refused(errors.HubTimeoutError)


def test_truncated_file_leaves_nothing_behind(refused, hub, repo, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1")
    hub.cut_bodies = True
    assert "were not received completely" in refused(errors.DamagedDownloadError)
    assert not list((tmp_path / "cache").rglob("*/snapshots/*/*"))
    hub.cut_bodies = False
    folder = resolve_preprocessors(record(repo), HubAccess(cache_dir=tmp_path / "cache")).folder
    assert (folder / "vocab.txt").read_bytes() == FILES["vocab.txt"]


def test_response_that_is_not_json(hub, repo, tmp_path):
    hub.garbled = True
    with pytest.raises(errors.HubServerError, match="HF_ENDPOINT"):
        huggingface().info(repo.repo_id, None, HubAccess(cache_dir=tmp_path))


def test_empty_cache_without_connections(refused, hub):
    with hub.recorded() as requests:
        assert "local_files_only" in refused(errors.OfflineError, local_files_only=True)
    assert requests == []


def test_config_in_the_cache_is_used_if_other_files_are_denied(hub, repo, tmp_path):
    access = HubAccess(cache_dir=tmp_path, token=False)
    resolve_configs(record(repo, config_files=("config.json",)), access)
    repo.gated = True
    assert (resolve_configs(record(repo), access, with_code=True).folder / "config.json").is_file()


def test_every_rejection_is_an_error_of_this_package(hub, repo, tmp_path, bert_file_of):
    path = bert_file_of(repo)
    hub.status = 501
    with pytest.raises(errors.HubServerError):
        HFHubConfigLoader(cache_dir=tmp_path).load_from_onnx(path)


@pytest.fixture
def bert_file_of(tmp_path):
    import onnx

    def write(repo):
        value = onnx.helper.make_tensor_value_info("x", 1, [1])
        graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [])
        model = onnx.helper.make_model(graph)
        onnx.helper.set_model_props(model, record(repo).to_properties())
        onnx.save(model, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write
