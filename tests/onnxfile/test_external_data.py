"""External data is read only inside the folder of its ONNX file."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp import strip_metadata
from optimum_htp.errors import InvalidOnnxFileError, OnnxWriteError
from optimum_htp.onnxfile import contained_files, external_files, is_contained, rewrite_model
from optimum_htp.stamping.tag import tag_file
from tests.support.external import save_external, weight_of

OUTSIDE = [
    "../data",
    "../../x/data",
    "/etc/passwd",
    "a/../../data",
    "..\\data",
    "C:data",
    "c:\\data",
    "null\0character",
    "escape\x1b[2J",
    "two\nlines",
    "",
    "//host/data",
    "a//../../data",
    "./../data",
    "data/",
    "/",
    ".",
]


def save(path, location, stamped=True):
    tensor = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"], name="/layer/Add")],
        "g",
        [value("x", 1, [4])],
        [value("y", 1, [4])],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    if stamped:
        rewrite_model(path, metadata={"hf_model_type": "local"})
    return path


@pytest.mark.parametrize("location", OUTSIDE)
def test_location_that_leads_out_is_not_followed(location, tmp_path):
    path = save(tmp_path / "in" / "model.onnx", location)
    assert not is_contained(location)
    with pytest.raises(InvalidOnnxFileError, match="outside its folder") as caught:
        contained_files(path)
    assert str(caught.value).isprintable()
    with pytest.raises(InvalidOnnxFileError):
        strip_metadata(path, tmp_path / "out" / "model.onnx")
    assert not (tmp_path / "out").exists()


INSIDE = ["model.onnx_data", "weights/part-1.bin", "dätä with spaces", "..hidden", "a..b"]


@pytest.mark.parametrize("location", [*INSIDE, "a b", "a\u200cb", "\u3000"])
def test_location_in_the_folder_is(location, tmp_path):
    path = save(tmp_path / "model.onnx", location)
    (tmp_path / location).parent.mkdir(exist_ok=True)
    (tmp_path / location).write_bytes(b"\0" * 16)
    assert contained_files(path) == external_files(path) == (location,)


def test_link_out_of_the_cache_is_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 16)
    path = save(tmp_path / "in" / "model.onnx", "data")
    (path.parent / "data").symlink_to(secret)
    with pytest.raises(InvalidOnnxFileError):
        strip_metadata(path, tmp_path / "out" / "model.onnx")
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    save(blobs / "abc", "data")
    (blobs / "def").write_bytes(b"\0" * 16)
    snapshot.mkdir(parents=True)
    for name, blob in (("model.onnx", "abc"), ("data", "def")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert contained_files(snapshot / "model.onnx") == ("data",)
    strip_metadata(snapshot / "model.onnx", tmp_path / "out" / "model.onnx")
    assert (tmp_path / "out" / "data").read_bytes() == b"\0" * 16


def test_data_is_not_written_through_an_existing_link(tmp_path):
    path = save(tmp_path / "in" / "model.onnx", "data")
    (path.parent / "data").write_bytes(b"\1" * 16)
    victim = tmp_path / "victim"
    victim.write_bytes(b"\1" * 16)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "data").symlink_to(victim)
    with pytest.raises(OnnxWriteError, match="leads out of"):
        strip_metadata(path, tmp_path / "out" / "model.onnx")
    assert victim.read_bytes() == b"\1" * 16


def test_data_is_not_written_through_an_existing_folder_link(tmp_path):
    path = save(tmp_path / "in" / "model.onnx", "weights/data")
    (path.parent / "weights").mkdir()
    (path.parent / "weights" / "data").write_bytes(b"\1" * 16)
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "weights").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(OnnxWriteError, match="leads out of"):
        strip_metadata(path, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_pipeline_whose_part_points_out_makes_nothing_outside(tmp_path, monkeypatch, hub):
    import tempfile

    from optimum_htp.hubs import HubAccess
    from optimum_htp.loading.diffusion import link_pipeline_folder
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.resolve.model_files import ModelFiles

    sha = hub.add("tiny/points-out", {"model_index.json": b"{}"}).refs["main"]
    save(tmp_path / "pipe" / "unet" / "model.onnx", "../../../x/data", stamped=False)
    scratch = tmp_path / "scratch" / "deep"
    scratch.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    record = ExportMetadata(
        model_type="hub", hub_id="tiny/points-out", hub_sha=sha, export_library="diffusers",
        onnx_files=("unet/model.onnx",), onnx_file="unet/model.onnx", config_files=("model_index.json",),
    )  # fmt: skip
    parts = ModelFiles(tmp_path / "pipe", {"unet/model.onnx": tmp_path / "pipe" / "unet" / "model.onnx"})
    with pytest.raises(InvalidOnnxFileError):
        link_pipeline_folder(parts, record, HubAccess(cache_dir=tmp_path / "cache"))
    assert list((tmp_path / "scratch").rglob("*")) == [scratch]


@pytest.mark.parametrize("location", ["escape\x1b[2J", "../../etc/passwd"])
def test_location_does_not_reach_a_message_as_it_is(location, tmp_path, model_folder):
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoConfig

    path = save(tmp_path / "model.onnx", location)
    with pytest.raises(InvalidOnnxFileError, match="outside its folder") as caught:
        ORTModelForFeatureExtraction.from_pretrained(path, config=AutoConfig.from_pretrained(model_folder("bert")))
    assert str(caught.value).isprintable()


def test_namespace_of_another_tool_is_restored(tmp_path):
    from optimum_htp import tag_file

    path = save(tmp_path / "model.onnx", "data", stamped=False)
    (tmp_path / "data").write_bytes(b"\0" * 16)
    rewrite_model(path, nodes=lambda known: {**known, "namespace": "theirs/own"})
    for _ in range(2):
        tag_file(path)
        (node,) = onnx.load(path, load_external_data=False).graph.node
        assert {one.key: one.value for one in node.metadata_props}["namespace"] == "layer"
    strip_metadata(path)
    (node,) = onnx.load(path, load_external_data=False).graph.node
    assert [(one.key, one.value) for one in node.metadata_props] == [("namespace", "theirs/own")]


ODD = ["./w.data", "a//b.data", "a/./b.data", "w\u3000\u200c.data"]


@pytest.fixture(params=ODD)
def odd(request, zoo_export, tmp_path):
    """An export with weights at an unusual but valid location, and the model's folder."""
    made = zoo_export("bert")
    folder = tmp_path / "odd"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(onnx.load(made.output / "model.onnx"), path, save_as_external_data=True, location="w", size_threshold=64)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for item in tensor.external_data:
            if item.key == "location":
                item.value = request.param
    (folder / request.param).parent.mkdir(exist_ok=True)
    (folder / "w").rename(folder / request.param)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(path)
    return path, made.model


