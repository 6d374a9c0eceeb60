"""`htp strip` removes what this package wrote into a file, and restores earlier values."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from optimum_htp import embed_files, hookimpl, inject_hub_metadata, strip_metadata, tag_file, unembed_files
from optimum_htp.errors import (
    InvalidOnnxFileError,
    OnnxWriteError,
)
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.plugins import manager
from optimum_htp.stamping.originals import strip_stack_traces
from optimum_htp.stamping.stamp import stamp
from tests.conftest import optimum_cli


def test_strip_restores_the_original_bytes(plain_bert, access):
    before = onnx.load(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert strip_metadata(plain_bert) > 10
    assert onnx.load(plain_bert) == before


def test_stripping_takes_tags_off_nodes_and_leaves_the_rest(plain_bert):
    def tag(known):
        return {"htp.module": "bert", "htp.tag": "/Bert", "namespace": "bert", "mine": "kept"}

    rewrite_model(plain_bert, metadata={"htp.modules": "{}", "mine": "kept"}, nodes=tag, ir_version=10)
    nodes = len(onnx.load(plain_bert).graph.node)
    assert strip_metadata(plain_bert) == 3 * nodes + 1
    model = onnx.load(plain_bert)
    assert {entry.key for node in model.graph.node for entry in node.metadata_props} == {"mine"}
    assert {entry.key for entry in model.metadata_props} == {"mine"}


OLIVE = {"hf_model_name": "bert", "hf_task": "text-classification-of-olive", "hf_license": "theirs"}
ORIGINAL_OF_OTHERS = {"hf_original": "no note of ours"}


def test_stripping_leaves_keys_of_other_tools(plain_bert, model_folder, access):
    """Olive and others use keys that begin with `hf_`, also some of a record; `htp.` is used for an NPU."""
    rewrite_model(
        plain_bert, metadata={**OLIVE, "htp.vtcm": "8"}, nodes=lambda known: {"htp.core": "1"}, ir_version=10
    )
    before = plain_bert.read_bytes()
    assert strip_metadata(plain_bert) == 0
    assert plain_bert.read_bytes() == before
    rewrite_model(plain_bert, metadata=ORIGINAL_OF_OTHERS)
    assert strip_metadata(plain_bert) == 0
    assert read_metadata(plain_bert)["hf_original"] == "no note of ours"
    plain_bert.write_bytes(before)
    for model in ("tiny/bert", model_folder("bert"), "tiny/bert"):
        inject_hub_metadata(plain_bert, model, access=access)
        known = read_metadata(plain_bert)
        assert (known["hf_model_name"], known["hf_task"]) == ("bert", "text-classification")
        assert known.get("hf_license") != "theirs"
    strip_metadata(plain_bert)
    assert onnx_content(plain_bert) == content_of(before)


def content_of(data):
    """A model, with properties in any order."""
    model = onnx.ModelProto.FromString(data)
    for holder in (model, *model.graph.node):
        holder.metadata_props.sort(key=lambda entry: entry.key)
    return model


def onnx_content(path):
    return content_of(path.read_bytes())


HEADERS = {
    "tf2onnx": {"producer_name": "tf2onnx", "producer_version": "1.16.1 15c810", "domain": "", "doc_string": ""},
    "pytorch": {"producer_name": "pytorch", "producer_version": "2.13.0"},
    "nobody": {},
    "name with blanks": {"producer_name": "My own exporter", "doc_string": "Mine.", "domain": "org.acme"},
    "version alone": {"producer_version": "3 beta", "doc_string": ""},
    "empty": {"producer_name": "", "producer_version": "", "domain": "", "doc_string": ""},
    "older IR": {"producer_name": "onnx-example", "ir_version": 8},
    "newer IR": {"producer_name": "onnx-example", "ir_version": 11},
}
PROPERTIES = (
    {},
    OLIVE,
    {"model_author": "Alice", "model_license": "apache-2.0", "hf_hub_id": "of another tool"},
    {"hf_model_type": "bert", "hf_downloads": "many", "acme_owner": "me", "namespace": "kept"},
)
STEPS = (
    ("inject",),
    ("tag",),
    ("tag", "inject"),
    ("inject", "tag", "inject", "tag"),
    ("inject", "local", "unembed", "embed", "tag"),
)


class AcmePlugin:
    """Add properties; the file may already have one of them."""

    @hookimpl
    def optimum_htp_metadata(self, metadata, info):
        return {"acme_owner": "Acme", "acme_task": metadata.task}


@pytest.mark.parametrize("number", range(len(HEADERS)), ids=list(HEADERS))
def test_strip_restores_files_of_any_producer(number, plain_bert, model_folder, access):
    do = {
        "inject": lambda path: inject_hub_metadata(path, "tiny/bert", access=access, force=True),
        "local": lambda path: inject_hub_metadata(path, model_folder("bert"), access=access, force=True),
        "tag": tag_file,
        "unembed": unembed_files,
        "embed": lambda path: embed_files(path, model_folder("bert"), access=access),
    }
    plain = onnx.load(plain_bert)
    for name in ("producer_name", "producer_version", "domain", "doc_string"):
        plain.ClearField(name)
    plain.graph.node[0].metadata_props.add(key="namespace", value="theirs")
    plain.graph.node[1].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/model.py")
    for name, value in [*HEADERS.values()][number].items():
        setattr(plain, name, value)
    plugin = AcmePlugin()
    manager().register(plugin)
    try:
        for turn, properties in enumerate(PROPERTIES):
            model = onnx.ModelProto.FromString(plain.SerializeToString())
            onnx.helper.set_model_props(model, properties)
            before = model.SerializeToString(deterministic=True)
            plain_bert.write_bytes(before)
            for step in STEPS[(number + turn) % len(STEPS)]:
                do[step](plain_bert)
            onnx.checker.check_model(plain_bert)
            strip_metadata(plain_bert)
            assert onnx_content(plain_bert) == content_of(before), properties
            if not properties:
                assert plain_bert.read_bytes() == before
    finally:
        manager().unregister(plugin)


def test_strip_does_not_overwrite_later_changes(plain_bert, access):
    rewrite_model(plain_bert, metadata={"hf_task": "theirs"}, texts={"producer_name": "first"}, ir_version=8)
    tag_file(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    texts = {"producer_name": "second", "producer_version": None, "doc_string": "Mine."}
    rewrite_model(plain_bert, texts=texts, ir_version=11)
    strip_metadata(plain_bert)
    header = read_header(plain_bert)
    assert (header.producer_name, header.producer_version, header.doc_string) == ("second", "", "Mine.")
    assert (header.ir_version, header.metadata) == (11, {"hf_task": "theirs"})


def test_file_stamped_without_a_note_gets_its_producer_restored(plain_bert, access):
    rewrite_model(plain_bert, texts={"producer_name": "tf2onnx", "producer_version": "1.16.1 15c810"})
    before = plain_bert.read_bytes()
    for again in (False, True):
        inject_hub_metadata(plain_bert, "tiny/bert", access=access)
        rewrite_model(plain_bert, drop="hf_original".__eq__)
        if again:
            inject_hub_metadata(plain_bert, "tiny/bert", access=access)
        strip_metadata(plain_bert)
        assert plain_bert.read_bytes() == before


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[",
        "[" * 100_000,
        "[1]",
        '{"ir_version": true, "producer_name": 1, "metadata": [], "added": {"mine": 1}}',
        '{"ir_version": 12, "doc_string": "\\ud800", "metadata": {"\\ud800": "x", "mine": "y"}}',
    ],
)
def test_malformed_note_is_harmless(plain_bert, access, note):
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    rewrite_model(plain_bert, metadata={"hf_original": note, "mine": "x"})
    strip_metadata(plain_bert)
    assert read_metadata(plain_bert) == {"mine": "x"}
    onnx.checker.check_model(plain_bert)


def test_stripping_counts_every_key(plain_bert, access):
    tag_file(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    model = onnx.load(plain_bert)
    keys = len(model.metadata_props) + sum(len(node.metadata_props) for node in model.graph.node)
    answer = json.loads(optimum_cli("htp", "strip", plain_bert, "--json").stdout)
    assert answer["files"][0]["removed"] == keys
    left = onnx.load(plain_bert)
    assert len(left.metadata_props) + sum(len(node.metadata_props) for node in left.graph.node) == 0


def test_strip_to_an_output_copies_external_data(plain_bert, access, tmp_path):
    onnx.save(
        onnx.load(plain_bert), plain_bert, save_as_external_data=True, location="bert.onnx_data", size_threshold=0
    )
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    stamped = plain_bert.read_bytes()
    (tmp_path / "out").mkdir()
    optimum_cli("htp", "strip", plain_bert, "--output", tmp_path / "out")
    assert plain_bert.read_bytes() == stamped
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bert.onnx", "bert.onnx_data"]
    onnx.checker.check_model(str(tmp_path / "out" / "bert.onnx"))
    assert not any(key.startswith("hf_") for key in read_metadata(tmp_path / "out" / "bert.onnx"))


def test_strip_to_an_output_overwrites_no_other_data(plain_bert, access, tmp_path):
    onnx.save(onnx.load(plain_bert), plain_bert, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(b"of another model")
    with pytest.raises(OnnxWriteError, match="already exists"):
        strip_metadata(plain_bert, tmp_path / "out" / "m.onnx")
    assert (tmp_path / "out" / "weights.bin").read_bytes() == b"of another model"
    assert not (tmp_path / "out" / "m.onnx").exists()


def test_strip_to_an_output_copies_nothing_from_outside_the_folder(plain_bert, tmp_path):
    model = onnx.load(plain_bert)
    tensor = model.graph.initializer.add(name="evil", data_type=1, dims=[1], data_location=1)
    tensor.external_data.add(key="location", value="../payload")
    plain_bert.write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidOnnxFileError, match="outside its folder"):
        strip_metadata(plain_bert, tmp_path / "out" / "m.onnx")


def test_node_keys_of_other_tools_stay_in_files_without_our_tags(plain_bert):
    model = onnx.load(plain_bert)
    for key, value in {"htp.tag": "theirs", "namespace": "theirs/too"}.items():
        model.graph.node[0].metadata_props.add(key=key, value=value)
    onnx.save(model, plain_bert)
    before = Path(plain_bert).read_bytes()
    assert strip_metadata(plain_bert) == 0
    assert Path(plain_bert).read_bytes() == before


def traced(path):
    """Give each node the properties of PyTorch's dynamo exporter."""
    notes = {"pkg.torch.onnx.stack_trace": "File /home/me/model.py, line 7", "pkg.torch.onnx.fx_node": "%add"}
    rewrite_model(path, nodes=lambda known: {**known, **notes}, ir_version=10)
    return len(onnx.load(path).graph.node)


