"""The model card of a push describes the repo's files and how to load them."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from optimum_htp.errors import (
    PushError,
)
from optimum_htp.extras.push.command import PushDestination
from optimum_htp.extras.push.pushing import push
from optimum_htp.extras.push.writing import PushResult
from optimum_htp.onnxfile import rewrite_model
from tests.support.pushes import pushed_files


def test_existing_card_is_extended(org, bert, writer):
    org.add("me/model", {"README.md": b"---\nlicense: apache-2.0\ntags:\n- mine\n---\n\n# My words\n\nStay.\n"})
    assert [push([bert], "me/model", access=writer).changed for _ in range(2)] == [True, False]
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.license == "apache-2.0"
    assert card.data.tags == ["mine", "onnx"]
    assert card.data.base_model == "tiny/bert"
    assert card.text.count("# My words\n\nStay.") == card.text.count("## Files") == 1
    assert len(org.repos["me/model"].commits) == 2  # the second push changed nothing


def test_card_lists_existing_files_after_a_push_of_another_model(org, bert, exported, writer, tmp_path):
    push([bert.parent], "me/model", access=writer)
    push([exported("vit")], "me/model", access=writer)  # in place of the first
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert (card.data.base_model, card.data.pipeline_tag) == ("tiny/vit", "image-classification")
    other = Path(shutil.copy(bert, tmp_path / "b.onnx"))
    push([other], "me/model", access=writer)  # next to it
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.base_model == ["tiny/vit", "tiny/bert"]
    assert card.data.pipeline_tag is None
    assert re.findall(r"^\| (\S+\.onnx) ", card.text, re.MULTILINE) == ["b.onnx", "model.onnx"]
    assert 'AutoTokenizer.from_pretrained("hf://me/model/b.onnx")' in card.text  # the repo would be ambiguous
    body = pushed_files(org)["README.md"].decode().replace("- tiny/bert", "- mine/model")
    org.repos["me/model"].commit({**pushed_files(org), "README.md": body.encode()})
    push([exported("bert")], "me/model", access=writer)
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert card.data.base_model == ["tiny/vit", "mine/model"]  # values of other authors are kept
    left = {name: content for name, content in pushed_files(org).items() if name != "b.onnx"}
    org.repos["me/model"].commit(left)
    push([exported("vit")], "me/model", access=writer)
    card = ModelCard(pushed_files(org)["README.md"].decode())
    assert re.findall(r"^\| (\S+\.onnx) ", card.text, re.MULTILINE) == ["model.onnx"]


@pytest.mark.parametrize("earlier", [False, True])
def test_card_after_several_pushes_loads_what_each_has_pushed(org, bert, exported, writer, tmp_path, earlier):
    """To other folders and with other names; an earlier version recorded fewer facts."""
    push([bert], "me/model", access=writer)
    (tmp_path / "more" / "sub").mkdir(parents=True)
    shutil.copy(exported("vit") / "model.onnx", tmp_path / "more" / "sub")
    shutil.copytree(exported("t5"), tmp_path / "more" / "t5")
    for folder in (tmp_path / "more", bert.parent):
        files = pushed_files(org)
        if earlier:
            card = re.sub(
                r"(?<=<!-- optimum-htp: files )(.*)(?= -->)",
                lambda found: json.dumps({name: reported[:4] for name, reported in json.loads(found[1]).items()}),
                files["README.md"].decode().replace("# t5/decoder_model", r"# t5/decoder\_model"),
            )
            org.repos["me/model"].commit({**files, "README.md": card.replace("# model", "# My words", 1).encode()})
        push([folder], "me/model", access=writer)
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
    assert sorted(tables) == sorted(re.findall(r"^\| (\S+\.onnx) ", card, re.MULTILINE))  # one table per file


def test_license_of_one_model_is_not_that_of_another(org, bert, exported, writer, tmp_path):
    other = Path(shutil.copy(exported("vit") / "model.onnx", tmp_path / "vit.onnx"))
    rewrite_model(other, drop=lambda key: key == "hf_license")
    push([bert, other], "me/two", access=writer)
    assert ModelCard(pushed_files(org, "me/two")["README.md"].decode()).data.license is None


def test_code_of_the_card_loads_each_model(org, bert, exported, writer, tmp_path, monkeypatch):
    other = Path(shutil.copy(exported("vit") / "model.onnx", tmp_path / "vit.onnx"))
    push([bert, other], "me/two", access=writer)
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
    ("changed", "said"),
    [(True, "Pushed 1 file to me/m: there"), (False, "Nothing to push: me/m already contains this file")],
)
def test_push_without_changes_is_reported(changed, said):
    done = PushResult("me/m", "0" * 40, "there", ("model.onnx",), changed)
    assert PushDestination().lines(dataclasses.asdict(done))[0].startswith(said)


def test_card_that_nobody_can_read_is_left_alone(org, bert, writer):
    repo = org.add("me/model", {"README.md": b"---\nlicense: [\n---\nwords\n"})
    with pytest.raises(PushError, match=r"README.md cannot be read"):
        push([bert], "me/model", access=writer)
    assert len(repo.commits) == 1


def test_texts_of_a_file_are_no_markdown(org, bert, writer, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = Path(shutil.copy(bert, tmp_path))
    rewrite_model(path, metadata={"hf_model_class": "<img src=x>[a](http://evil)"})
    push([path], "me/model", access=writer)
    text = pushed_files(org)["README.md"].decode()
    assert "<img" not in text
    assert "](http://evil" not in text
