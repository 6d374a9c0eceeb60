"""The commit of a name: from a reachable Hub, without one, and from the cache."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from optimum_htp import detect_model_source, is_hub_model
from optimum_htp.errors import (
    ChangedCacheError,
    GatedModelError,
    HubUnreachableError,
    InvalidModelReferenceError,
    ModelNotFoundError,
    RevisionNotFoundError,
    UnknownHubError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import HubSource, LocalSource, locate
from optimum_htp.plugins import hub as hub_plugin
from tests.conftest import run_python

CARD = {"license": "apache-2.0", "base_model": "google/base", "language": ["en", "de"]}
OFFLINE = HubAccess(local_files_only=True)


@pytest.fixture
def repo(hub):
    """A repo with a branch, a tag and a pull request, each at another commit."""
    repo = hub.add("google/flan-t5-xl", pipeline_tag="text2text-generation", library_name="transformers", card=CARD)
    for ref in ("main", "v1.0", "feature", "refs/pr/1"):
        repo.commit({"config.json": json.dumps({"model_type": "t5", "ref": ref}).encode()}, ref)
    return repo


@pytest.fixture
def cache(tmp_path):
    return HubAccess(cache_dir=tmp_path / "cache")


def _fill(cache, repo, ref="main"):
    commit = repo.refs[ref]
    return hub_plugin().snapshot(repo.repo_id, commit, ["config.json"], cache, ref=ref)


def test_document_examples_online(hub, repo):
    for name in ("bert-base-uncased", "model", "org/model"):
        hub.add(name).commit({"config.json": b"{}"})
    hub.repos["model"].refs["revision"] = hub.repos["model"].refs["main"]
    hub.repos["org/model"].refs["branch"] = hub.repos["org/model"].refs["main"]
    for name in ("bert-base-uncased", "google/flan-t5-xl", "model@revision", "org/model@branch"):
        assert is_hub_model(name)[0] is True, name
    for path in ("./local/model", "/absolute/path"):
        assert is_hub_model(path)[0] is False, path


def test_document_examples_offline():
    for name in ("bert-base-uncased", "google/other-t5", "model@revision", "org/model@branch"):
        found, answer = is_hub_model(name, access=OFFLINE)
        assert found is True
        assert answer["type"] in ("hub_unverified", "hub")
    for path in ("./local/model", "/absolute/path"):
        assert is_hub_model(path, access=OFFLINE)[0] is False


@pytest.mark.parametrize("ref", ["main", "v1.0", "feature", "refs/pr/1"])
def test_every_kind_of_revision_resolves_to_its_commit(repo, ref):
    found, answer = is_hub_model(f"google/flan-t5-xl@{ref}")
    assert found
    assert (answer["sha"], answer["revision"]) == (repo.refs[ref], ref)


def test_commit_is_a_revision(repo):
    commit = repo.refs["v1.0"]
    assert is_hub_model(f"google/flan-t5-xl@{commit}")[1]["sha"] == commit


@pytest.mark.parametrize("from_api", [True, False])
def test_hub_metadata_has_the_model_card(hub, from_api):
    """The Hub sends the card's data in its response; other Hubs have it in README.md only."""
    name = f"google/carded-{from_api}".lower()
    readme = b"---\nlicense: apache-2.0\nbase_model: google/base\nlanguage:\n- en\n- de\n---\n# A model\n"
    hub.serve_card = from_api
    hub.add(name, {"README.md": readme}, pipeline_tag="fill-mask", card=CARD)
    answer = is_hub_model(name)[1]
    assert answer["type"] == "hub"
    assert {key: answer[key] for key in CARD} == CARD
    assert answer["pipeline_tag"] == "fill-mask"
    assert {"tags", "library_name", "author", "last_modified", "private", "gated", "downloads", "likes"} <= set(answer)


@pytest.mark.parametrize(
    "path",
    ["./a", "../a", "/a/b", "~/a", "~", "C:\\models\\bert", "c:/models/bert", "\\\\server\\share\\bert", ".\\bert"],
)
def test_paths_are_local_whether_or_not_they_exist(hub, path):
    with hub.recorded() as requests:
        assert is_hub_model(path) == (False, {"type": "local", "path": path})
    assert requests == []


