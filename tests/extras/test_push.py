"""Pushes are one commit that loads, and are refused if they would lose or publish something."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from optimum.onnxruntime import (
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
)

from optimum_htp import OptimumONNXModel
from optimum_htp.errors import (
    AccessDeniedError,
    ArgumentError,
    HubServerError,
    MetadataError,
    MissingSiblingError,
    ModelBeingReplacedError,
    OfflineError,
    PushError,
)
from optimum_htp.extras.push.pushing import push
from optimum_htp.hubs import HubAccess
from optimum_htp.metadata import read_record
from tests.conftest import optimum_cli, run
from tests.support.batches import CLI
from tests.support.pushes import READER, WRITER, pushed_files


def test_files_and_card_are_one_commit_that_loads(org, bert, writer, tmp_path):
    with org.recorded() as requests:
        done = push([bert.parent], "me/model", access=writer)
    assert done.files == ("README.md", "model.onnx")
    assert done.commit == org.repos["me/model"].refs["main"]
    assert len([one for one in requests if "/commit/" in one.path]) == 1
    assert pushed_files(org)["model.onnx"] == bert.read_bytes()  # through the storage of large files
    cache = {"cache_dir": tmp_path / "fresh"}
    for where, more in (("me/model", {}), ("me/model", {"file_name": "model.onnx"}), ("hf://me/model", {})):
        model = OptimumONNXModel.from_pretrained(where, **cache, **more)
        assert type(model) is ORTModelForSequenceClassification
        assert model.preprocessors[0]("the cat").input_ids
    shown = json.loads(optimum_cli("htp", "info", "hf://me/model/model.onnx", "--json").stdout)
    assert shown["files"][0]["record"]["hub_id"] == "tiny/bert"


def test_card_describes_the_files(org, bert, writer):
    push([bert.parent], "me/model", access=writer)
    card = ModelCard(pushed_files(org)["README.md"].decode())
    record = read_record(bert)
    assert card.data.to_dict() == {
        "base_model": "tiny/bert",
        "library_name": "optimum",
        "license": "mit",
        "pipeline_tag": "text-classification",
        "tags": ["onnx"],
    }
    for text in (
        f"at commit `{record.hub_sha}`",
        'ORTModelForSequenceClassification.from_pretrained("me/model")',
        'AutoTokenizer.from_pretrained("me/model")',
        "| model.onnx | text-classification | ai.onnx 18 |",
        "| `bert.encoder` | BertEncoder |",
        "100%",
    ):
        assert text in card.text


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("token", [READER, False])
def test_token_that_may_not_write_pushes_nothing(org, bert, tmp_path, there, token):
    if there:
        org.add("me/model", {"model.onnx": b"old"})
    with pytest.raises(AccessDeniedError, match=r"Nothing was pushed to me/model: the token has no write access"):
        push([bert], "me/model", access=HubAccess(token=token, cache_dir=tmp_path))
    assert org.stored == {}
    assert not there or len(org.repos["me/model"].commits) == 1
    assert there or "me/model" not in org.repos


def test_new_repo_is_deleted_if_the_commit_is_rejected(org, bert, writer):
    def refuse(method, path, status, body, headers):
        return (400, b'{"error": "no"}', {}) if "/preupload/" in path else (status, body, headers)

    org.tamper = refuse
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/fresh", access=writer)
    assert "me/fresh" not in org.repos
    org.add("me/there", {"notes.txt": b"mine"})
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/there", access=writer)
    assert pushed_files(org, "me/there") == {"notes.txt": b"mine"}


def test_repo_with_a_file_of_another_user_is_kept(org, bert, writer, caplog):
    def write_and_refuse(method, path, status, body, headers):
        if "/preupload/" not in path:
            return status, body, headers
        org.repos["me/fresh"].commit({"theirs.txt": b"theirs"})
        return 400, b'{"error": "no"}', {}

    org.tamper = write_and_refuse
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/fresh", access=writer)
    assert pushed_files(org, "me/fresh") == {"theirs.txt": b"theirs"}
    assert "remains without the files" in caplog.text


def test_pull_request_leaves_main_alone(org, bert, tmp_path):
    org.add("me/model", {"README.md": b"---\nlicense: mit\n---\n"})
    org.proposers = {READER}
    done = push([bert], "me/model", create_pr=True, access=HubAccess(token=READER, cache_dir=tmp_path))
    assert done.url.endswith("/discussions/1")
    assert list(pushed_files(org)) == ["README.md"]
    assert set(pushed_files(org, ref="refs/pr/1")) == {"README.md", "model.onnx"}
    assert OptimumONNXModel.from_pretrained("me/model", revision="refs/pr/1", cache_dir=tmp_path / "fresh")


def test_repo_that_changes_meanwhile_is_not_written_to(org, bert, writer):
    repo = org.add("me/model", {"a": b"1"})

    def write(method, path):
        if "/preupload/" in path and len(repo.commits) == 1:
            repo.commit({"a": b"2"})

    org.before_answer = write
    with pytest.raises(PushError, match=r"the repo has changed during the push"):
        push([bert], "me/model", access=writer)
    assert list(pushed_files(org)) == ["a"]


def test_upload_that_fails_leaves_the_repo_as_it_was(org, bert, writer):
    repo = org.add("me/model", {"a": b"1"})

    def refuse(method, path, status, body, headers):
        return (403, b"", headers) if path.startswith("/lfs-store") else (status, body, headers)

    org.tamper = refuse
    with pytest.raises(AccessDeniedError):
        push([bert], "me/model", access=writer)
    assert len(repo.commits) == 1


def test_server_error_of_the_hub_is_reported(org, bert, writer):
    org.status = 500
    with pytest.raises(HubServerError, match="500"):
        push([bert], "me/model", access=writer)


def test_card_that_the_hub_rejects_is_reported(org, bert, writer):
    org.add("me/model", {"README.md": b"---\nlicense:\n- mit\n---\n"})
    with pytest.raises(PushError, match=r"Invalid metadata in README.md. - \"license\" must be a string") as caught:
        push([bert], "me/model", access=writer)
    assert str(caught.value).count("Nothing was pushed") == 1


def test_parts_of_a_model_go_together(org, exported, writer, tmp_path):
    folder = shutil.copytree(exported("t5"), tmp_path / "t5")
    (folder / "encoder_model.onnx").rename(folder / "renamed.onnx")
    (folder / "secret.env").write_text("HF_TOKEN=1")
    push([folder / "decoder_model.onnx"], "me/model", access=writer)
    assert set(pushed_files(org)) == {"README.md", *read_record(folder / "renamed.onnx").onnx_files}
    model = ORTModelForSeq2SeqLM.from_pretrained("me/model", cache_dir=tmp_path / "fresh")
    assert model.generate(**model.preprocessors[0]("the cat", return_tensors="pt"), max_new_tokens=3).shape[0] == 1
    (folder / "renamed.onnx").unlink()
    with pytest.raises(MissingSiblingError, match="encoder_model"):
        push([folder], "me/model", access=writer)


def test_model_of_ours_keeps_its_record_when_optimum_pushes_it(org, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    model = ORTModelForSequenceClassification.from_pretrained(bert)
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repository_id="me/model")
    model.push_to_hub(str(tmp_path / "saved"), "me/again")
    for repo_id in ("me/model", "me/again"):
        assert pushed_files(org, repo_id)["model.onnx"] == bert.read_bytes()
        loaded = ORTModelForSequenceClassification.from_pretrained(repo_id, cache_dir=tmp_path / "fresh")
        assert loaded.config.id2label[0] == "LABEL 0"


def test_private_model_does_not_become_public(org, bert, writer, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_private": "true"})
    push([path], "me/model", access=writer)
    push([bert], "me/open", access=writer)
    assert org.repos["me/model"].private
    assert not org.repos["me/open"].private


def test_gated_model_is_pushed_to_a_private_repo_by_default(org, bert, writer, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_gated": "true"})
    push([path], "me/model", access=writer)
    assert org.repos["me/model"].private
    push([path], "me/open", private=False, access=writer)
    assert not org.repos["me/open"].private
    for option, private in (("--public", False), ("--private", True)):
        optimum_cli("htp", "push", path, f"me/model-{option[2:]}", option, HF_TOKEN=WRITER)
        assert org.repos[f"me/model-{option[2:]}"].private is private
    both = optimum_cli("htp", "push", path, "me/both", "--public", "--private", check=False)
    assert both.returncode == 2


def test_only_unchanged_files_of_an_endpoint_are_pushed(org, bert, writer, tmp_path, caplog):
    from optimum_htp.extras.endpoint.folder import write_endpoint

    folder = tmp_path / "endpoint"
    write_endpoint(bert, folder)
    ours = {name: (folder / name).read_bytes() for name in ("handler.py", "requirements.txt")}
    assert set(ours) <= set(push([folder], "me/model", access=writer).files)
    assert "Not pushed" not in caplog.text
    settings = ours["handler.py"].replace(b"'text-classification'", b"'hf_secretAAAA'")
    assert settings != ours["handler.py"]
    changes = [
        ("handler.py", ours["handler.py"] + b"TOKEN = 'hf_secret'\n"),
        ("handler.py", b"# hf_secret\n" + ours["handler.py"]),
        ("handler.py", b"# SETTINGS: dict[str, Any] = {}\nTOKEN = 'hf_secret'\n"),
        ("handler.py", settings),
        ("handler.py", b""),
        ("handler.py", b"\xff"),
        ("requirements.txt", ours["requirements.txt"] + b"--extra-index-url https://me:secret@example.org/\n"),
        ("requirements.txt", ours["requirements.txt"] + b"# hf_secret\n"),
        ("requirements.txt", ours["requirements.txt"].replace(b"\n", b" # hf_secret\n", 1)),
        ("requirements.txt", b"# What the handler was made with\nmine\n"),
        ("requirements.txt", b""),
    ]
    for number, (name, content) in enumerate(changes):
        (folder / name).write_bytes(content)
        caplog.clear()
        files = push([folder], f"me/changed-{number}", access=writer).files
        assert not set(ours) & set(files), content
        assert name in caplog.text.partition("Not pushed: ")[2]
        (folder / name).write_bytes(ours[name])


def test_invalid_files_are_rejected_before_a_request(org, plain_bert, bert, writer, tmp_path, monkeypatch):
    with org.recorded() as requests:
        with pytest.raises(MetadataError, match="has no record of its model"):
            push([plain_bert], "me/model", access=writer)
        with pytest.raises(ArgumentError, match="layout='x' is unknown"):
            push([bert], "me/model", layout="x", access=writer)
        switched = tmp_path / "switched"
        shutil.copytree(bert.parent, switched)
        (switched / ".optimum-htp.switch").mkdir()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OfflineError, match="Nothing was pushed"):
            push([bert], "me/model", access=writer)
        monkeypatch.undo()
    assert requests == []
    with pytest.raises(ModelBeingReplacedError):
        push([switched], "me/model", access=writer)
    assert "me/model" not in org.repos


@pytest.mark.slow
@pytest.mark.slow
def test_batch_pushes_each_model_to_a_repo_of_its_own(org, published, tmp_path, empty_home):
    names = [published(name).repo_id for name in ("bert", "gpt2")]
    (tmp_path / "models.txt").write_text("\n".join(names))
    env = {**empty_home, "HF_TOKEN": READER}
    command = [CLI, "htp", "batch", tmp_path / "models.txt", "-o", tmp_path / "out", "--json", "--push-to-hub", "me"]
    refused = run(*command, check=False, **env)
    assert refused.returncode == 1
    reported = json.loads(refused.stdout)["models"]
    assert {model["error"] for model in reported} == {"AccessDeniedError"}
    assert all("exported, but not pushed" in model["message"] for model in reported)
    assert not [name for name in org.repos if name.startswith("me/")]

    done = run(*command, **{**env, "HF_TOKEN": WRITER})
    assert {model["state"] for model in json.loads(done.stdout)["models"]} == {"up_to_date"}
    assert {"me/bert-onnx", "me/gpt2-onnx"} <= org.repos.keys()
    assert {"README.md", "model.onnx"} <= pushed_files(org, "me/bert-onnx").keys()
    with org.recorded() as requests:
        run(*command, **{**env, "HF_TOKEN": WRITER})
    assert not [request for request in requests if request.method in ("POST", "PUT")]

    same = run(*command[:-1], "me/{org}", check=False, **env)
    assert "Two models would be pushed to me/tiny" in same.stdout + same.stderr


@pytest.mark.slow
def test_commands_push_what_they_write(org, published, plain_bert, tmp_path, empty_home):
    published("bert")
    env = {**empty_home, "HF_TOKEN": WRITER, "OPTIMUM_HTP_DEBUG": "1"}
    done = optimum_cli(
        *("export", "htp", "--model", "tiny/bert", "--push-to-hub", "me/exported", "--private", "--json"),
        *("--", tmp_path / "out"),
        **env,
    )
    assert json.loads(done.stdout)["push"]["files"] == ["README.md", "model.onnx"]
    assert org.repos["me/exported"].private
    said = done.stderr
    done = optimum_cli(
        "htp", "inject", plain_bert, "--model", "tiny/bert", "--push-to-hub", "me/injected", "--json", **env
    )
    assert json.loads(done.stdout)["push"]["repo_id"] == "me/injected"
    assert "bert.onnx" in pushed_files(org, "me/injected")
    done = optimum_cli("htp", "push", tmp_path / "out", "pushed", "--create-pr", **env)
    assert "Pushed 2 files to me/pushed: " in done.stdout
    refused = optimum_cli(
        "htp", "push", tmp_path / "out", "me/exported", "--json", check=False, **{**env, "HF_TOKEN": READER}
    )
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["error"] == "AccessDeniedError"
    said += done.stderr + refused.stderr + refused.stdout
    assert WRITER not in said
    assert READER not in said
    assert "Traceback" not in refused.stdout
    everywhere = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(token.encode() in path.read_bytes() for path in everywhere for token in (WRITER, READER))
