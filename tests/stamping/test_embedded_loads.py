"""Loads of files with embedded config and preprocessor need no other files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from optimum_htp import HTPExporter, verify_metadata
from optimum_htp.caching import forget
from optimum_htp.errors import (
    ArgumentError,
    HubUnreachableError,
)
from optimum_htp.metadata import read_record
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.stamping.verify import Status
from tests.support.alone import run_alone


def test_config_is_made_from_memory(bert, model_folder, hub, home):
    with hub.recorded() as requests:
        ours, rest = AutoConfig.from_pretrained(bert, num_labels=7, unknown=1, return_unused_kwargs=True)
        model = ORTModelForSequenceClassification.from_pretrained(bert)
    theirs, others = AutoConfig.from_pretrained(
        model_folder("bert"), num_labels=7, unknown=1, return_unused_kwargs=True
    )
    assert (requests, home.exists()) == ([], False)
    assert type(ours) is type(theirs)
    assert (ours.to_diff_dict(), rest) == (theirs.to_diff_dict(), others)
    assert ours.name_or_path == model.config.name_or_path == str(bert)


def test_generation_config_is_made_from_memory(t5, model_folder, home):
    ours = GenerationConfig.from_pretrained(t5 / "encoder_model.onnx", max_length=9)
    assert not home.exists()
    assert ours == GenerationConfig.from_pretrained(model_folder("t5"), max_length=9)


def test_preprocessors_folder_is_named_by_its_content_and_used_again(bert, home, tmp_path):
    AutoTokenizer.from_pretrained(bert)
    (folder,) = home.iterdir()
    before = (folder / "tokenizer.json").stat()
    forget()
    AutoTokenizer.from_pretrained(shutil.copy(bert, tmp_path / "copy.onnx"))
    assert [*home.iterdir()] == [folder]
    assert (folder / "tokenizer.json").stat() == before
    (folder / "tokenizer.json").write_bytes(b"{")  # damaged later
    assert AutoTokenizer.from_pretrained(bert).is_fast
    assert (folder / "tokenizer.json").stat().st_size == before.st_size
    assert not [path for path in home.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("what", ["a file", "a file above it"])
def test_home_that_cannot_be_written_is_replaced_by_a_temporary_folder(what, bert, home):
    taken = home if what == "a file" else home.parents[1]
    taken.parent.mkdir(parents=True, exist_ok=True)
    taken.write_text("not a folder")
    first, second = (AutoTokenizer.from_pretrained(bert) for _ in range(2))
    assert first("a cat").input_ids == second("a cat").input_ids
    made = embedded_in(bert, read_record(bert)).folder()
    assert made.name.startswith("optimum-htp-")
    assert embedded_in(bert, read_record(bert)).folder() == made
    assert taken.read_text() == "not a folder"


@pytest.mark.slow
def test_sixteen_processes_make_one_folder(exported, tmp_path):
    path, home = exported("minilm") / "model.onnx", tmp_path / "home"
    code = (
        "import json, sys; from pathlib import Path; from optimum_htp.metadata import read_record\n"
        "from optimum_htp.resolve import embedded\n"
        "written = []; write = embedded._write\n"
        "embedded._write = lambda folder, contents: written.append(folder) or write(folder, contents)\n"
        f"path = Path({str(path)!r}); folder = embedded.embedded_in(path, read_record(path)).folder()\n"
        "print(json.dumps([str(folder), len(written)]))"
    )
    env = {**os.environ, "HF_HOME": str(home)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) for _ in range(16)
    ]
    answers = [json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in running]
    assert len({folder for folder, _ in answers}) == 1
    assert sum(count for _, count in answers) == 1
    root = home / "optimum-htp" / "embedded"
    assert [str(one) for one in root.iterdir() if one.is_dir()] == [answers[0][0]]


TOKENIZE = """
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer
model = ORTModelForSequenceClassification.from_pretrained({path!r})
assert model.config.model_type == "bert"
print(AutoTokenizer.from_pretrained({path!r})("a cat").input_ids)
"""


def others_may_run(program):
    """Whether every user may run a program: not if Python is in a user's private folder."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(program).resolve().parents)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.skipif(not others_may_run(sys.executable), reason="only its owner may run this Python")
def test_containers_without_a_home_a_name_or_a_disk(exported, tmp_path):
    """A user without a passwd entry, in a foreign folder; with a read-only home, and without one."""
    shared = tmp_path / "shared"
    shared.mkdir()
    path = shutil.copy(exported("bert") / "model.onnx", shared / "model.onnx")
    readable = [tmp_path, *tmp_path.parents]
    modes = {folder: folder.stat().st_mode for folder in readable}
    for folder in readable:
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    nobody = {"user": 54321, "group": 54321, "extra_groups": [], "cwd": shared}
    try:
        for env in (
            {"HF_HOME": str(tmp_path / "not-mine")},
            {"HOME": None, "HF_HOME": None},
            {"HOME": "/nonexistent"},
        ):
            home = env.pop("HF_HOME", None) or ""
            code = TOKENIZE.format(path=str(path))
            environment = {**env, "HF_HOME": home or None, "XDG_CACHE_HOME": None}
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(theirs)  # otherwise PyTorch needs the user's name
            assert "[" in run_alone(code, home, env=environment, **nobody)
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert [one.name for one in shared.iterdir()] == ["model.onnx"]


def test_order_of_places(bert, published, hub, home, monkeypatch, tmp_path):
    published("bert")
    own = json.loads(AutoConfig.from_pretrained(bert).to_json_string()) | {"architectures": None}

    def size():
        forget()
        return ORTModelForSequenceClassification.from_pretrained(bert, cache_dir=tmp_path / "cache").config.beam

    other = {**own, "model_type": "bert", "beam": "beside", "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(other))
    assert size() == "beside"
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "embedded,adjacent")
    with pytest.raises(AttributeError):
        size()
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "hub")
    with hub.recorded() as requests, pytest.raises(AttributeError):
        size()
    assert {request.method for request in requests} == {"GET"}
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "cache,embedded")
    with hub.recorded() as requests, pytest.raises(AttributeError):
        size()
    assert requests == []
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "adjacent,nowhere")
    with pytest.raises(ArgumentError, match="nowhere"):
        size()
    (tmp_path / "config.json").unlink()
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "adjacent")
    with pytest.raises(HubUnreachableError, match="OPTIMUM_HTP_RESOLVE"):
        size()


def test_revision_and_force_download_ignore_embedded_files(bert, published, hub, access):
    sha = hub.repos[published("bert").repo_id].refs["main"]
    for options in ({"revision": sha}, {"force_download": True}):
        with hub.recorded() as requests:
            AutoConfig.from_pretrained(bert, cache_dir=access.cache_dir, **options)
            AutoTokenizer.from_pretrained(bert, cache_dir=access.cache_dir, **options)
        assert requests, options
    with hub.recorded() as requests:
        AutoConfig.from_pretrained(bert, cache_dir=access.cache_dir, revision="refs/heads/main")
    assert requests


def test_local_model_is_one_file(model_folder, hub, tmp_path, home):
    HTPExporter().export(model_folder("bert"), tmp_path / "out")
    path = shutil.copy(tmp_path / "out" / "model.onnx", tmp_path / "alone.onnx")
    assert read_record(path).model_type == "local"
    model = ORTModelForSequenceClassification.from_pretrained(path)
    assert model.preprocessors[0]("a cat").input_ids == AutoTokenizer.from_pretrained(path)("a cat").input_ids
    assert verify_metadata(path).status is Status.OK
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')
    assert ORTModelForSequenceClassification.from_pretrained(path).config.model_type == "bert"
