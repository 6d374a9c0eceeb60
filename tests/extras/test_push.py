"""Pushed files: one commit with a card, loaded again by name, by file and by URL; and pushes that are refused."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest
from huggingface_hub import ModelCard
from optimum.onnxruntime import (
    ORTDiffusionPipeline,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    ORTQuantizer,
)
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from optimum_htp import HTPExporter, OptimumONNXModel
from optimum_htp.errors import (
    AccessDeniedError,
    ArgumentError,
    HubServerError,
    InvalidOnnxFileError,
    MetadataError,
    MissingSiblingError,
    ModelBeingReplacedError,
    OfflineError,
    PushError,
)
from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.extras.push.command import PushDestination
from optimum_htp.extras.push.pushing import PushResult, push
from optimum_htp.hubs import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import rewrite_model
from tests.conftest import optimum_cli, run
from tests.extras.test_batch import CLI

WRITER, READER = "hf_writesAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "hf_readsBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB"


@pytest.fixture
def org(hub):
    hub.writers = {WRITER: {"me"}}
    hub.tokens = {WRITER: set(), READER: set()}
    hub.stored = {}
    yield hub
    for name in [name for name in hub.repos if name.startswith("me/")]:
        del hub.repos[name]


@pytest.fixture
def access(tmp_path):
    return HubAccess(token=WRITER, cache_dir=tmp_path / "cache")


@pytest.fixture
def bert(exported):
    return exported("bert") / "model.onnx"


def pushed_files(hub, repo_id="me/model", ref="main"):
    repo = hub.repos[repo_id]
    return {name: body for name, body in repo.commits[repo.refs[ref]].items() if name != ".gitattributes"}


def test_files_and_card_are_one_commit_that_loads(org, bert, access, tmp_path):
    with org.recorded() as requests:
        done = push([bert.parent], "me/model", access=access)
    assert done.files == ("README.md", "model.onnx")
    assert done.commit == org.repos["me/model"].refs["main"]
    assert len([one for one in requests if "/commit/" in one.path]) == 1
    assert pushed_files(org)["model.onnx"] == bert.read_bytes()  # went through the store of large files
    cache = {"cache_dir": tmp_path / "fresh"}
    for where, more in (("me/model", {}), ("me/model", {"file_name": "model.onnx"}), ("hf://me/model", {})):
        model = OptimumONNXModel.from_pretrained(where, **cache, **more)
        assert type(model) is ORTModelForSequenceClassification
        assert model.preprocessors[0]("the cat").input_ids
    shown = json.loads(optimum_cli("htp", "info", "hf://me/model/model.onnx", "--json").stdout)
    assert shown["files"][0]["record"]["hub_id"] == "tiny/bert"


def test_card_says_what_the_files_are(org, bert, access):
    push([bert.parent], "me/model", access=access)
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


def test_card_that_is_there_is_completed(org, bert, access):
    org.add("me/model", {"README.md": b"---\nlicense: apache-2.0\ntags:\n- mine\n---\n\n# My words\n\nStay.\n"})
    assert [push([bert], "me/model", access=access).changed for _ in range(2)] == [True, False]
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["mine", "onnx"]
    assert card.data.base_model == "tiny/bert"
    assert card.text.count("# My words\n\nStay.") == card.text.count("## Files") == 1
    assert len(org.repos["me/model"].commits) == 2  # the second push had nothing to say


def test_card_after_a_push_of_another_model_is_of_what_is_there(org, bert, exported, access, tmp_path):
    push([bert.parent], "me/model", access=access)
    push([exported("vit")], "me/model", access=access)  # over the first
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert (card.data.base_model, card.data.pipeline_tag) == ("tiny/vit", "image-classification")
    other = Path(shutil.copy(bert, tmp_path / "b.onnx"))
    push([other], "me/model", access=access)  # beside it
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.base_model == ["tiny/vit", "tiny/bert"]
    assert card.data.pipeline_tag is None
    assert re.findall(r"^\| (\S+\.onnx) ", card.text, re.MULTILINE) == ["b.onnx", "model.onnx"]
    assert 'AutoTokenizer.from_pretrained("hf://me/model/b.onnx")' in card.text  # the repo alone would be ambiguous
    body = pushed_files(org)["README.md"].decode().replace("- tiny/bert", "- mine/model")
    org.repos["me/model"].commit({**pushed_files(org), "README.md": body.encode()})
    push([exported("bert")], "me/model", access=access)
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.base_model == ["tiny/vit", "mine/model"]  # what somebody has written stays
    left = {name: content for name, content in pushed_files(org).items() if name != "b.onnx"}
    org.repos["me/model"].commit(left)
    push([exported("vit")], "me/model", access=access)
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert re.findall(r"^\| (\S+\.onnx) ", card.text, re.MULTILINE) == ["model.onnx"]


@pytest.mark.parametrize("earlier", [False, True])
def test_card_after_several_pushes_loads_what_each_has_pushed(org, bert, exported, access, tmp_path, earlier):
    """Into other folders and under other names; an earlier version has noted less of its files."""
    push([bert], "me/model", access=access)
    (tmp_path / "more" / "sub").mkdir(parents=True)
    shutil.copy(exported("vit") / "model.onnx", tmp_path / "more" / "sub")
    shutil.copytree(exported("t5"), tmp_path / "more" / "t5")
    for folder in (tmp_path / "more", bert.parent):
        files = pushed_files(org)
        if earlier:
            card = re.sub(
                r"(?<=<!-- optimum-htp: files )(.*)(?= -->)",
                lambda found: json.dumps({name: told[:4] for name, told in json.loads(found[1]).items()}),
                files["README.md"].decode().replace("# t5/decoder_model", r"# t5/decoder\_model"),
            )
            org.repos["me/model"].commit({**files, "README.md": card.replace("# model", "# My words", 1).encode()})
        push([folder], "me/model", access=access)
    card = pushed_files(org)["README.md"].decode()
    assert card.startswith("# My words", card.index("# ")) is earlier
    code = card.partition("```python\n")[2].partition("```")[0]
    found = {}
    for part in code.split("\n\n# "):
        exec(f"# {part}", made := {})
        found |= {part.partition("\n")[0].removeprefix("# "): type(made["model"]).__name__}
        assert made["tokenizer" if "Tokenizer" in part else "imageprocessor"]
    assert found == {
        "model.onnx": "ORTModelForSequenceClassification",
        "sub/model.onnx": "ORTModelForImageClassification",
        "t5/decoder_model.onnx": "ORTModelForSeq2SeqLM",
    }
    assert card.count("\nONNX export of ") == 3
    tables = re.findall(r"^## Modules of (\S+)\n\n\| module ", card, re.MULTILINE)
    assert sorted(tables) == sorted(re.findall(r"^\| (\S+\.onnx) ", card, re.MULTILINE))  # one table for each file


def test_license_of_one_model_is_not_that_of_another(org, bert, exported, access, tmp_path):
    other = Path(shutil.copy(exported("vit") / "model.onnx", tmp_path / "vit.onnx"))
    rewrite_model(other, drop=lambda key: key == "hf_license")
    push([bert, other], "me/two", access=access)
    assert ModelCard(pushed_files(org, "me/two")["README.md"].decode()).data.license is None


def test_code_of_the_card_loads_each_model(org, bert, exported, access, tmp_path, monkeypatch):
    other = Path(shutil.copy(exported("vit") / "model.onnx", tmp_path / "vit.onnx"))
    push([bert, other], "me/two", access=access)
    text = pushed_files(org, "me/two")["README.md"].decode()
    code = text.partition("```python\n")[2].partition("```")[0]
    found = {}
    exec(code, found)
    assert {re.sub("(Fast|Pil)$", "", type(value).__name__) for value in found.values()} >= {
        "ORTModelForImageClassification",
        "BertTokenizer",
        "ViTImageProcessor",
    }
    assert "ORTModelForSequenceClassification" in code


@pytest.mark.parametrize(
    ("changed", "said"), [(True, "Pushed 1 files to me/m: there"), (False, "Nothing to push: me/m has these 1 files")]
)
def test_push_that_changes_nothing_says_so(changed, said):
    done = PushResult("me/m", "0" * 40, "there", ("model.onnx",), changed)
    assert PushDestination().lines(dataclasses.asdict(done))[0].startswith(said)


def test_card_that_nobody_can_read_is_left_alone(org, bert, access):
    repo = org.add("me/model", {"README.md": b"---\nlicense: [\n---\nwords\n"})
    with pytest.raises(PushError, match=r"README.md cannot be read"):
        push([bert], "me/model", access=access)
    assert len(repo.commits) == 1


def test_texts_of_a_file_are_no_markdown(org, bert, access, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_model_class": "<img src=x>[a](http://evil)"})
    push([path], "me/model", access=access)
    text = pushed_files(org)["README.md"].decode()
    assert "<img" not in text
    assert "](http://evil" not in text


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("token", [READER, False])
def test_token_that_may_not_write_pushes_nothing(org, bert, tmp_path, there, token):
    if there:
        org.add("me/model", {"model.onnx": b"old"})
    with pytest.raises(AccessDeniedError, match=r"Nothing was pushed to me/model: this token may not write there"):
        push([bert], "me/model", access=HubAccess(token=token, cache_dir=tmp_path))
    assert org.stored == {}
    assert not there or len(org.repos["me/model"].commits) == 1
    assert there or "me/model" not in org.repos


def test_repo_that_was_created_for_files_that_are_refused_is_taken_back(org, bert, access):
    def refuse(method, path, status, body, headers):
        return (400, b'{"error": "no"}', {}) if "/preupload/" in path else (status, body, headers)

    org.tamper = refuse
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/fresh", access=access)
    assert "me/fresh" not in org.repos
    org.add("me/there", {"notes.txt": b"mine"})
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/there", access=access)
    assert pushed_files(org, "me/there") == {"notes.txt": b"mine"}


def test_repo_into_which_somebody_wrote_meanwhile_is_left(org, bert, access, caplog):
    def write_and_refuse(method, path, status, body, headers):
        if "/preupload/" not in path:
            return status, body, headers
        org.repos["me/fresh"].commit({"theirs.txt": b"theirs"})
        return 400, b'{"error": "no"}', {}

    org.tamper = write_and_refuse
    with pytest.raises(PushError, match="Nothing was pushed"):
        push([bert], "me/fresh", access=access)
    assert pushed_files(org, "me/fresh") == {"theirs.txt": b"theirs"}
    assert "is left there without the files" in caplog.text


def test_pull_request_leaves_main_alone(org, bert, tmp_path):
    org.add("me/model", {"README.md": b"---\nlicense: mit\n---\n"})
    org.proposers = {READER}
    done = push([bert], "me/model", create_pr=True, access=HubAccess(token=READER, cache_dir=tmp_path))
    assert done.url.endswith("/discussions/1")
    assert list(pushed_files(org)) == ["README.md"]
    assert set(pushed_files(org, ref="refs/pr/1")) == {"README.md", "model.onnx"}
    assert OptimumONNXModel.from_pretrained("me/model", revision="refs/pr/1", cache_dir=tmp_path / "fresh")


def test_repo_that_changes_meanwhile_is_not_written_to(org, bert, access):
    repo = org.add("me/model", {"a": b"1"})

    def write(method, path):
        if "/preupload/" in path and len(repo.commits) == 1:
            repo.commit({"a": b"2"})

    org.before_answer = write
    with pytest.raises(PushError, match=r"somebody has written there meanwhile"):
        push([bert], "me/model", access=access)
    assert list(pushed_files(org)) == ["a"]


def test_upload_that_fails_leaves_the_repo_as_it_was(org, bert, access):
    repo = org.add("me/model", {"a": b"1"})

    def refuse(method, path, status, body, headers):
        return (403, b"", headers) if path.startswith("/lfs-store") else (status, body, headers)

    org.tamper = refuse
    with pytest.raises(AccessDeniedError):
        push([bert], "me/model", access=access)
    assert len(repo.commits) == 1


def test_hub_in_trouble_is_told(org, bert, access):
    org.status = 500
    with pytest.raises(HubServerError, match="500"):
        push([bert], "me/model", access=access)


def test_card_that_the_hub_refuses_is_told(org, bert, access):
    org.add("me/model", {"README.md": b"---\nlicense:\n- mit\n---\n"})
    with pytest.raises(PushError, match=r"Invalid metadata in README.md. - \"license\" must be a string") as caught:
        push([bert], "me/model", access=access)
    assert str(caught.value).count("Nothing was pushed") == 1


def test_parts_of_a_model_go_together(org, exported, access, tmp_path):
    folder = shutil.copytree(exported("t5"), tmp_path / "t5")
    (folder / "encoder_model.onnx").rename(folder / "renamed.onnx")
    (folder / "secret.env").write_text("HF_TOKEN=1")
    push([folder / "decoder_model.onnx"], "me/model", access=access)
    assert set(pushed_files(org)) == {"README.md", *read_record(folder / "renamed.onnx").onnx_files}
    model = ORTModelForSeq2SeqLM.from_pretrained("me/model", cache_dir=tmp_path / "fresh")
    assert model.generate(**model.preprocessors[0]("the cat", return_tensors="pt"), max_new_tokens=3).shape[0] == 1
    (folder / "renamed.onnx").unlink()
    with pytest.raises(MissingSiblingError, match="encoder_model"):
        push([folder], "me/model", access=access)


@pytest.mark.slow
def test_pipeline_of_several_folders_goes_as_it_lies(org, model_folder, access, tmp_path):
    pytest.importorskip("diffusers")
    org.add("tiny/diffusion", model_folder("stable_diffusion"), pipeline_tag="text-to-image", library_name="diffusers")
    HTPExporter().export("tiny/diffusion", tmp_path / "out")
    push([tmp_path / "out"], "me/model", access=access)
    assert "unet/model.onnx" in pushed_files(org)
    assert ORTDiffusionPipeline.from_pretrained("me/model", cache_dir=tmp_path / "fresh").unet is not None


def test_external_data_goes_along_and_nothing_outside_the_folder(org, bert, access, tmp_path):
    model = onnx.load(bert)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    push([tmp_path / "model.onnx"], "me/model", layout="transformers.js", access=access)
    assert "onnx/weights" in pushed_files(org)
    (tmp_path / "model.onnx").rename(tmp_path / "other.onnx")
    push([tmp_path / "other.onnx"], "me/renamed", layout="transformers.js", access=access)
    assert {"onnx/model.onnx", "onnx/model.onnx_data"} <= set(pushed_files(org, "me/renamed"))
    for repo_id in ("me/model", "me/renamed"):
        named = {"cache_dir": tmp_path / "fresh", "subfolder": "onnx"}
        if repo_id == "me/renamed":  # Optimum fetches data of this name only
            assert ORTModelForSequenceClassification.from_pretrained(repo_id, **named).config.num_labels == 3
    evil = onnx.load(tmp_path / "other.onnx", load_external_data=False)
    for item in evil.graph.initializer[0].external_data:
        if item.key == "location":
            item.value = "../secret"
    (tmp_path / "evil").mkdir()
    (tmp_path / "secret").write_text("token")
    (tmp_path / "evil" / "model.onnx").write_bytes(evil.SerializeToString())
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        push([tmp_path / "evil"], "me/evil", access=access)
    assert "me/evil" not in org.repos


@pytest.mark.parametrize("name", ["vocab.txt", "README.md"])
def test_link_to_another_folder_is_not_published(org, bert, access, tmp_path, name):
    """Folders that others made (clones, archives) may have links to anything."""
    folder, cached = tmp_path / "out", tmp_path / "cached"
    for place in (folder, cached):
        place.mkdir()
    shutil.copy(bert, folder)
    (tmp_path / "secret").write_text("secret")
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ArgumentError, match=rf"{name} is a link that leads out"):
        push([folder], "me/model", access=access)
    assert "me/model" not in org.repos
    for path in (bert, tmp_path / "secret"):  # as in the Hub's cache
        (tmp_path / "blobs").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "blobs")
    (cached / "model.onnx").symlink_to(tmp_path / "blobs" / "model.onnx")
    (cached / name).symlink_to(tmp_path / "blobs" / "secret")
    assert name in push([cached], "me/model", access=access).files


def test_endpoint_takes_no_link_to_another_folder_along(bert, model_folder, tmp_path):
    (tmp_path / "out").mkdir()
    shutil.copy(bert, tmp_path / "out")
    (tmp_path / "out" / "config.json").symlink_to(model_folder("bert") / "config.json")
    with pytest.raises(ArgumentError, match=r"config\.json is a link that leads out"):
        write_endpoint(tmp_path / "out", tmp_path / "endpoint")
    assert not (tmp_path / "endpoint").exists()


def test_layout_of_transformers_js(org, bert, access, tmp_path):
    quantizer = ORTQuantizer.from_pretrained(bert.parent)
    quantizer.quantize(AutoQuantizationConfig.avx2(is_static=False, per_channel=False), save_dir=tmp_path / "q")
    shutil.copy(tmp_path / "q" / "model_quantized.onnx", tmp_path / "small.onnx")
    push([bert, tmp_path / "small.onnx"], "me/model", layout="transformers.js", access=access)
    files = pushed_files(org)
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "config.json", "tokenizer.json"} <= set(files)
    assert ModelCard(files["README.md"].decode()).data.tags == ["onnx", "transformers.js"]
    cache = {"cache_dir": tmp_path / "fresh"}
    for name in ("model.onnx", "model_quantized.onnx"):
        model = ORTModelForSequenceClassification.from_pretrained(
            "me/model", subfolder="onnx", file_name=name, **cache
        )
        assert model.config.id2label[0] == "LABEL 0"
    with pytest.raises(ArgumentError, match=r"would both be onnx/model.onnx"):
        push([bert, shutil.copy(bert, tmp_path / "twin.onnx")], "me/two", layout="transformers.js", access=access)


def test_model_of_ours_keeps_its_record_when_optimum_pushes_it(org, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", WRITER)
    model = ORTModelForSequenceClassification.from_pretrained(bert)
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repository_id="me/model")
    model.push_to_hub(str(tmp_path / "saved"), "me/again")
    for repo_id in ("me/model", "me/again"):
        assert pushed_files(org, repo_id)["model.onnx"] == bert.read_bytes()
        loaded = ORTModelForSequenceClassification.from_pretrained(repo_id, cache_dir=tmp_path / "fresh")
        assert loaded.config.id2label[0] == "LABEL 0"


def test_private_model_does_not_become_public(org, bert, access, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_private": "true"})
    push([path], "me/model", access=access)
    push([bert], "me/open", access=access)
    assert org.repos["me/model"].private
    assert not org.repos["me/open"].private


def test_gated_model_goes_into_a_private_repo_unless_it_is_said(org, bert, access, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_gated": "true"})
    push([path], "me/model", access=access)
    assert org.repos["me/model"].private
    push([path], "me/open", private=False, access=access)
    assert not org.repos["me/open"].private
    for option, private in (("--public", False), ("--private", True)):
        optimum_cli("htp", "push", path, f"me/model-{option[2:]}", option, HF_TOKEN=WRITER)
        assert org.repos[f"me/model-{option[2:]}"].private is private
    both = optimum_cli("htp", "push", path, "me/both", "--public", "--private", check=False)
    assert both.returncode == 2


def test_only_unchanged_files_of_an_endpoint_are_pushed(org, bert, access, tmp_path, caplog):
    from optimum_htp.extras.endpoint.folder import write_endpoint

    folder = tmp_path / "endpoint"
    write_endpoint(bert, folder)
    ours = {name: (folder / name).read_bytes() for name in ("handler.py", "requirements.txt")}
    assert set(ours) <= set(push([folder], "me/model", access=access).files)
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
        files = push([folder], f"me/changed-{number}", access=access).files
        assert not set(ours) & set(files), content
        assert name in caplog.text.partition("Not pushed: ")[2]
        (folder / name).write_bytes(ours[name])


def test_what_cannot_be_pushed_is_told_before_the_hub_is_asked(org, plain_bert, bert, access, tmp_path, monkeypatch):
    with org.recorded() as requests:
        with pytest.raises(MetadataError, match="does not say which model"):
            push([plain_bert], "me/model", access=access)
        with pytest.raises(ArgumentError, match="layout='x' is not known"):
            push([bert], "me/model", layout="x", access=access)
        switched = tmp_path / "switched"
        shutil.copytree(bert.parent, switched)
        (switched / ".optimum-htp.switch").mkdir()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OfflineError, match="Nothing was pushed"):
            push([bert], "me/model", access=access)
        monkeypatch.undo()
    assert requests == []
    with pytest.raises(ModelBeingReplacedError):
        push([switched], "me/model", access=access)
    assert "me/model" not in org.repos


@pytest.mark.slow
@pytest.mark.slow
def test_batch_pushes_each_model_to_a_repo_of_its_own(org, published, tmp_path, empty_home):
    names = [published(name).repo_id for name in ("bert", "gpt2")]
    (tmp_path / "models.txt").write_text("\n".join(names))
    env = {**empty_home, "HF_TOKEN": READER}
    command = [CLI, "htp", "batch", tmp_path / "models.txt", tmp_path / "out", "--json", "--push-to-hub", "me"]
    refused = run(*command, check=False, **env)
    assert refused.returncode == 1
    told = json.loads(refused.stdout)["models"]
    assert {model["error"] for model in told} == {"AccessDeniedError"}
    assert all("exported, and not pushed" in model["message"] for model in told)
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
