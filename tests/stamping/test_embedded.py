"""Config and preprocessor files that travel in ONNX files: what is written, and loads that need nothing else."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from contextlib import suppress
from pathlib import Path

import onnx
import onnxruntime
import pytest
import transformers
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from optimum_htp import HTPExporter, embed_files, inject_hub_metadata, unembed_files, verify_metadata
from optimum_htp.caching import forget
from optimum_htp.errors import (
    ArgumentError,
    ChangedCacheError,
    EmbeddedFilesError,
    FileChangedError,
    HubUnreachableError,
    MisfitError,
    OnnxWriteError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.libraries.tables import tokenizer_of_processor
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.resolve.archive import pack
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.resolve.embedding import embeddable
from optimum_htp.resolve.remote_file import read_remote_header
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli
from tests.support.alone import run_alone

KEYS = {"hf_embedded_files", "hf_embedded_in", "hf_embedded_zip"}


@pytest.fixture
def bert(exported, tmp_path):
    """A file that may be changed."""
    return shutil.copy(exported("bert") / "model.onnx", tmp_path / "model.onnx")


@pytest.fixture
def t5(exported, tmp_path):
    return shutil.copytree(exported("t5"), tmp_path / "t5", ignore=shutil.ignore_patterns("*.lock"))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Hugging Face's home of this process, empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "optimum-htp" / "embedded"


def properties(path):
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def test_files_are_those_of_the_commit_byte_by_byte(bert, model_folder):
    known = properties(bert)
    listed = json.loads(known["hf_embedded_files"])
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(known["hf_embedded_zip"], validate=True)))
    names = {path.name for path in model_folder("bert").iterdir()} - {"model.safetensors", "vocab.txt"}
    assert archive.namelist() == [entry["name"] for entry in listed] == sorted(names)
    for entry in listed:
        content = archive.read(entry["name"])
        assert content == (model_folder("bert") / entry["name"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert archive.getinfo(entry["name"]).date_time == (1980, 1, 1, 0, 0, 0)


def test_archive_is_the_last_field_of_the_file(bert, t5):
    for path in (bert, t5 / "encoder_model.onnx"):
        known = properties(path)
        assert list(known)[-1] == "hf_embedded_zip"
        assert path.read_bytes().endswith(known["hf_embedded_zip"].encode())
        rewrite_model(path, metadata={"mine": "put in later", "hf_license": "mit"})
        assert list(properties(path))[-1] == "hf_embedded_zip"
        assert path.read_bytes().endswith(known["hf_embedded_zip"].encode())


def test_model_of_several_files_carries_them_once(t5):
    first = t5 / "encoder_model.onnx"  # which every class opens
    others = sorted({*t5.glob("*.onnx")} - {first})
    assert "hf_embedded_zip" in properties(first)
    for path in others:
        known = properties(path)
        assert "hf_embedded_zip" not in known
        assert known["hf_embedded_in"] == first.name
        assert known["hf_embedded_files"] == properties(first)["hf_embedded_files"]
    first.rename(t5 / "renamed.onnx")
    forget()
    assert ORTModelForSeq2SeqLM.from_pretrained(others[0]).config.model_type == "t5"


def test_other_tools_take_such_files(bert):
    onnx.checker.check_model(str(bert), full_check=True)
    onnxruntime.InferenceSession(bert, providers=["CPUExecutionProvider"])
    again = onnx.load(bert)
    onnx.save(again, bert)
    assert read_header(bert).archives.keys() == {"hf_embedded_zip"}
    assert read_record(bert).embedded_files


def test_equal_files_give_equal_bytes(bert):
    before = bert.read_bytes()
    embed_files(bert, access=HubAccess())
    assert read_metadata(bert) == read_metadata(bert)
    assert properties(bert)["hf_embedded_zip"].encode() in before


def test_record_of_a_remote_file_takes_two_ranges_whatever_is_embedded(exported, hub, tmp_path):
    path = shutil.copy(exported("minilm") / "model.onnx", tmp_path / "model.onnx")
    noise = base64.b64encode(os.urandom(3_000_000)).decode()
    for archive in (None, noise):
        if archive is not None:
            rewrite_model(path, metadata={"hf_embedded_zip": archive})
        hub.add("org/far", {"model.onnx": path.read_bytes()})
        with hub.recorded() as requests:
            header = read_remote_header("hf://org/far/model.onnx")
        assert header == read_header(path)
        assert header.metadata["hf_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert [request.method for request in requests] == ["HEAD", "GET", "GET"]
        assert sum(request.sent for request in requests) <= 64 * 1024


def test_files_of_slow_tokenizers_are_left_out_where_they_are_needless(tmp_path):
    def kept(**configs):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        (tmp_path / "m").mkdir()
        for name in ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "model.safetensors", "code.py"):
            (tmp_path / "m" / name).write_text("x")
        for name, content in configs.items():
            (tmp_path / "m" / f"{name}.json").write_text(json.dumps(content))
        names = [path.name for path in (tmp_path / "m").iterdir()]
        return {
            name for name in embeddable(tmp_path / "m", names, "transformers") if not name.endswith("_config.json")
        }

    slow = {"vocab.txt", "vocab.json", "merges.txt", "tokenizer.model"}
    bert = {"model_type": "bert"}
    assert kept(config=bert, tokenizer={}) == {"config.json", "tokenizer.json"}
    assert kept(config=bert) == {"config.json", *slow}
    for settings in (
        {"tokenizer_class": "BertJapaneseTokenizer"},  # there is no fast one
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": True},  # transformers converts the slow one anew
        {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}},  # its own code may read anything
        {"processor_class": "SpeechT5Processor"},  # loads a slow one
    ):
        found = kept(config=bert, tokenizer={}, tokenizer_config=settings)
        assert found == {"config.json", "tokenizer.json", *slow}, settings
    loaded_fast = [{"tokenizer_class": "LlamaTokenizer"}]
    if tokenizer_of_processor("WhisperProcessor"):  # transformers 5 has no such table: the files are kept
        loaded_fast.append({"processor_class": "WhisperProcessor"})
    for settings in loaded_fast:
        assert not kept(config=bert, tokenizer={}, tokenizer_config=settings) & slow, settings


def test_slow_tokenizer_is_loaded_from_the_commit(bert, published, hub):
    published("bert")
    assert AutoTokenizer.from_pretrained(bert).is_fast
    slow = AutoTokenizer.from_pretrained(bert, use_fast=False)
    assert slow.is_fast is hasattr(transformers, "TokenizersBackend")  # transformers 5 has one class for both
    assert slow("the cat")["input_ids"] == AutoTokenizer.from_pretrained(bert)("the cat")["input_ids"]


def test_choice_of_what_is_embedded(plain_bert, published, home):
    repo = published("bert").repo_id
    assert inject_hub_metadata(plain_bert, repo, embed="none").embedded_files == ()
    assert not KEYS & properties(plain_bert).keys()
    assert [file.name for file in inject_hub_metadata(plain_bert, repo, embed="config").embedded_files] == [
        "config.json"
    ]
    assert len(inject_hub_metadata(plain_bert, repo).embedded_files) >= 3
    with pytest.raises(ArgumentError, match="everything"):
        inject_hub_metadata(plain_bert, repo, embed="everything")


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
    (folder / "tokenizer.json").write_bytes(b"{")  # damaged since
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
    """Whether every user may run a program: not where Python lies in somebody's own folder."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(program).resolve().parents)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can become nobody")
