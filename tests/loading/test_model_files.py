"""The files of a model are found from any of them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from optimum_htp.errors import MissingSiblingError
from optimum_htp.extras.contents import onnx_files
from optimum_htp.loading.diffusion import pipeline_record
from optimum_htp.metadata import ExportMetadata, read_record
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.onnxfile.replace_files import Watch
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.resolve.model_files import model_root, parts_of
from optimum_htp.stamping.embed import embed_files, files_of_model, once_a_model, unembed_files

NAMES = ("text_encoder/model.onnx", "unet/model.onnx")


def stamped(path, name, names=NAMES, **more):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", 1, [1])], [value("y", 1, [1])]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    record = ExportMetadata(
        model_type="local", export_library="diffusers", onnx_files=names, onnx_file=name, export_id="1" * 32,
        export_timestamp="2026-01-01T00:00:00Z", **more,
    )  # fmt: skip
    rewrite_model(path, metadata=record.to_properties())
    return path


@pytest.fixture
def pipeline(tmp_path):
    """A folder of a pipeline's parts with configs, and the embedded files of the first part."""
    folder = tmp_path / "somewhere" / "out"
    for name in NAMES:
        stamped(folder / name, name)
    (folder / "model_index.json").write_text("{}")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    return folder


@pytest.fixture
def places(pipeline, tmp_path):
    """The working folder, and the path of a part from there."""
    linked, links = tmp_path / "linked", tmp_path / "links" / "out"
    linked.symlink_to(pipeline / "unet")
    links.mkdir(parents=True)
    for part in ("unet", "text_encoder"):
        (links / part).symlink_to(pipeline / part)
    return {
        "inside": (pipeline / "unet", "model.onnx", pipeline),
        "dot": (pipeline / "unet", "./model.onnx", pipeline),
        "up": (pipeline / "text_encoder", "../unet/model.onnx", pipeline),
        "root": (pipeline, "unet/model.onnx", pipeline),
        "detour": (pipeline, "unet/../unet/./model.onnx", pipeline),
        "link": (tmp_path, "linked/model.onnx", pipeline),
        "in link": (linked, "model.onnx", pipeline),
        "links": (tmp_path, "links/out/unet/model.onnx", links),
        "absolute": (tmp_path, str(pipeline / "unet" / "model.onnx"), pipeline),
    }


PLACES = ["inside", "dot", "up", "root", "detour", "link", "in link", "links", "absolute"]


@pytest.mark.parametrize("place", PLACES)
def test_parts_are_found_from_any_folder(place, places, monkeypatch):
    folder, name, root = places[place]
    monkeypatch.chdir(folder)
    path = Path(name)
    record = read_record(path)
    found = model_root(path, record)
    assert found.is_absolute()
    assert found.samefile(root)
    parts = parts_of(path, record, Watch())
    assert parts.by_name.keys() == set(NAMES)
    assert all(part.samefile(root / name) for name, part in parts.by_name.items())
    assert sorted(file.name for file in onnx_files([path], Watch())) == sorted(NAMES)
    assert {other.onnx_file for other in files_of_model(path, record).values()} == set(NAMES)
    (root / "model_index.json").unlink(missing_ok=True)
    known = pipeline_record(path, {})
    assert known is not None
    assert known[0].samefile(root)


@pytest.mark.parametrize("place", [place for place in PLACES if place != "links"])
def test_files_are_embedded_from_any_folder(place, places, monkeypatch):
    folder, name, _ = places[place]
    monkeypatch.chdir(folder)
    embedded = embed_files(name)
    assert {file.name for file in embedded} == {"model_index.json", "scheduler/scheduler_config.json"}
    found = embedded_in(Path(name), read_record(name))
    assert found is not None
    assert set(found.read()) == {file.name for file in embedded}
    assert unembed_files(name) == embedded
    assert unembed_files(name) == ()


@pytest.mark.parametrize(("here", "given"), [("", "."), ("unet", ".."), ("", "./"), ("", "unet"), ("unet", ".")])
def test_folder_can_be_a_relative_path(here, given, pipeline, monkeypatch):
    monkeypatch.chdir(pipeline / here)
    assert sorted(file.name for file in onnx_files([given], Watch())) == sorted(NAMES)


def test_file_with_too_few_folders_above_it_is_a_missing_sibling(tmp_path, monkeypatch):
    deep = "a/" * 40 + "model.onnx"
    path = stamped(tmp_path / "model.onnx", deep, ("b.onnx", deep), embedded_in=None)
    record = read_record(path)
    monkeypatch.chdir(tmp_path)
    attempts = [
        lambda: model_root(path, record),
        lambda: parts_of(path, record, Watch()),
        lambda: onnx_files(["model.onnx"], Watch()),
        lambda: files_of_model(path, record),
        lambda: pipeline_record(path, {}),
        lambda: embed_files("model.onnx"),
        lambda: once_a_model(lambda file: file)("model.onnx"),
    ]
    for attempt in attempts:
        with pytest.raises(MissingSiblingError, match="fewer parent folders"):
            attempt()
    assert unembed_files(path) == ()
