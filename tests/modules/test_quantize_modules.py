"""Quantization by module: dynamic, static, four-bit; from Python and the command line; and the stored weights."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import CalibrationMethod
from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer
from optimum.onnxruntime.configuration import CalibrationConfig

from optimum_htp import UnknownModuleError, report_document, select_nodes, tag_file
from optimum_htp.extras.profile.running import profile_file
from optimum_htp.hierarchy.summary import summarize
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.modules.quantize import ModuleChoice, choosing
from optimum_htp.report.markdown import as_markdown
from optimum_htp.report.outline import outline
from tests.conftest import optimum_cli

LAYER = "bert.encoder.layer.0"
QUANTIZED = {"MatMulInteger", "ConvInteger", "MatMulNBits"}


def dynamic(**lists):
    config = AutoQuantizationConfig.avx2(is_static=False)
    for name, entries in lists.items():
        setattr(config, name, entries)
    return config


def quantized_modules(path):
    graph, assignment = read_modules(path)
    return {module for node, module in zip(graph.nodes, assignment.modules, strict=True) if node.op_type in QUANTIZED}


def costs(path):
    return summarize(*read_modules(path))


def runs(path):
    feeds = {"input_ids": np.array([[2, 7, 8, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    feeds["token_type_ids"] = np.zeros((1, 4), np.int64)
    return onnxruntime.InferenceSession(path).run(None, feeds)[0]


def test_dynamic_quantization_leaves_modules_out(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    config = dynamic(nodes_to_exclude=[f"{LAYER}.attention", "classifier"])
    ORTQuantizer.from_pretrained(source).quantize(config, save_dir=tmp_path)
    made = tmp_path / "model_quantized.onnx"
    inside = quantized_modules(made)
    assert not any(module.startswith((f"{LAYER}.attention", "classifier")) for module in inside)
    assert any(module.startswith("bert.encoder.layer.1.attention") for module in inside)
    assert any(module.startswith(f"{LAYER}.intermediate") for module in inside)
    assert config.nodes_to_exclude == [f"{LAYER}.attention", "classifier"]  # the caller's own file is unchanged
    assert np.abs(runs(made) - runs(source)).max() < 0.5


def test_classes_and_names_of_nodes_stand_side_by_side(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    one = select_nodes(source, "bert.encoder.layer.1.output.dense")[0]
    config = dynamic(nodes_to_exclude=["BertIntermediate", one])
    ORTQuantizer.from_pretrained(source).quantize(config, tmp_path)
    inside = quantized_modules(tmp_path / "model_quantized.onnx")
    assert not any("intermediate" in module for module in inside)
    assert "bert.encoder.layer.1.output.dense" not in inside
    assert f"{LAYER}.output.dense" in inside


def test_names_of_gemm_halves_in_onnx_runtime_are_node_names(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    gemm = next(
        node.name for node in onnx.load(source).graph.node if node.op_type == "Gemm" and "classifier" in node.name
    )
    for entries in ([f"{gemm}_MatMul"], [f"{gemm}_MatMul", f"{gemm}_Add", LAYER]):
        ORTQuantizer.from_pretrained(source).quantize(dynamic(nodes_to_exclude=entries), tmp_path)
        inside = quantized_modules(tmp_path / "model_quantized.onnx")
        assert "classifier" not in inside
        assert "bert.pooler.dense" in inside


def test_only_some_modules(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    config = dynamic(nodes_to_quantize=[f"{LAYER}.**.dense"])
    ORTQuantizer.from_pretrained(source).quantize(quantization_config=config, save_dir=tmp_path)
    inside = quantized_modules(tmp_path / "model_quantized.onnx")
    assert inside
    assert all(module.startswith(LAYER) for module in inside)


def test_unknown_module_error_lists_similar_names(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    with pytest.raises(UnknownModuleError, match=r"bert\.encoder\.layer\.0") as caught:
        ORTQuantizer.from_pretrained(source).quantize(dynamic(nodes_to_exclude=["bert.encoder.layr.0"]), tmp_path)
    assert caught.value.pattern == "bert.encoder.layr.0"
    assert "bert.encoder.layer.0" in caught.value.nearest
    assert not (tmp_path / "model_quantized.onnx").exists()


def test_file_without_tags_is_quantized_as_without_us(plain, model_folder, tmp_path):
    shutil.copy(plain("bert", task="text-classification") / "model.onnx", tmp_path)
    shutil.copy(model_folder("bert") / "config.json", tmp_path)
    ORTQuantizer.from_pretrained(tmp_path).quantize(dynamic(nodes_to_exclude=[LAYER]), tmp_path / "out")
    model = onnx.load(tmp_path / "out" / "model_quantized.onnx")
    assert any("layer.0/attention" in node.name and "quant" in node.name for node in model.graph.node)


def test_static_quantization_with_calibration(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    samples = [
        {
            "input_ids": np.array([2, *range(5 + row, 10 + row), 3]),
            "attention_mask": np.ones(7, np.int64),
            "token_type_ids": np.zeros(7, np.int64),
        }
        for row in range(8)
    ]
    quantizer = ORTQuantizer.from_pretrained(source)
    config = AutoQuantizationConfig.avx2(is_static=True)
    config.operators_to_quantize = ["MatMul"]
    config.nodes_to_exclude = [LAYER, "BertPooler", "classifier"]
    calibration = CalibrationConfig("rows", "", "", len(samples), CalibrationMethod.MinMax)
    ranges = quantizer.fit(samples, calibration, tmp_path / "augmented.onnx", operators_to_quantize=["MatMul"])
    quantizer.quantize(config, tmp_path / "out", calibration_tensors_range=ranges)
    made = tmp_path / "out" / "model_quantized.onnx"
    modules = costs(made)
    assert modules["bert.encoder.layer.1.intermediate.dense"].weights["int8"]
    assert set(modules[LAYER].weights) == {"float32"}
    assert modules[LAYER].saved_bytes == 0
    assert np.abs(runs(made) - runs(source)).max() < 0.5


def test_four_bit_weights(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    model = onnx.load(source)
    excluded = select_nodes(source, ["bert.encoder.layer.1", "bert.pooler", "classifier"])
    nbits = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer", reason="ONNX Runtime is too old")
    quantizer = nbits.MatMulNBitsQuantizer(model, block_size=16, nodes_to_exclude=excluded, bits=4)
    quantizer.process()
    made = tmp_path / "int4.onnx"
    quantizer.model.save_model_to_file(str(made))
    tag_file(made, original=source)
    assert quantized_modules(made)
    assert all(module.startswith(LAYER) for module in quantized_modules(made))
    before, after = costs(source), costs(made)
    dense = f"{LAYER}.intermediate.dense"
    assert set(after[dense].weights) == {"int4", "float32"}
    assert after[dense].saved_bytes == before[dense].bytes - after[dense].bytes
    assert after["bert.encoder.layer.1"].saved_bytes == 0
    assert after[""].saved_bytes == before[""].bytes - after[""].bytes


def test_half_precision_and_its_messages(exported, tmp_path):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = exported("bert") / "model.onnx"
    half = convert_float_to_float16(onnx.load(source), keep_io_types=True)
    onnx.save(half, tmp_path / "half.onnx")
    made = tmp_path / "half.onnx"
    tag_file(made, original=source)
    module = costs(made)[LAYER]
    assert set(module.weights) == {"float16"}
    assert module.saved_bytes == sum(module.weights.values())


def test_tree_report_and_page_show_weight_formats(exported, tmp_path):
    source = exported("bert") / "model.onnx"
    ORTQuantizer.from_pretrained(source).quantize(dynamic(nodes_to_exclude=[LAYER]), save_dir=tmp_path)
    made = tmp_path / "model_quantized.onnx"
    heading, *lines = outline(costs(made))
    assert heading.split()[:6] == ["module", "nodes", "parameters", "size", "weights", "saved"]
    dense = next(line for line in lines if line.strip().startswith("layer.1 "))
    assert "int8, float32" in dense
    assert "| weights | saved |" in as_markdown(report_document([made]))
    assert "weights" not in next(iter(outline(costs(source))))
    (module,) = [one for one in report_document([made])["files"][0]["modules"] if one["name"] == LAYER]
    assert module["weights"] == {"float32": module["weights"]["float32"]}
    assert module["saved_bytes"] == 0


@pytest.mark.slow
def test_command_with_modules(exported, tmp_path):
    options = ("--avx2", "--exclude-modules", f"{LAYER}.**", "BertPooler", "-o", tmp_path / "out")
    optimum_cli("onnxruntime", "quantize", "--onnx_model", exported("bert"), *options)
    inside = quantized_modules(tmp_path / "out" / "model_quantized.onnx")
    assert inside
    assert not any(module.startswith((LAYER, "bert.pooler")) for module in inside)
    modules = summarize(*_timed(tmp_path / "out" / "model_quantized.onnx"))
    assert modules["bert.encoder.layer.1"].weights["int8"]
    assert modules["bert.encoder.layer.1"].saved_bytes > 0


def _timed(path):
    profile = profile_file(path, runs=1, warmup=0)
    return profile.graph, profile.assignment


def test_of_several_files_a_pattern_has_to_match_in_one(exported, tmp_path):
    files = tuple(sorted(exported("t5").glob("*.onnx")))
    with choosing(ModuleChoice(files, only=("encoder.block.0.**",))):
        for name in ("encoder_model", "decoder_model"):
            quantizer = ORTQuantizer.from_pretrained(exported("t5"), file_name=f"{name}.onnx")
            quantizer.quantize(dynamic(), tmp_path)
    inside = quantized_modules(tmp_path / "encoder_model_quantized.onnx")
    assert inside
    assert all(module.startswith("encoder.block.0.") for module in inside)
    assert not quantized_modules(tmp_path / "decoder_model_quantized.onnx")


@pytest.mark.slow
def test_command_rejects_a_pattern_without_a_match_in_any_file(exported, tmp_path):
    options = ("--avx2", "--exclude-modules", "encoder.blok.0", "-o", tmp_path / "none")
    result = optimum_cli("onnxruntime", "quantize", "--onnx_model", exported("t5"), *options, check=False)
    assert result.returncode == 1
    assert "encoder.block.0" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "none").exists()


def test_names_of_a_file_steer_no_terminal(exported, tmp_path):
    model = onnx.load(exported("bert") / "model.onnx")
    hostile = "bert.encoder.layer.1.output.\x1b]0;forged\x07dense"
    for node in model.graph.node:
        for entry in node.metadata_props:
            if entry.key == "htp.module" and entry.value == "bert.encoder.layer.1.output.dense":
                entry.value = hostile
    (tmp_path / "in").mkdir()
    onnx.save(model, tmp_path / "in" / "model.onnx")
    near = hostile.replace("dense", "dens")
    options = ("--avx2", "--exclude-modules", near, "-o", tmp_path / "none")
    result = optimum_cli("onnxruntime", "quantize", "--onnx_model", tmp_path / "in", *options, check=False)
    assert result.returncode == 1
    assert "forged" in result.stderr.splitlines()[-1]
    assert not {"\x1b", "\x07"} & {*result.stderr}