@pytest.mark.skipif(not others_may_run(sys.executable), reason="nobody but its owner may run this Python")
def test_containers_without_a_home_a_name_or_a_disk(exported, tmp_path):
    """A user whom nobody knows, in a folder that is not theirs; with a home that cannot be written, and with none."""
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
            environment["TORCHINDUCTOR_CACHE_DIR"] = str(theirs)  # else PyTorch asks for the user's name
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
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "embedded,beside")
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
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "beside,nowhere")
    with pytest.raises(ArgumentError, match="nowhere"):
        size()
    (tmp_path / "config.json").unlink()
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "beside")
    with pytest.raises(HubUnreachableError, match="OPTIMUM_HTP_RESOLVE"):
        size()


def test_revision_and_force_download_go_past_what_is_embedded(bert, published, hub, access):
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


def tampered(path, files=None, listed=None, text=None):
    """Write other embedded files into an ONNX file than those that it lists, or list others."""
    record = read_record(path)
    contents = {"config.json": b"{}"} if files is None else files
    if listed is None:
        listed = [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        ]
    archive = pack(contents) if text is None else text
    rewrite_model(path, metadata={"hf_embedded_files": json.dumps(listed), "hf_embedded_zip": archive})
    return record


def zipped(**changes):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in changes.pop("entries", [("config.json", b"{}")]):
            archive.writestr(name, content)
        archive.comment = changes.pop("comment", b"")
    return base64.b64encode(changes.pop("before", b"") + packed.getvalue() + changes.pop("after", b"")).decode()