def test_weights_at_an_unusual_location_are_read(odd, tmp_path, hub):
    from optimum.onnxruntime import ORTModelForSequenceClassification

    from optimum_htp.extras.push.pushing import push
    from optimum_htp.hubs import HubAccess
    from optimum_htp.modules.extract import extract_module
    from optimum_htp.modules.prove import prove_weights
    from optimum_htp.report.document import report_document

    path, folder = odd
    assert ORTModelForSequenceClassification.from_pretrained(path).config.model_type == "bert"
    proof = prove_weights(path, folder)
    assert not proof.foreign
    assert proof.counts["proven"] > 10
    assert extract_module(path, "bert.encoder.layer.0", tmp_path / "cut.onnx").initializers > 5
    (file,) = report_document([path])["files"]
    assert file["external_files"][0]["bytes"] > 10_000
    (name,) = contained_files(path)
    hub.writers, hub.tokens, hub.stored = {"hf_writes": {"me"}}, {"hf_writes": set()}, {}
    pushed = push([path], "me/odd", access=HubAccess(token="hf_writes", cache_dir=tmp_path / "cache"))
    assert name in pushed.files
    strip_metadata(path, tmp_path / "out" / "model.onnx")
    assert (tmp_path / "out" / name).is_file()


def test_tagging_into_another_folder_takes_the_data_along(tmp_path):
    source = save_external(tmp_path / "model.onnx", 3)
    (tmp_path / "other").mkdir()
    tag_file(source, output=tmp_path / "other" / "tagged.onnx")
    assert weight_of(tmp_path / "other" / "tagged.onnx") == [3] * 3