def test_stack_traces_are_removed_and_everything_else_stays(plain_bert, access, tmp_path):
    before = onnx.load(plain_bert)
    nodes = traced(plain_bert)
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    record = read_metadata(plain_bert)
    done = optimum_cli("htp", "strip", "--stack-traces", str(plain_bert), "--output", str(tmp_path / "new.onnx"))
    assert f"{nodes} stack traces removed" in done.stdout
    assert b"/home/me" in plain_bert.read_bytes()
    assert b"/home/me" not in (tmp_path / "new.onnx").read_bytes()
    assert read_metadata(tmp_path / "new.onnx") == record
    left = onnx.load(tmp_path / "new.onnx").graph.node
    assert {entry.key for node in left for entry in node.metadata_props} == {"pkg.torch.onnx.fx_node"}
    assert strip_stack_traces(plain_bert) == nodes
    assert strip_stack_traces(plain_bert) == 0
    rewrite_model(plain_bert, nodes=lambda known: {}, ir_version=before.ir_version)
    strip_metadata(plain_bert)
    assert onnx.load(plain_bert) == before


def test_inject_and_tag_report_once_how_to_remove_stack_traces(plain_bert, access, caplog):
    nodes = traced(plain_bert)
    for change in (
        lambda: inject_hub_metadata(plain_bert, "tiny/bert", access=access),
        lambda: tag_file(plain_bert),
    ):
        caplog.clear()
        change()
        (said,) = [entry.getMessage() for entry in caplog.records if "stack traces" in entry.getMessage()]
        assert f"{nodes} nodes" in said
        assert f"`optimum-cli htp strip --stack-traces {plain_bert}`" in said
        assert b"/home/me" in plain_bert.read_bytes()
    strip_stack_traces(plain_bert)
    caplog.clear()
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    assert "stack traces" not in caplog.text


def test_an_export_without_tags_has_no_stack_traces_either(plain_bert, access):
    record = inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    traced(plain_bert)
    stamp(plain_bert, record, author=None, extra={}, is_export=True)
    assert b"/home/me" not in plain_bert.read_bytes()
