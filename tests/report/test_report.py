"""The module tree in the terminal, as JSON and Markdown, and in Model Explorer."""

from __future__ import annotations

import importlib.resources
import json
import shutil

import onnx
import pytest

from optimum_htp import report_document, write_report
from optimum_htp.errors import MetadataError, OptimumHTPError
from optimum_htp.hierarchy.tags import TAG
from optimum_htp.report.html import KINDS, kinds_of
from tests.conftest import ROOT, optimum_cli, run
from tests.support.zoo import ZOO

EXPLORER = ROOT / ".venv-model-explorer" / "bin" / "python"


@pytest.fixture
def schema():
    import jsonschema  # takes seconds

    schema = json.loads((importlib.resources.files("optimum_htp") / "schema" / "report.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def module_of(document, name):
    return next(one for one in document["files"][0]["modules"] if one["name"] == name)


def test_tree_in_the_terminal(file):
    lines = optimum_cli("htp", "info", file, "--tree", "--depth", "3").stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("module "))
    rows = [line.split() for line in lines[start + 1 :]]
    assert rows[0][:2] == ["(model)", "BertForMaskedLM"]
    assert ["layer.0", "BertLayer"] in [row[:2] for row in rows]
    assert not [row for row in rows if row[0] == "query"]  # deeper than requested


def test_tree_as_json(file):
    content = json.loads(optimum_cli("htp", "info", file, "--tree", "--json").stdout)
    assert content["files"][0]["modules"][0]["class_name"] == "BertForMaskedLM"


def test_counts_are_those_of_the_model(file, zoo_export):
    from transformers import BertForMaskedLM

    document = report_document([file])
    model = BertForMaskedLM.from_pretrained(zoo_export("bert").model)
    for name in ("bert.encoder.layer.0.attention.self.query", "bert.encoder.layer.1", "bert.encoder"):
        expected = sum(one.numel() for one in model.get_submodule(name).parameters())
        found = module_of(document, name)["parameters"]
        assert expected <= found <= expected + 20  # and a few constants
        assert module_of(document, name)["bytes"] >= 4 * expected
    root = module_of(document, "")
    assert root["nodes"] == document["files"][0]["model"]["nodes"]
    assert sum(one["own_nodes"] for one in document["files"][0]["modules"]) == root["nodes"]


def test_json_follows_the_shipped_schema(file, schema, zoo_export, tmp_path):
    files = sorted(zoo_export("t5").output.glob("*.onnx"))
    write_report(report_document([file, *files]), tmp_path / "report.json")
    schema.validate(json.loads((tmp_path / "report.json").read_text()))


def test_markdown(file, tmp_path):
    text = write_report(report_document([file]), tmp_path / "report.md").read_text()
    assert "- **class**: BertForMaskedLM" in text
    assert "| `bert.encoder.layer.0.attention.self.query` | Linear | 2 |" in text


def test_report_at_export(published, tmp_path):
    report = tmp_path / "report.json"
    optimum_cli("export", "htp", "--model", published("bert").repo_id, "--report", report, tmp_path / "out")
    assert json.loads(report.read_text())["files"][0]["context"]["record"]["hub_id"] == "tiny/bert"


def test_unknown_format_is_rejected_before_any_work(file, tmp_path):
    done = optimum_cli("htp", "report", file, "-o", tmp_path / "report.pdf", check=False)
    assert done.returncode == 1
    assert ".json, .md, .html" in done.stderr
    with pytest.raises(OptimumHTPError, match="unsupported report format"):
        write_report({}, tmp_path / "report")


def test_error_for_a_file_without_tags_names_the_command(file, tmp_path):
    shutil.copy(file, tmp_path / "plain.onnx")
    optimum_cli("htp", "strip", tmp_path / "plain.onnx")
    with pytest.raises(MetadataError, match="htp tag"):
        report_document([tmp_path / "plain.onnx"])


@pytest.mark.parametrize("name", list(ZOO))
def test_all_modules_have_a_kind_and_attention_classes_are_attention(zoo_export, name):
    path = next(iter(sorted(zoo_export(name).output.glob("*.onnx"))))
    modules = report_document([path])["files"][0]["modules"]
    holders = {child: module["name"] for module in modules for child in module["children"]}
    kinds = kinds_of({module["name"]: module["class_name"] for module in modules}, holders)
    assert set(kinds.values()) <= set(KINDS)
    for module in modules:
        if "Attention" in module["class_name"]:
            assert kinds[module["name"]] == "attention"
        if "Norm" in module["class_name"]:
            assert kinds[module["name"]] == "norm"


_EXPLORER = """
import json, sys
from model_explorer_onnx.main import ONNXAdapter
graphs = ONNXAdapter().convert(sys.argv[1], {})["graphs"]
print(json.dumps([[node.label, node.namespace] for graph in graphs for node in graph.nodes]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not EXPLORER.is_file(), reason="Model Explorer has no environment: `make test-slow` makes one")
def test_model_explorer_shows_the_hierarchy(file, tmp_path):
    proto = onnx.load(file)
    for index, node in enumerate(proto.graph.node):  # Model Explorer falls back to names
        node.name = f"scrambled_{index}"
    onnx.save(proto, tmp_path / "scrambled.onnx")
    nodes = json.loads(run(EXPLORER, "-c", _EXPLORER, tmp_path / "scrambled.onnx").stdout.splitlines()[-1])
    namespaces = {namespace for label, namespace in nodes if label == "MatMul"}
    assert any(one.endswith("bert/encoder/layer/0/attention/self/query") for one in namespaces)
    assert all(any(one.key == TAG for one in node.metadata_props) for node in proto.graph.node)


def test_failed_report_leaves_no_files(file, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("here first")
    done = optimum_cli("htp", "report", file, "-o", blocked / "report.md", check=False)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert blocked.read_text() == "here first"


HOSTILE = [
    "![x](http://evil/y.png)",
    "[x](http://evil)",
    "http://evil www.evil.com",
    "`a` | b",
    "<img src=x>",
    "a\nb\x1b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_images_links_or_rows_from_names(text, tmp_path):
    path = _tagged(tmp_path / "m.onnx", {"": text, text: text}, text, {"hf_license": text})
    report = write_report(report_document([path]), tmp_path / "r.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("| ")]
    assert len(rows) == 4  # head, root and module; the separator line does not match
    for row in rows[1:]:
        plain = row.replace("\\\\", "").replace("\\|", "")
        assert plain.count("|") == 6
        assert not [one for one in ("![", "](", "http:", "www.", "<img", "`") if _without_escapes(one, plain)]
    assert "\x1b" not in report


def _without_escapes(sign, text):
    """Whether a text contains Markdown syntax without a backslash before it."""
    return any(text[at - 1] != "\\" for at in range(1, len(text)) if text.startswith(sign, at))


def _tagged(path, modules, module, metadata=None):
    """Write a model of one tagged node."""
    from optimum_htp.onnxfile import rewrite_model
    from tests.vectors import make

    proto = make.model({**make.HUB, **(metadata or {}), "htp.modules": json.dumps(modules)})
    onnx.helper.set_model_props(proto.graph.node[0], {"htp.module": module})
    path.write_bytes(proto.SerializeToString())
    rewrite_model(path, ir_version=10)
    return path


def test_reports_with_lone_surrogates_are_written(schema, tmp_path):
    path = _tagged(
        tmp_path / "m.onnx", {"": "\ud800", "a": "\udfff"}, "a", {"htp.coverage": '{"name": NaN, "root": "x"}'}
    )
    for suffix in ("json", "md", "html"):
        text = write_report(report_document([path]), tmp_path / f"r.{suffix}").read_text(encoding="utf-8")
        assert "\\ud800" in text
    content = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    schema.validate(content)
    assert content["files"][0]["modules"][0]["class_name"] == "\ud800"
    assert content["files"][0]["coverage"] == {}


def test_report_reads_no_data_outside_the_files_folder(tmp_path):
    folder, secret = tmp_path / "model", tmp_path / "secret.bin"
    (folder / "sub").mkdir(parents=True)
    secret.write_bytes(b"12345")
    (folder / "sub" / "inside.bin").write_bytes(b"123")
    (folder / "link.bin").symlink_to(secret)
    (folder / "pipe").mkdir()
    path = _tagged(folder / "m.onnx", {"": "Model"}, "")
    names = [str(secret), "../secret.bin", "sub/../../secret.bin", "link.bin", "pipe", "", "x" * 5000, "a\0b"]
    proto = onnx.load(path)
    for name in [*names, "sub/inside.bin"]:
        tensor = proto.graph.initializer.add(name=name[:99], data_type=1, data_location=1)
        tensor.external_data.add(key="location", value=name)
    path.write_bytes(proto.SerializeToString())
    (file,) = report_document([path])["files"]
    assert file["external_files"] == [{"file": "sub/inside.bin", "bytes": 3}]


def test_report_lists_external_data_in_the_hub_cache(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "1", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    path = blobs / "abc"
    proto = onnx.load(_tagged(tmp_path / "m.onnx", {"": "Model"}, ""))
    tensor = proto.graph.initializer.add(name="w", data_type=1, data_location=1)
    tensor.external_data.add(key="location", value="m.onnx_data")
    path.write_bytes(proto.SerializeToString())
    (blobs / "def").write_bytes(b"1234")
    (snapshot / "m.onnx").symlink_to(path)
    (snapshot / "m.onnx_data").symlink_to(blobs / "def")
    (file,) = report_document([snapshot / "m.onnx"])["files"]
    assert file["external_files"] == [{"file": "m.onnx_data", "bytes": 4}]
