"""Batches of a Hub's list of models, and their manifests: verified, billed, and reproduced."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import onnx
import pytest

from optimum_htp.errors import BatchListError, ManifestError, ModelListNotFoundError
from optimum_htp.extras.batch.command import _for_workers
from optimum_htp.extras.batch.jobs import Job, State, job_of, jobs_from_lines, jobs_of_hub
from optimum_htp.extras.batch.manifest import manifest_of
from optimum_htp.extras.batch.work import JobResult
from optimum_htp.hubs import HubAccess
from optimum_htp.hubs.huggingface.listings import models_of_author, models_of_collection
from optimum_htp.stamping.manifests import ManifestModel, fault, read_manifest
from tests.conftest import optimum_cli, run
from tests.support.batches import CLI, batch

EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


@pytest.fixture
def shelf(hub, published, model_folder):
    """An author with three models, one of them private, and a collection of two of them and a dataset."""
    for name, tag in (("one", "text-classification"), ("two", "text-classification"), ("three", "text-generation")):
        folder = model_folder("gpt2" if tag == "text-generation" else "bert")
        hub.add(f"shelf/{name}", folder, pipeline_tag=tag, library_name="transformers", downloads=len(name))
    hub.add("shelf/secret", model_folder("bert"), private=True, library_name="transformers")
    hub.collections["shelf/both-0123"] = [("model", "shelf/two"), ("dataset", "shelf/rows"), ("model", "shelf/one")]
    hub.tokens["hf_shelf"] = {"shelf/secret"}
    yield hub
    for name in ("one", "two", "three", "secret"):
        del hub.repos[f"shelf/{name}"]


def test_hub_lists_collections_and_authors(shelf):
    shelf.page = 2
    access = HubAccess()
    assert models_of_collection("shelf/both-0123", access) == (["shelf/two", "shelf/one"], 1)
    assert models_of_collection(f"{shelf.url}/collections/shelf/both-0123", access) == (["shelf/two", "shelf/one"], 1)
    assert models_of_author("shelf", (), None, access) == ["shelf/one", "shelf/three", "shelf/two"]
    assert models_of_author("shelf", ["text-generation"], None, access) == ["shelf/three"]
    assert models_of_author("shelf", (), 1, access) == ["shelf/three"]
    assert "shelf/secret" in models_of_author("shelf", (), None, HubAccess(token="hf_shelf"))


@pytest.mark.parametrize("ask", [lambda access: models_of_collection("shelf/none-1", access)])
def test_missing_list_is_named(shelf, ask):
    with pytest.raises(ModelListNotFoundError, match="shelf/none-1"):
        ask(HubAccess())
    with pytest.raises(ModelListNotFoundError, match="nobody has no models"):
        models_of_author("nobody", (), None, HubAccess())
    with pytest.raises(ModelListNotFoundError, match="with the tags depth-estimation"):
        models_of_author("shelf", ["depth-estimation"], None, HubAccess())


@pytest.mark.slow
def test_collection_is_exported_checked_billed_and_made_again(shelf, model_folder, tmp_path, empty_home):
    out, again, manifest = tmp_path / "out", tmp_path / "again", tmp_path / "lists" / "manifest.json"
    manifest.parent.mkdir()
    env = {**empty_home, **EPOCH}
    first = batch("--collection", "shelf/both-0123", "-o", out, "--manifest", manifest, "--opset", "17", **env)
    assert {name: model["state"] for name, model in first.items()} == {"shelf/one": "done", "shelf/two": "done"}
    written = read_manifest(manifest)
    assert {model.output: model.commit for model in written.models} == {
        name: shelf.repos[name].refs["main"] for name in ("shelf/one", "shelf/two")
    }
    assert {path.name for path in written.files()} == {"model.onnx"}

    checked = optimum_cli("htp", "verify", manifest, **empty_home)
    assert checked.stdout.count(": ok: ") == 2
    bill = optimum_cli("htp", "bom", manifest).stdout
    assert all(f"pkg:huggingface/{model.model}@{model.commit}" in bill for model in written.models)

    shelf.repos["shelf/one"].commit({"config.json": b"{}"})  # the branch gets a new commit
    made = batch("--from-manifest", manifest, "-o", again, **env)
    assert {model["state"] for model in made.values()} == {"done"}
    for path, (model, file) in written.files().items():
        assert (again / model.output / file.name).read_bytes() == path.read_bytes()

    whole = batch("--from-manifest", manifest, "-o", out, "--manifest", tmp_path / "second.json", **env)
    assert {model["state"] for model in whole.values()} == {"up_to_date"}
    assert read_manifest(tmp_path / "second.json").models == written.models

    other = optimum_cli(
        *("htp", "batch", "--from-manifest", manifest, "-o", tmp_path / "later"), check=False, **empty_home
    )
    assert other.returncode == 3
    assert "shelf/two/model.onnx: DIFFERS from the manifest" in other.stdout
    assert "check that SOURCE_DATE_EPOCH has the same value" in other.stdout


def test_names_that_the_hub_gave_are_not_folders_here(shelf, model_folder, tmp_path, empty_home):
    """A local folder has the name of a model in the collection, with another model type."""
    here = tmp_path / "here"
    shutil.copytree(model_folder("gpt2"), here / "shelf" / "one")
    shutil.copytree(model_folder("gpt2"), here / "shelf" / "two")
    manifest, env = tmp_path / "manifest.json", {**empty_home, **EPOCH}

    def made(*arguments):
        reported = run(CLI, "htp", "batch", *arguments, "--json", cwd=here, **env).stdout
        return {
            model["output"]: (model["state"], model["model"], model.get("commit"))
            for model in json.loads(reported)["models"]
        }

    commits = {name: shelf.repos[name].refs["main"] for name in ("shelf/one", "shelf/two")}
    expected = {name: ("done", name, commit) for name, commit in commits.items()}
    assert made("--collection", "shelf/both-0123", "-o", tmp_path / "out", "--manifest", manifest) == expected
    whole = {name: ("up_to_date", *rest) for name, (_, *rest) in expected.items()}
    assert made("--from-manifest", manifest, "-o", tmp_path / "out") == whole
    assert [job.reference for job in _jobs_of(manifest)] == ["hf://shelf/one", "hf://shelf/two"]


def _jobs_of(manifest):
    return [job_of(model) for model in read_manifest(manifest).models]


@pytest.mark.parametrize(
    "name", ['{"model": "tiny/bert"}', "# mine", "../x", "a/b/c", "a/b@main", "ms://a/b", "", " a/b"]
)
def test_names_that_the_hub_gave_are_nothing_but_names(name):
    with pytest.raises(BatchListError, match="the list, line 1"):
        jobs_of_hub([name], "the list", {})


def test_jobs_of_the_hub_reach_workers_as_such(monkeypatch, tmp_path):
    (tmp_path / "tiny" / "bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (job,) = jobs_of_hub(["tiny/bert"], "the list", {})
    (mine,) = jobs_from_lines(["tiny/bert"], "the list", {})
    assert (job.reference, job.output) == ("hf://tiny/bert", "tiny/bert")
    assert (mine.reference, mine.output) == ("tiny/bert", "bert")
    assert pickle.loads(pickle.dumps(_for_workers(job))).reference == "hf://tiny/bert"
    assert _for_workers(mine).reference == str(tmp_path / "tiny" / "bert")
    entry = {"model": "tiny/bert", "output": "x", "task": "fill-mask"}
    assert job_of(ManifestModel(**entry)).reference == "tiny/bert"  # of a folder, without a commit
    assert job_of(ManifestModel(**entry, commit="0" * 40)).reference == "hf://tiny/bert"
    assert job_of(ManifestModel(**{**entry, "model": "ms://tiny/bert"}, commit="0" * 40)).reference == "ms://tiny/bert"
    cached = str(tmp_path / "hub" / "models--tiny--bert" / "snapshots" / ("0" * 40))
    assert job_of(ManifestModel(**{**entry, "model": cached}, commit="0" * 40)).reference == cached


@pytest.mark.slow
def test_manifest_records_the_options_of_the_existing_export(shelf, tmp_path, empty_home):
    listed, out, manifest = tmp_path / "models.txt", tmp_path / "out", tmp_path / "manifest.json"
    listed.write_text("shelf/one\n")
    kept = out / "batch.jsonl"
    env = {**empty_home, **EPOCH}

    def written(*options):
        state = batch(listed, "-o", out, "--manifest", manifest, *options, **env)["shelf/one"]["state"]
        return state, read_manifest(manifest)

    state, first = written("--no-hierarchy", "--pad_token_id", "0")
    assert state == "done"
    assert first.models[0].options.items() >= {"hierarchy": False, "pad_token_id": 0}.items()
    made = batch("--from-manifest", manifest, "-o", tmp_path / "again", **env)["shelf/one"]
    assert made["files"][0]["sha256"] == first.models[0].files[0].sha256

    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    lines[-1]["versions"] = {"torch": "0.1"}  # as with a newer version on this machine
    kept.write_text("\n".join(map(json.dumps, lines)))
    state, second = written("--no-hierarchy", "--pad_token_id", "0")
    assert (state, second.versions, second.models) == ("up_to_date", {"torch": "0.1"}, first.models)

    del lines[-1]["versions"], lines[-1]["options"], lines[-1]["asked"]  # as with a journal that lacks it
    kept.write_text("\n".join(map(json.dumps, lines)))
    state, third = written("--opset", "17")
    assert (state, third.models[0].options, third.versions_of(third.models[0])) == ("up_to_date", None, {})

    kept.write_text("\n".join(map(json.dumps, [{**lines[-1], "options": {}, "asked": "auto"}])))
    assert written("--opset", "17")[0] == "done"
    _change_a_weight(out / "shelf" / "one" / "model.onnx")
    assert (
        batch(listed, "-o", out, "--opset", "17", **env)["shelf/one"]["state"] == "up_to_date"
    )  # no digest was requested
    _, fourth = written("--opset", "17")
    assert all(fault(path, file) is None for path, (_, file) in fourth.files().items())


@pytest.mark.slow
def test_file_that_was_changed_in_place_is_not_called_the_manifests(shelf, tmp_path, empty_home):
    listed, out, manifest = tmp_path / "models.txt", tmp_path / "out", tmp_path / "manifest.json"
    listed.write_text("shelf/one\n")
    env = {**empty_home, **EPOCH}
    batch(listed, "-o", out, "--manifest", manifest, **env)
    _change_a_weight(out / "shelf" / "one" / "model.onnx")
    again = batch("--from-manifest", manifest, "-o", out, **env)
    assert again["shelf/one"]["state"] == "done"
    assert all(fault(path, file) is None for path, (_, file) in read_manifest(manifest).files().items())


def _change_a_weight(path):
    """Change a bit of a weight. Sizes and records stay the same."""
    model = onnx.load(path)
    content = max((tensor.raw_data for tensor in model.graph.initializer), key=len)
    whole = path.read_bytes()
    assert whole.count(content) == 1
    at = whole.index(content)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def test_manifest_records_versions_per_model():
    def outcome(versions, options):
        return JobResult(state=State.UP_TO_DATE, commit="0" * 40, task="x", versions=versions, options=options)

    outcomes = {
        "a": outcome({"torch": "1"}, {}),
        "b": outcome({"torch": "2"}, {"opset": 17}),
        "c": outcome({"torch": "2"}, {"opset": 17}),
        "d": outcome(None, None),
    }
    manifest = manifest_of([Job(name, name) for name in outcomes], outcomes, Path())
    assert manifest.versions == {"torch": "2"}
    assert [manifest.versions_of(model).get("torch") for model in manifest.models] == ["1", "2", "2", None]
    assert [model.options for model in manifest.models] == [{}, {"opset": 17}, {"opset": 17}, None]


def test_verify_reports_differences_from_the_manifest(exported, tmp_path):
    shutil.copytree(exported("bert"), tmp_path / "tiny" / "bert")
    file = tmp_path / "tiny" / "bert" / "model.onnx"
    known = optimum_cli("htp", "info", file, "--json").stdout
    commit = json.loads(known)["files"][0]["record"]["hub_sha"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    content = {
        "optimum_htp_manifest": 1,
        "folder": ".",
        "versions": {},
        "models": [
            {
                "model": "tiny/bert",
                "output": "tiny/bert",
                "task": "text-classification",
                "commit": commit,
                "files": [{"name": "model.onnx", "size": file.stat().st_size, "sha256": digest}],
            }
        ],
    }
    manifest = tmp_path / "manifest.json"

    def verify(change):
        changed = json.loads(json.dumps(content))
        change(changed["models"][0])
        manifest.write_text(json.dumps(changed))
        return optimum_cli("htp", "verify", manifest, check=False)

    assert verify(lambda model: None).returncode == 0
    done = verify(lambda model: model["files"][0].update(sha256="0" * 64))
    assert (done.returncode, done.stderr.count("the manifest lists 000000")) == (1, 1)
    done = verify(lambda model: model["files"][0].update(size=3))
    assert (done.returncode, "the manifest lists 3." in done.stderr) == (1, True)
    done = verify(lambda model: model.update(commit="1" * 40))
    assert (done.returncode, f"It is from {commit}" in done.stderr) == (1, True)
    done = verify(lambda model: model["files"][0].update(name="gone.onnx"))
    assert (done.returncode, "cannot be read" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (lambda content: content.clear(), "not a manifest"),
        (lambda content: content.update(optimum_htp_manifest=2), "version 2"),
        (lambda content: content.update(folder="/etc"), "not relative"),
        (lambda content: content["models"][0].update(output="../up"), "leads out"),
        (lambda content: content["models"][0]["files"][0].update(name="/etc/passwd"), "leads out"),
        (lambda content: content["models"][0]["files"][0].update(size=-1), "size or sha256"),
        (lambda content: content["models"][0]["files"][0].update(sha256="A" * 64), "size or sha256"),
        (lambda content: content["models"][0].update(commit="main"), "commit"),
        (
            lambda content: content["models"][0].update(options={"trust_remote_code": True}),
            "only the command line of a batch",
        ),
        (lambda content: content["models"][0].update(options={"token": "x"}), "only the command line of a batch"),
        (lambda content: content["models"].append(content["models"][0]), "two models in one folder"),
        (lambda content: content["models"].append({**content["models"][0], "output": "./ORG//name"}), "in one folder"),
        (lambda content: content["models"][0].update(output="x.onnx"), "leave out .onnx"),
    ],
)
def test_invalid_manifest_is_rejected_with_a_reason(tmp_path, change, reported):
    file = {"name": "model.onnx", "size": 1, "sha256": "0" * 64}
    model = {"model": "org/name", "output": "org/name", "task": "x", "commit": "0" * 40, "files": [file]}
    content = {"optimum_htp_manifest": 1, "folder": ".", "versions": {}, "models": [model]}
    change(content)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ManifestError, match=reported):
        read_manifest(path)
    path.write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="cannot be read as a manifest"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        (("list", "-o", "out", "--collection", "a/b"), "one of LIST"),
        (("-o", "out"), "one of LIST"),
        (("--collection", "a/b", "--author", "c", "-o", "out"), "not allowed with"),
        (("list", "-o", "out", "--filter", "x"), "require --author"),
        (("--author", "shelf", "--limit", "0", "-o", "out"), "--limit: 0 is less than 1"),
        (("--collection", "a/b"), "missing: -o/--output"),
        (("--from-manifest", "none.json", "-o", "out"), "cannot be read as a manifest"),
    ],
)
def test_arguments_that_contradict_each_other_are_named(arguments, reported):
    done = optimum_cli("htp", "batch", *arguments, check=False)
    assert done.returncode in (1, 2)
    assert reported in done.stderr
    assert "Traceback" not in done.stderr
