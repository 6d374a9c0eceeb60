"""Repos renamed after the export of their ONNX files, which record the older id."""

from __future__ import annotations

import pytest

from tests.support.moved import CLASSIFIER, LAYOUTS, SENTENCES, TEXT


@pytest.fixture
def rename(hub):
    """Rename a repo. The Hub redirects from the old id."""

    def move(old, new):
        repo = hub.repos[new] = hub.repos.pop(old)
        repo.repo_id, hub.renamed[old] = new, new

    return move


@pytest.mark.parametrize(("layout", "embed"), LAYOUTS)
def test_renamed_repo_has_the_labels_and_words_of_the_files_commit(classifier, expected, ask, rename, layout, embed):
    classifier(layout, embed)
    rename("moved/bert", "renamed/bert")
    code = CLASSIFIER.format(layout=layout, text=TEXT).replace('"moved/bert"', '"renamed/bert"')
    for answers in ask(code):
        assert {name: tuple(answer) for name, answer in answers.items()} == dict.fromkeys(answers, expected)


LABEL = """
import json
from optimum.onnxruntime import ORTModelForSequenceClassification
model = ORTModelForSequenceClassification.from_pretrained("{repo_id}")
print(json.dumps(model.config.id2label[0]))
"""


@pytest.mark.parametrize("embed", ["all", "none"])
def test_renamed_repo_is_requested_once(classifier, ask, rename, hub, embed):
    commit, _ = classifier("", embed)
    rename("moved/bert", "renamed/bert")
    asked = []
    for _ in range(2):
        with hub.recorded() as requests:
            assert ask(LABEL.format(repo_id="renamed/bert"), offline=False) == ["LABEL 0"]
        asked.append([request for request in requests if f"/renamed/bert/resolve/{commit}/" in request.path])
    assert len(asked[0]) == 1 or embed == "none"  # the configs are downloaded
    assert asked[1] == []


def test_configs_of_a_converted_model_are_used_with_and_without_the_hub(classifier, hub, ask):
    _, main = classifier("")
    hub.add("converted/bert", hub.repos["moved/bert"].commits[main])
    with hub.recorded() as requests:
        assert ask(LABEL.format(repo_id="converted/bert")) == ["NEW 0", "NEW 0"]
    assert len([request for request in requests if request.status == 404 and "/resolve/" in request.path]) <= 3


def test_embedded_files_are_used_if_a_rename_cannot_be_checked(classifier, hub, ask):
    _, main = classifier("")
    hub.add("converted/bert", hub.repos["moved/bert"].commits[main])
    fetch = """
import json
from huggingface_hub import snapshot_download
print(json.dumps(bool(snapshot_download("converted/bert"))))
"""
    ask(fetch, offline=False)
    assert ask(LABEL.format(repo_id="converted/bert"), offline=False, HF_HUB_OFFLINE="1") == ["LABEL 0"]


@pytest.mark.parametrize(("layout", "embed"), LAYOUTS)
def test_sentence_transformer_of_a_renamed_repo_has_the_modules_of_the_files_commit(
    sentences, rename, ask, layout, embed
):
    publish, vector = sentences
    publish(layout, embed)
    rename("moved/sentences", "renamed/sentences")
    code = SENTENCES.format(options={}, text=TEXT).replace("moved/sentences", "renamed/sentences")
    for modules, mine in ask(code):
        assert modules == ["Transformer", "Pooling", "Normalize"]
        assert mine == pytest.approx(vector.tolist(), abs=1e-5)
