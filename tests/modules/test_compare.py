"""Differences are found in the module that causes them; equal models have none."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnx.numpy_helper as nh
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic
from packaging.version import Version

from optimum_htp import HTPExporter
from optimum_htp.errors import ArgumentError, ComparisonError, MetadataError
from optimum_htp.modules.comparison.compare import compare_models
from optimum_htp.modules.comparison.records import distance
from tests.conftest import optimum_cli
from tests.support.changed_weights import changed, weight_of
from tests.support.zoo import ZOO

LAYER = "bert.encoder.layer.1"
INPUTS = {
    "input_ids": np.arange(5, 21).reshape(2, 8),
    "attention_mask": np.array([[1] * 8, [1] * 3 + [0] * 5]),
    "token_type_ids": np.zeros((2, 8), np.int64),
}


@pytest.fixture
def bert(zoo_export):
    return zoo_export("bert").output / "model.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ZOO))
def test_clean_export_equals_pytorch(name, zoo_export):
    for path in zoo_export(name).output.rglob("*.onnx"):
        found = compare_models(path, pytorch=True)
        assert not found.exceeds
        assert (found.first, found.most) == (None, None)
        inside = "_merged" in path.name  # its values are in branches
        assert len([module for module in found.modules if module.values]) >= (1 if inside else 15)
        assert inside or len([one for module in found.modules for one in module.weights]) >= 10


def test_file_equals_itself_in_everything(bert):
    found = compare_models(bert, bert, atol=0, rtol=0)
    assert not found.exceeds
    assert not any(module.differs for module in found.modules)


def test_weight_changed_in_one_layer(bert, tmp_path):
    def change(arrays, model):
        arrays[weight_of(model, f"{LAYER}.intermediate.dense")][0, 0] += 0.5

    found = compare_models(bert, changed(bert, tmp_path / "m.onnx", change))
    assert found.first.name == found.most.name == f"{LAYER}.intermediate.dense"
    (weight,) = [one for module in found.modules for one in module.weights if one.kind != "equal"]
    assert (weight.kind, round(weight.difference, 3)) == ("changed", 0.5)
    assert not any(module.exceeds for module in found.modules if module.name.startswith("bert.encoder.layer.0"))


def test_activation_exchanged(zoo_export, tmp_path):
    made = zoo_export("bert")
    folder = shutil.copytree(made.model, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu_new"}))
    HTPExporter().export(folder, tmp_path / "out", task=ZOO["bert"].task)
    found = compare_models(made.output / "model.onnx", tmp_path / "out" / "model.onnx", atol=1e-6, rtol=1e-5)
    assert found.first.name == "bert.encoder.layer.0.intermediate.intermediate_act_fn"
    modules = {module.name: module for module in found.modules}
    operators = modules[f"{LAYER}.intermediate.intermediate_act_fn"].operators
    assert operators["Erf"] == (1, 0)
    assert operators["Tanh"] == (0, 1)
    assert not modules[f"{LAYER}.attention.self.query"].operators


def test_int8_damage_in_one_projection(bert, tmp_path):
    module = f"{LAYER}.attention.output.dense"
    node = next(
        node.name
        for node in onnx.load(bert).graph.node
        if node.op_type == "MatMul" and any(prop.value == module for prop in node.metadata_props)
    )
    target = tmp_path / "q.onnx"
    quantize_dynamic(bert, target, weight_type=QuantType.QInt8, nodes_to_quantize=[node])
    found = compare_models(bert, target)
    assert found.first.name == found.most.name == module
    kinds = {one.kind for entry in found.modules if entry.name == module for one in entry.weights}
    assert "quantized" in kinds
    assert all(one.kind == "equal" for entry in found.modules if entry.name != module for one in entry.weights)


@pytest.mark.skipif(
    Version(onnxruntime.__version__) < Version("1.21"), reason="ONNX Runtime 1.20 makes an ill-typed graph of it"
)
def test_overflow_of_half_precision(bert, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    def enlarge(arrays, model):
        arrays[weight_of(model, f"{LAYER}.intermediate.dense")] *= 1e5

    large = changed(bert, tmp_path / "large.onnx", enlarge)
    onnx.save(convert_float_to_float16(onnx.load(large), keep_io_types=True), tmp_path / "half.onnx")
    found = compare_models(large, tmp_path / "half.onnx", atol=0.05, rtol=0.05)
    assert found.first.name == f"{LAYER}.intermediate.dense"
    assert found.first.worst.absolute == float("inf")
    assert json.dumps(found.as_dict())


def test_infinities_must_match_exactly():
    """The tolerance grows with the expected value; for an infinity it is infinite."""
    finite, infinite = np.array([1.0, 2.0], np.float32), np.array([1.0, np.inf], np.float32)
    assert distance(finite, infinite, 1e-4, 1e-3).exceeded == distance(infinite, finite, 1e-4, 1e-3).exceeded == 1
    assert distance(infinite, -infinite, 1e-4, 1e-3).exceeded == 2
    assert not distance(infinite, infinite, 0, 0).exceeded


@pytest.mark.parametrize("swapped", [False, True])
def test_overflow_on_either_side_exceeds(bert, tmp_path, swapped):
    def enlarge(arrays, model):
        arrays["bert.embeddings.LayerNorm.weight"][3] = np.inf

    pair = [changed(bert, tmp_path / "m.onnx", enlarge), bert]
    found = compare_models(*(reversed(pair) if swapped else pair))
    assert found.exceeds
    (weight,) = [one for module in found.modules for one in module.weights if one.kind != "equal"]
    assert (weight.name, weight.exceeded) == ("bert.embeddings.LayerNorm.weight", True)
    same = compare_models(pair[0], pair[0])
    assert not same.exceeds
    assert all(one.kind == "equal" for module in same.modules for one in module.weights)


@pytest.mark.slow
def test_incomparable_outputs_exceed_the_tolerances(bert, tmp_path, empty_home):
    renamed = onnx.load(bert)
    (output,) = renamed.graph.output
    name = output.name
    for node in renamed.graph.node:
        node.output[:] = ["other" if value == name else value for value in node.output]
    output.name = "other"
    onnx.save(renamed, tmp_path / "renamed.onnx")
    wider = onnx.load(bert)
    wider.graph.output[0].name = "wide"
    (tensor,) = wider.graph.output
    for node in wider.graph.node:
        node.output[:] = ["narrow" if value == name else value for value in node.output]
    wider.graph.node.append(onnx.helper.make_node("Concat", ["narrow", "narrow"], [name], axis=-1))
    tensor.name = name
    del tensor.type.tensor_type.shape.dim[-1:]
    tensor.type.tensor_type.shape.dim.add().dim_param = "twice"
    onnx.save(wider, tmp_path / "wider.onnx")
    for path, words in (("renamed.onnx", "is not an output of the other file"), ("wider.onnx", "in the other")):
        found = compare_models(bert, tmp_path / path)
        assert found.exceeds
        assert words in found.problems[name]
        done = optimum_cli(
            "htp", "compare", bert, tmp_path / path, "-o", tmp_path / "c.html", check=False, **empty_home
        )
        assert done.returncode == 1
        assert f"not comparable: {name} " in done.stdout
        assert "none beyond" not in done.stdout
        assert f"not comparable: {name} " in (tmp_path / "c.html").read_text()


def test_files_that_a_folder_lacks_are_named(zoo_export, tmp_path, empty_home):
    one = zoo_export("t5").output
    other = shutil.copytree(one, tmp_path / "other")
    gone = sorted(path.name for path in other.glob("*.onnx"))[0]
    (other / gone).unlink()
    done = optimum_cli("htp", "compare", one, other, "--json", check=False, **empty_home)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["missing"] == [gone]
    assert document["exceeds"]
    assert not any(comparison["exceeds"] for comparison in document["comparisons"])
    done = optimum_cli("htp", "compare", one, other, check=False, **empty_home)
    assert done.returncode == 1
    assert f"has no {gone}" in done.stdout


def test_wrong_attention_mask(bert, tmp_path):
    model = onnx.load(bert)
    least = np.finfo(np.float32).min
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and (value := nh.to_array(attribute.t)).size and value.flat[0] <= least:
                attribute.t.CopyFrom(nh.from_array(np.zeros_like(value)))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **INPUTS)
    found = compare_models(bert, tmp_path / "m.onnx", inputs=tmp_path / "x.npz")
    assert found.exceeds
    attention = [module.name for module in found.modules if module.exceeds and "layer.0" in module.name]
    assert attention[0] == "bert.encoder.layer.0.attention.self"  # query, key and value are unchanged
    unmasked = {**INPUTS, "attention_mask": np.ones((2, 8), np.int64)}
    assert not compare_models(bert, tmp_path / "m.onnx", inputs=unmasked).exceeds


def test_command_prints_and_writes_the_result(bert, tmp_path, empty_home):
    def change(arrays, model):
        arrays[weight_of(model, f"{LAYER}.intermediate.dense")][0, 0] += 0.5

    other = changed(bert, tmp_path / "m.onnx", change)
    page, table = tmp_path / "c.html", tmp_path / "c.md"
    done = optimum_cli("htp", "compare", bert, other, "--json", "-o", page, check=False, **empty_home)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["exceeds"]
    assert document["comparisons"][0]["first_exceeded"] == f"{LAYER}.intermediate.dense"
    text = page.read_text()
    assert '<option value="difference">' in text
    assert "first beyond the tolerance" in text
    done = optimum_cli("htp", "compare", bert, "--pytorch", "-o", table, **empty_home)
    assert "none beyond" in done.stdout
    assert f"{LAYER}.intermediate.dense Linear" in table.read_text()


def test_incomparable_models_are_reported(bert, plain_bert, tmp_path):
    with pytest.raises(ArgumentError):
        compare_models(bert)
    with pytest.raises(MetadataError, match="no tags"):
        compare_models(plain_bert, bert)
    with pytest.raises(ComparisonError, match="attention_mask"):
        compare_models(bert, bert, inputs={"input_ids": INPUTS["input_ids"]})
    (tmp_path / "x.npz").write_bytes(b"no arrays")
    with pytest.raises(ComparisonError, match=r"numpy\.savez"):
        compare_models(bert, bert, inputs=tmp_path / "x.npz")


def test_names_in_a_markdown_comparison_are_no_markup(bert, tmp_path):
    hostile = "<img src=x>[click](https://evil.example)|`"
    model = onnx.load(bert)
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == "htp.module" and entry.value == f"{LAYER}.output.dense":
                entry.value = f"{LAYER}.output.{hostile}"
    onnx.save(model, tmp_path / "hostile.onnx")
    optimum_cli(
        "htp", "compare", tmp_path / "hostile.onnx", tmp_path / "hostile.onnx", "-o", tmp_path / "new" / "d.MD"
    )
    text = (tmp_path / "new" / "d.MD").read_text()
    assert "img src" in text
    assert not any(sign in text for sign in ("<img", "[click](", "https://"))
    assert len({line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_unknown_output_format_is_rejected_before_the_work(bert, tmp_path):
    done = optimum_cli("htp", "compare", bert, tmp_path / "missing.onnx", "-o", "diff.txt", check=False)
    assert (done.returncode, "diff.txt: unsupported report format" in done.stderr) == (1, True)


def test_hidden_files_of_a_folder_are_not_compared(bert, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(bert, tmp_path / folder / "model.onnx")
    (tmp_path / "a" / ".optimum-htp-killed").mkdir()
    (tmp_path / "a" / ".optimum-htp-killed" / "model.onnx").write_bytes(b"half")
    done = optimum_cli("htp", "compare", tmp_path / "a", tmp_path / "b", "--json")
    assert len(json.loads(done.stdout)["comparisons"]) == 1