def test_existing_folder_wins_over_a_repo_of_its_name(repo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google" / "flan-t5-xl").mkdir(parents=True)
    assert is_hub_model("google/flan-t5-xl") == (False, {"type": "local", "path": "google/flan-t5-xl"})


@pytest.mark.parametrize("name", ["a/b/c", "", "@main", "org/model@", "org\\model", "a--b", "-x", "a b", "x" * 200])
def test_invalid_repo_id_is_reported(name):
    assert is_hub_model(name, access=OFFLINE)[1]["type"] in ("invalid", "local")
    if name:
        with pytest.raises(InvalidModelReferenceError):
            locate(name, None, OFFLINE)


def test_repo_that_the_hub_does_not_have_is_not_found():
    found, answer = is_hub_model("models/my-bert")
    assert (found, answer["type"], answer["model_id"]) == (False, "not_found", "models/my-bert")
    with pytest.raises(ModelNotFoundError, match="neither a local folder"):
        locate("models/my-bert", None, HubAccess())


def test_missing_revision_is_its_own_error(repo):
    assert is_hub_model("google/flan-t5-xl@nope")[1]["type"] == "not_found"
    with pytest.raises(RevisionNotFoundError, match="nope"):
        locate("google/flan-t5-xl", "nope", HubAccess())


def test_two_different_revisions_are_rejected(repo):
    assert locate("google/flan-t5-xl@v1.0", "v1.0", HubAccess()).commit == repo.refs["v1.0"]
    with pytest.raises(InvalidModelReferenceError, match=r"'main'.*'v1\.0'"):
        locate("google/flan-t5-xl@main", "v1.0", HubAccess())


def test_unreachable_hub_without_a_snapshot_is_unverified(hub, repo, cache):
    hub.status = 503
    found, answer = is_hub_model("google/flan-t5-xl", access=cache)
    assert found
    assert answer["type"] == "hub_unverified"
    assert "503" in answer["error"]
    with pytest.raises(HubUnreachableError, match="503"):
        locate("google/flan-t5-xl", None, cache)


@pytest.mark.parametrize("ref", ["main", "refs/pr/1"])
def test_snapshot_in_the_cache_is_proof_while_the_hub_is_away(hub, repo, cache, ref):
    _fill(cache, repo, ref)
    hub.status = 503
    found, answer = is_hub_model(f"google/flan-t5-xl@{ref}", access=cache)
    assert found
    assert (answer["type"], answer["sha"]) == ("hub", repo.refs[ref])


def test_hub_without_a_server_is_unreachable():
    code = "from optimum_htp import is_hub_model; print(is_hub_model('bert-base-uncased'))"
    output = run_python(code, forked=True, HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert "(True, {'type': 'hub_unverified'" in output
    assert "127.0.0.1:9" in output


def test_offline_variable_is_unverified_with_a_reason():
    code = "from optimum_htp import is_hub_model; print(is_hub_model('google/flan-t5-xl'))"
    output = run_python(code, forked=True, HF_HUB_OFFLINE="1").stdout
    assert "hub_unverified" in output
    assert "HF_HUB_OFFLINE" in output


def test_private_repo_is_found_with_its_token_only(hub):
    hub.add("org/secret", {"config.json": b"{}"}, private=True)
    hub.tokens["hf_good"] = {"org/secret"}
    assert is_hub_model("org/secret")[1]["type"] == "not_found"
    for found, answer in (
        is_hub_model("org/secret", access=HubAccess(token="hf_good")),
        is_hub_model("org/secret", revision="main", token="hf_good"),
    ):
        assert found
        assert answer["private"] is True


def test_gated_files_are_refused_with_the_next_step(hub, cache):
    repo = hub.add("org/gated", {"config.json": b"{}"}, gated=True)
    assert is_hub_model("org/gated")[1]["gated"] is True
    with pytest.raises(GatedModelError, match=r"org/gated.*HF_TOKEN"):
        _fill(cache, repo)


def test_renamed_repo_is_known_by_its_new_name(hub, repo):
    hub.renamed["flan-old"] = "google/flan-t5-xl"
    assert is_hub_model("flan-old")[1]["model_id"] == "google/flan-t5-xl"


def test_cache_path_returns_id_and_commit(repo, cache):
    folder = _fill(cache, repo, "v1.0")
    answer = detect_model_source(folder, access=cache)
    assert answer["type"] == "hub"
    assert (answer["model_id"], answer["sha"]) == ("google/flan-t5-xl", repo.refs["v1.0"])
    assert answer["detected_from"] == "cache_path"
    source = locate(folder, None, cache)
    assert isinstance(source, HubSource)
    assert (source.repo_id, source.commit) == ("google/flan-t5-xl", repo.refs["v1.0"])


def test_cache_and_snapshot_may_be_reached_by_links(repo, cache, tmp_path):
    folder = _fill(cache, repo)
    (tmp_path / "model").symlink_to(folder)
    assert isinstance(locate(tmp_path / "model", None, cache), HubSource)
    (tmp_path / "caches").symlink_to(cache.cache_dir)
    moved = tmp_path / "other-disk"
    (cache.cache_dir / "models--google--flan-t5-xl").rename(moved)
    (cache.cache_dir / "models--google--flan-t5-xl").symlink_to(moved)
    for named in (folder, tmp_path / "caches" / folder.relative_to(cache.cache_dir)):
        assert isinstance(locate(named, None, cache), HubSource), named
    assert isinstance(locate(folder, None, HubAccess(cache_dir=tmp_path / "caches")), HubSource)


def test_folder_that_only_has_the_name_of_a_snapshot_is_local(repo, cache, tmp_path, caplog):
    copied = tmp_path / "elsewhere" / _fill(cache, repo).relative_to(cache.cache_dir)
    shutil.copytree(_fill(cache, repo), copied, symlinks=False)
    for access in (cache, HubAccess(), OFFLINE):
        assert locate(copied, None, access) == LocalSource(copied)
        assert detect_model_source(copied, access=access)["type"] == "local_hf_compatible"
    assert "not the folder of this commit in the configured cache" in caplog.text
    assert isinstance(locate(_fill(cache, repo), None, HubAccess()), LocalSource)  # of another cache
    made_up = cache.cache_dir / "models--org--never" / "snapshots" / ("a" * 40)
    shutil.copytree(copied, made_up)
    assert isinstance(locate(made_up, None, cache), LocalSource)


def _edit_in_place(folder, config):
    config.write_bytes(config.read_bytes() + b" ")


def _replace(folder, config):
    content = config.read_bytes()
    config.unlink()
    config.write_bytes(content + b" ")


def _link_elsewhere(folder, config):
    other = folder.parents[2] / "config.json"
    other.write_text('{"model_type": "bert"}')
    config.unlink()
    config.symlink_to(other)


def _add_weights(folder, config):
    (folder / "model.safetensors").write_bytes(b"of somebody")


@pytest.mark.parametrize("change", [_edit_in_place, _replace, _link_elsewhere, _add_weights])
def test_snapshot_with_a_changed_file_is_local_and_the_file_is_named(repo, cache, caplog, change):
    folder = _fill(cache, repo)
    change(folder, folder / "config.json")
    name = "model.safetensors" if change is _add_weights else "config.json"
    for access in (cache, replace(cache, local_files_only=True)):
        caplog.clear()
        assert locate(folder, None, access) == LocalSource(folder)
        assert name in caplog.text
    with pytest.raises(ChangedCacheError, match=name):
        fetch_checkpoint(locate("google/flan-t5-xl", None, cache), cache, None)
    offline = replace(cache, local_files_only=True)
    with pytest.raises(ChangedCacheError, match=name):
        fetch_checkpoint(locate("google/flan-t5-xl", None, offline), offline, None)


def test_file_of_another_commit_is_downloaded_if_the_hub_is_reachable(repo, cache):
    folder, other = _fill(cache, repo), _fill(cache, repo, "v1.0")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to((other / "config.json").resolve())
    with pytest.raises(ChangedCacheError, match=r"config\.json"):
        fetch_checkpoint(locate("google/flan-t5-xl", None, cache), cache, None)


def test_cache_without_links_is_compared_with_the_hubs_digests(repo, cache):
    """As on Windows, or in a cache that was copied without its links."""
    folder = _fill(cache, repo)
    content = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(content)
    shutil.rmtree(folder.parents[1] / "blobs")
    assert isinstance(locate(folder, None, cache), HubSource)
    assert isinstance(locate(folder, None, replace(cache, local_files_only=True)), LocalSource)
    fetch_checkpoint(locate("google/flan-t5-xl", None, cache), cache, None, weights=False)


def test_reference_may_name_its_hub(repo):
    for prefix in ("hf", "huggingface"):
        source = locate(f"{prefix}://google/flan-t5-xl@v1.0", None, HubAccess())
        assert (source.provider, source.repo_id, source.ref) == ("huggingface", "google/flan-t5-xl", "v1.0")
        assert source.reference == "google/flan-t5-xl"
    assert is_hub_model("hf://google/flan-t5-xl") == is_hub_model("google/flan-t5-xl")


def test_unknown_hub_is_reported_with_the_known_ones():
    with pytest.raises(UnknownHubError, match=r"acme:// names the Hub 'acme', which no .* Known Hubs: huggingface"):
        locate("acme://org/model", None, HubAccess())
    assert is_hub_model("acme://org/model")[1]["type"] == "invalid"
    config = SimpleNamespace(_name_or_path="s3://bucket/model", model_type="t5", architectures=["T5Model"])
    assert detect_model_source("./mine", SimpleNamespace(config=config))["type"] == "local_hf_compatible"


def test_model_in_memory_knows_its_commit(repo):
    commit = repo.refs["v1.0"]
    config = SimpleNamespace(
        _name_or_path="google/flan-t5-xl", _commit_hash=commit, model_type="t5", architectures=["T5Model"]
    )
    answer = detect_model_source("./somewhere", SimpleNamespace(config=config))
    assert (answer["detected_from"], answer["sha"]) == ("config", commit)


def test_model_in_memory_without_a_source_is_local_and_compatible():
    config = SimpleNamespace(_name_or_path="", model_type="t5", architectures=["T5Model"])
    assert detect_model_source("./mine", SimpleNamespace(config=config)) == {
        "type": "local_hf_compatible",
        "model_type": "t5",
        "architectures": ["T5Model"],
        "path": "./mine",
    }


def test_local_folder_with_a_config_is_compatible(model_folder):
    folder = model_folder("bert")
    assert detect_model_source(folder) == {
        "type": "local_hf_compatible",
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "path": str(folder),
    }
    assert isinstance(locate(folder, None, HubAccess()), LocalSource)


def test_local_folder_has_no_revisions(tmp_path):
    with pytest.raises(InvalidModelReferenceError, match="no revisions"):
        locate(tmp_path, "main", HubAccess())
