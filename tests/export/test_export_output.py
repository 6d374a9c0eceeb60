"""The output folder of an export: which files are written, and which are kept."""

from __future__ import annotations

import json
import logging
import shutil

import onnx
import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import (
    DownloadError,
    ExportError,
)
from optimum_htp.export.output_files import put_weights_inside
from optimum_htp.onnxfile import external_files
from tests.support import models
from tests.support.exports import files_in, record_of


@pytest.mark.parametrize("name", ["bert.onnx", "with spaces & ünicode.onnx", "a@b.onnx"])
def test_output_may_name_a_file(export, bert, tmp_path, name):
    result = export("tiny/bert", tmp_path / "deep" / "er" / name)
    assert result.files == (tmp_path / "deep" / "er" / name,)
    assert files_in(tmp_path / "deep") == [f"er/{name}"]


def test_named_file_keeps_its_external_data_under_its_name(export, bert, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    export("tiny/bert", tmp_path / "out" / "a.onnx")
    export("tiny/bert", tmp_path / "out" / "b.onnx")
    assert files_in(tmp_path / "out") == ["a.onnx", "a.onnx_data", "b.onnx", "b.onnx_data"]
    assert external_files(tmp_path / "out" / "b.onnx") == ("b.onnx_data",)
    onnx.checker.check_model(str(tmp_path / "out" / "b.onnx"))


def test_several_files_cannot_have_one_name(export, published, tmp_path):
    published("t5")
    with pytest.raises(ExportError, match=r"4 files.*name an output folder"):
        export("tiny/t5", tmp_path / "out" / "t5.onnx")
    assert files_in(tmp_path) == [name for name in files_in(tmp_path) if name.startswith("cache/")]
    assert not (tmp_path / "out").exists()


def test_every_file_of_a_model_names_its_siblings(exported):
    folder = exported("t5")
    names = tuple(files_in(folder))
    assert len(names) == 4
    records = [record_of(folder / name) for name in names]
    assert {record.onnx_files for record in records} == {names}
    assert tuple(record.onnx_file for record in records) == names
    assert all(record.belongs_with(records[0]) for record in records)


def test_failed_export_keeps_existing_files(export, bert, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.onnx").write_bytes(b"the one from before")
    with pytest.raises(ExportError, match=r"tiny/bert.*object-detection"):
        export("tiny/bert", output, task="object-detection", engine="optimum")
    assert files_in(output) == ["model.onnx"]
    assert (output / "model.onnx").read_bytes() == b"the one from before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "out"]


def test_export_into_a_folder_replaces_only_its_own_files(export, bert, tmp_path):
    output = tmp_path / "out"
    (output / "sub").mkdir(parents=True)
    for name in ("model.onnx", "notes.txt", "sub/other.onnx"):
        (output / name).write_bytes(b"before")
    export("tiny/bert", output)
    assert files_in(output) == ["model.onnx", "notes.txt", "sub/other.onnx"]
    assert (output / "notes.txt").read_bytes() == (output / "sub" / "other.onnx").read_bytes() == b"before"
    assert record_of(output / "model.onnx").hub_id == "tiny/bert"


def test_local_model_does_not_overwrite_the_config_of_a_neighbour(export, model_folder, tmp_path):
    export(model_folder("bert"), tmp_path / "out" / "bert.onnx")
    config = (tmp_path / "out" / "config.json").read_bytes()
    with pytest.raises(ExportError, match=r"another model"):
        export(model_folder("vit"), tmp_path / "out" / "vit.onnx")
    assert (tmp_path / "out" / "config.json").read_bytes() == config
    assert not (tmp_path / "out" / "vit.onnx").exists()


def test_with_config_keeps_the_configs_of_a_hub_model(export, bert, tmp_path):
    result = export("tiny/bert", tmp_path / "out", with_config=True)
    assert files_in(tmp_path / "out") == [
        "model.onnx" if n is None else n for n in sorted({*result.metadata.config_files, "model.onnx"})
    ]


def test_output_that_is_a_file_is_refused(export, bert, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ExportError, match="is a file"):
        export("tiny/bert", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_optimizing_is_passed_on_and_the_result_stamped(export, bert, tmp_path):
    export("tiny/bert", tmp_path / "out", optimize="O2")
    assert record_of(tmp_path / "out" / "model.onnx").hub_id == "tiny/bert"
    assert files_in(tmp_path / "out") == ["model.onnx"]


def test_tokenizer_file_that_is_a_link_is_copied_as_a_file(export, model_folder, tmp_path):
    folder = tmp_path / "linked"
    folder.mkdir()
    for path in model_folder("bert").iterdir():
        (folder / path.name).symlink_to(path)
    export(folder, tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    shutil.rmtree(folder)
    assert "hello" in (tmp_path / "out" / "vocab.txt").read_text()


def test_second_local_model_does_not_take_over_the_first_ones_configs(export, model_folder, tmp_path):
    export(models.bert(tmp_path / "three", labels=3), tmp_path / "out" / "a.onnx")
    for output in (tmp_path / "out", tmp_path / "out" / "b.onnx"):
        with pytest.raises(ExportError, match=r"another model \(a\.onnx\) with its own config\.json"):
            export(models.bert(tmp_path / "five", labels=5), output)
    other = models.bert(tmp_path / "words", labels=3)
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text().replace("cat", "cow"))
    with pytest.raises(ExportError, match=r"with its own vocab\.txt"):
        export(other, tmp_path / "out" / "b.onnx")
    assert len(json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]) == 3


def test_model_card_that_cannot_be_read_is_left_out(export, hub, model_folder, tmp_path):
    repo = hub.add("tiny/bad-card", model_folder("bert"), pipeline_tag="text-classification")
    repo.commit({**repo.commits[repo.refs["main"]], "README.md": b"---\nlicense: [\n---\n"})
    assert export("tiny/bad-card", tmp_path / "out").metadata.license is None


def test_cache_that_cannot_be_written_is_named(export, bert, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"tiny/bert.*cache"):
        export("tiny/bert", tmp_path / "out", cache_dir=tmp_path / "file" / "cache")


def test_warnings_of_an_export_name_the_folder_of_the_user(published, tmp_path, caplog):
    """Optimum warns of outputs that differ by more than `atol` (below zero: all outputs), with the folder's name."""
    repo_id = published("bert").repo_id
    logger = logging.getLogger("optimum.exporters.onnx.convert")  # Optimum's root logger may not propagate messages
    logger.addHandler(caplog.handler)
    try:
        HTPExporter().export(repo_id, tmp_path / "out", atol=-1.0)
    finally:
        logger.removeHandler(caplog.handler)
    assert f"saved at: {(tmp_path / 'out').as_posix()}" in caplog.text
    assert "/exported" not in caplog.text


def test_external_weights_of_an_exporter_are_moved_into_the_file(model_folder, tmp_path):
    HTPExporter().export(model_folder("bert"), tmp_path)
    file, data = tmp_path / "model.onnx", tmp_path / "model.onnx_data"
    before = onnx.load(file)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location=data.name, size_threshold=0)
    assert data.is_file()
    put_weights_inside(tmp_path)
    assert not data.exists()
    assert not external_files(file)
    after = onnx.load(file, load_external_data=False).graph.initializer
    for old, new in zip(before.graph.initializer, after, strict=True):
        assert (old.name, onnx.numpy_helper.to_array(old).tobytes()) == (
            new.name,
            onnx.numpy_helper.to_array(new).tobytes(),
        )