def far_away():
    """Return an archive whose only entry is said to be at an offset that no file has, as ZIP64 may say it."""
    packed = base64.b64decode(zipped())
    directory, end = packed.index(b"PK\x01\x02"), packed.index(b"PK\x05\x06")
    entry, last = bytearray(packed[directory:end]), bytearray(packed[end:])
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    struct.pack_into("<L", last, 12, len(entry) + len(extra))
    return base64.b64encode(packed[:directory] + entry + extra + last).decode()


LISTED = [{"name": "config.json", "size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}]
HOSTILE = {
    "path out": {"files": {"../config.json": b"{}"}},
    "absolute path": {"files": {"/etc/config.json": b"{}"}},
    "backslash": {"files": {"config.json": b"{}", "a\\vocab.model": b"{}"}},
    "code": {"files": {"config.json": b"{}", "modeling.py": b"import os"}},
    "pickle": {"files": {"config.json": b"{}", "pytorch_model.bin": b"x"}},
    "code in a folder": {"files": {"config.json": b"{}", "qformer_tokenizer/run.py": b"x"}},
    "twice": {"listed": [*LISTED, {**LISTED[0], "name": "CONFIG.json"}]},
    "other content": {"listed": [{**LISTED[0], "sha256": "0" * 64}]},
    "longer": {"listed": [{**LISTED[0], "size": 1}]},
    "shorter": {"listed": [{**LISTED[0], "size": 3}]},
    "not listed": {"listed": LISTED, "text": zipped(entries=[("config.json", b"{}"), ("vocab.txt", b"x")])},
    "not there": {"listed": [*LISTED, {**LISTED[0], "name": "vocab.txt"}]},
    "entry twice": {"listed": LISTED, "text": zipped(entries=[("config.json", b"{}"), ("config.json", b"{}")])},
    "no base64": {"listed": LISTED, "text": "%%%"},
    "no zip": {"listed": LISTED, "text": base64.b64encode(b"x" * 100).decode()},
    "nothing": {"listed": LISTED, "text": ""},
    "comment": {"listed": LISTED, "text": zipped(comment=b"x")},
    "something behind": {"listed": LISTED, "text": zipped(after=b"x" * 50)},
    "offset beyond all": {"listed": LISTED, "text": far_away()},
    "too large": {"listed": [{**LISTED[0], "size": 10**8}]},
    "bomb": {"files": {"config.json": b" " * 20_000_000}},
    "too many": {"files": {f"{index}.model": b"x" for index in range(513)}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_file_of_a_stranger_leaves_nothing_on_disk(what, bert, home, tmp_path):
    tampered(bert, **HOSTILE[what])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"model\.onnx") as caught:
        AutoConfig.from_pretrained(bert)
    assert getattr(caught.value, "key", None) in KEYS
    with pytest.raises(ValueError, match=r"model\.onnx"):
        embedded_in(bert, read_record(bert)).folder()
    assert verify_metadata(bert).status is Status.INVALID
    with pytest.raises(ValueError, match=r"model\.onnx"):
        unembed_files(bert, tmp_path / "out")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in (home, *home.parents)] == before
    unembed_files(bert)
    assert not KEYS & properties(bert).keys()


def test_damaged_archives_never_raise_anything_else(bert, home):
    good = base64.b64decode(properties(bert)["hf_embedded_zip"])
    for at in range(0, len(good), 29):
        bad = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
        rewrite_model(bert, metadata={"hf_embedded_zip": base64.b64encode(bad).decode()})
        forget()
        try:
            AutoConfig.from_pretrained(bert)  # what is not of the config may be damaged without harm
        except EmbeddedFilesError as error:
            assert str(bert) in str(error)  # noqa: PT017


def test_limit_is_the_users(bert, home, monkeypatch, tmp_path):
    monkeypatch.setenv("OPTIMUM_HTP_EMBEDDED_LIMIT", "0")
    with pytest.raises(EmbeddedFilesError, match="OPTIMUM_HTP_EMBEDDED_LIMIT"):
        AutoConfig.from_pretrained(bert)
    with pytest.raises(EmbeddedFilesError, match="OPTIMUM_HTP_EMBEDDED_LIMIT"):
        embed_files(bert)
    monkeypatch.setenv("OPTIMUM_HTP_EMBEDDED_LIMIT", "many")
    with pytest.raises(ArgumentError, match="many"):
        AutoConfig.from_pretrained(bert)


def test_embed_and_unembed_give_back_what_was_there(t5, model_folder, published, tmp_path, empty_home):
    published("t5")
    before = {path.name: path.read_bytes() for path in t5.glob("*.onnx")}
    done = optimum_cli("htp", "unembed", t5, "--to", tmp_path / "out", **empty_home)
    count = len({*model_folder("t5").iterdir()}) - 1  # all but the weights
    assert done.stdout.count(f"{count} files") == len(before)
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (model_folder("t5") / path.name).read_bytes()
    assert len([*(tmp_path / "out").iterdir()]) == count
    for path in t5.glob("*.onnx"):
        assert not KEYS & properties(path).keys()
    embed_files(t5 / "encoder_model.onnx", tmp_path / "out")
    assert {path: properties(path) for path in t5.glob("*.onnx")} == {
        t5 / name: {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
        for name, content in before.items()
    }
    unembed_files(t5 / "encoder_model.onnx")
    done = optimum_cli("htp", "embed", t5, "--json", **empty_home)
    assert [len(file["embedded_files"]) for file in json.loads(done.stdout)["files"]] == [count] * len(before)
    assert properties(t5 / "encoder_model.onnx")["hf_embedded_zip"]


def test_files_of_a_model_agree_after_two_commands_at_the_same_time(t5, model_folder):
    done, files = [], sorted(t5.glob("*.onnx"))

    def repeat(work):
        for _ in range(8):
            with suppress(FileChangedError):
                work()
                done.append(work)

    works = [
        lambda: embed_files(files[0], model_folder("t5")),
        lambda: unembed_files(files[-1]),
    ]
    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*done} == {*works}
    assert len({read_record(file).embedded_files for file in files}) == 1
    assert not list(t5.glob(".*"))


def test_unembed_replaces_nothing_of_others(bert, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_text("mine")
    before = bert.read_bytes()
    with pytest.raises(OnnxWriteError, match=r"tokenizer\.json"):
        unembed_files(bert, tmp_path / "out")
    assert bert.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]


def test_embed_refuses_what_does_not_fit(bert, plain_bert, model_folder, tmp_path):
    with pytest.raises(MisfitError, match="of a t5 model"):
        embed_files(bert, model_folder("t5"))
    with pytest.raises(EmbeddedFilesError, match="htp inject"):
        embed_files(plain_bert, model_folder("bert"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbeddedFilesError, match="empty"):
        embed_files(bert, tmp_path / "empty")


def test_files_that_were_changed_in_the_cache_are_not_embedded(plain_bert, published, hub, access):
    published("bert")
    inject_hub_metadata(plain_bert, "tiny/bert", embed="none", access=access)
    embed_files(plain_bert, access=access)
    before = plain_bert.read_bytes()
    (cached,) = access.cache_dir.rglob("snapshots/*/tokenizer_config.json")
    cached.write_bytes(cached.read_bytes() + b" ")
    for write in (
        lambda: embed_files(plain_bert, access=access),
        lambda: inject_hub_metadata(plain_bert, "tiny/bert", access=access),
    ):
        with pytest.raises(ChangedCacheError, match=r"tokenizer_config\.json"):
            write()
    assert plain_bert.read_bytes() == before
    record = inject_hub_metadata(plain_bert, cached.parent, access=access)
    assert (record.model_type, record.hub_sha) == ("local", None)


def test_verify_proves_the_files_with_one_request(bert, published, hub, tmp_path):
    published("bert")
    access = HubAccess(cache_dir=tmp_path / "cache")
    with hub.recorded() as requests:
        verdict = verify_metadata(bert, access)
    embedded = json.loads(properties(bert)["hf_embedded_files"])
    assert (verdict.status, f"{len(embedded)} files" in verdict.reason) == (Status.OK, True)
    paths = [request.path for request in requests]
    assert [path.split("/")[5] for path in paths[:2]] == ["revision", "tree"]
    assert all(path.endswith("/model.safetensors") for path in paths[2:])  # its head, for what fits the graph
    contents = {"config.json": (hub.repos["tiny/bert"].commits[read_record(bert).hub_sha])["config.json"]}
    tampered(bert, files={**contents, "vocab.txt": b"other"})
    verdict = verify_metadata(bert, access)
    assert verdict.status is Status.INVALID
    assert "vocab.txt" in verdict.reason
    assert "config.json" not in verdict.reason


def test_files_stored_with_lfs_are_proven_too(bert, hub, published):
    files = dict(hub.repos[published("bert").repo_id].commits[read_record(bert).hub_sha])
    repo = hub.add("tiny/lfs", {**files, "spiece.model": b"sentencepiece"})
    inject_hub_metadata(bert, "tiny/lfs", task="text-classification")
    tampered(bert, files={"config.json": files["config.json"], "spiece.model": b"sentencepiece"})
    assert verify_metadata(bert).status is Status.OK
    tampered(bert, files={"config.json": files["config.json"], "spiece.model": b"sentencepiecf"})
    assert "spiece.model" in verify_metadata(bert).reason
    assert repo.refs


@pytest.mark.slow
def test_trusted_code_is_fetched_or_said_to_be_missing(bert, hub, published, home, tmp_path):
    files = dict(hub.repos[published("bert").repo_id].commits[read_record(bert).hub_sha])
    code = b"from transformers import BertConfig\nclass MineConfig(BertConfig):\n    model_type = 'bert'\n"
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    files |= {"config.json": json.dumps(config).encode(), "configuration_mine.py": code}
    hub.add("tiny/coded", files)
    record = inject_hub_metadata(bert, "tiny/coded", task="text-classification")
    assert "configuration_mine.py" not in [file.name for file in record.embedded_files]
    cache = tmp_path / "cache"
    assert type(AutoConfig.from_pretrained(bert, cache_dir=cache)).__name__ == "BertConfig"
    hub.status = 503
    with pytest.raises(HubUnreachableError, match="not the code"):
        AutoConfig.from_pretrained(bert, trust_remote_code=True, cache_dir=cache)
    hub.status = None
    trusted = AutoConfig.from_pretrained(bert, trust_remote_code=True, cache_dir=cache)
    assert type(trusted).__name__ == "MineConfig"


def test_info_shows_files_and_sizes_and_no_archive(bert, t5):
    done = optimum_cli("htp", "info", bert, "--show-metadata")
    assert "tokenizer.json 3.0 KiB" in done.stdout
    assert properties(bert)["hf_embedded_zip"] not in done.stdout
    assert "hf_embedded_zip = (" in done.stdout
    (document,) = json.loads(optimum_cli("htp", "info", bert, "--json").stdout)["files"]
    assert document["record"]["embedded_files"] == [
        dataclasses.asdict(file) for file in read_record(bert).embedded_files
    ]
    assert "hf_embedded_zip" in document["header"]["archives"]
    assert "in encoder_model.onnx:" in optimum_cli("htp", "info", t5 / "decoder_model.onnx").stdout


def test_report_shows_them(bert):
    from optimum_htp.report.document import report_document
    from optimum_htp.report.html import as_html
    from optimum_htp.report.markdown import as_markdown

    document = report_document([bert])
    assert "tokenizer.json 3.0 KiB" in as_html(document)
    assert "tokenizer.json 3.0 KiB" in as_markdown(document)


@pytest.mark.slow
def test_optimized_and_quantized_files_carry_them_on(bert, t5, tmp_path, home):
    from optimum.onnxruntime import ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig, OptimizationConfig

    ORTOptimizer.from_pretrained(bert).optimize(OptimizationConfig(optimization_level=2), tmp_path / "optimized")
    ORTQuantizer.from_pretrained(bert).quantize(
        save_dir=tmp_path / "quantized",
        quantization_config=AutoQuantizationConfig.avx2(is_static=False, per_channel=False),
    )
    for made in ("optimized", "quantized"):
        (file,) = (tmp_path / made).glob("*.onnx")
        alone = shutil.copy(file, tmp_path / f"{made}.onnx")
        assert read_record(alone).embedded_files == read_record(bert).embedded_files
        model = ORTModelForSequenceClassification.from_pretrained(alone)
        assert model.preprocessors[0]("a cat").input_ids
    for path in sorted(t5.glob("*.onnx")):
        ORTQuantizer.from_pretrained(path).quantize(
            save_dir=tmp_path / "t5-quantized",
            quantization_config=AutoQuantizationConfig.avx2(is_static=False, per_channel=False),
        )
    one = tmp_path / "t5-quantized" / "decoder_model_quantized.onnx"
    assert read_record(one).embedded_in == "encoder_model_quantized.onnx"
    forget()
    assert ORTModelForSeq2SeqLM.from_pretrained(one).preprocessors[0]("a cat").input_ids
