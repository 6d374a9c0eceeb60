"""Commands that embed files, and remove them."""

from __future__ import annotations

import json
import threading
from contextlib import suppress

import onnx
import pytest

from optimum_htp import embed_files, inject_hub_metadata, unembed_files
from optimum_htp.errors import (
    ChangedCacheError,
    EmbeddedFilesError,
    FileChangedError,
    MismatchError,
    OnnxWriteError,
)
from optimum_htp.metadata import read_record
from tests.conftest import optimum_cli
from tests.support.embedded import KEYS, properties


def test_embed_and_unembed_restore_the_file(t5, model_folder, published, tmp_path, empty_home):
    published("t5")
    before = {path.name: path.read_bytes() for path in t5.glob("*.onnx")}
    done = optimum_cli("htp", "unembed", t5, "-o", tmp_path / "out", **empty_home)
    count = len({*model_folder("t5").iterdir()}) - 1  # all except the weights
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


def test_unembed_replaces_no_other_file(bert, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokenizer.json").write_text("mine")
    before = bert.read_bytes()
    with pytest.raises(OnnxWriteError, match=r"tokenizer\.json"):
        unembed_files(bert, tmp_path / "out")
    assert bert.read_bytes() == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tokenizer.json"]


def test_embed_rejects_files_of_another_model(bert, plain_bert, model_folder, tmp_path):
    with pytest.raises(MismatchError, match="for a t5 model"):
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
