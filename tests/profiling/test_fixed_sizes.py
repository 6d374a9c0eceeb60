"""Generated inputs have the sizes that the graph requires."""

from __future__ import annotations

import onnx
import pytest

from optimum_htp.errors import ComparisonError
from optimum_htp.extras.profile.running import profile_file
from optimum_htp.modules.comparison.compare import compare_models
from optimum_htp.onnxfile import TensorSpec, read_signature
from optimum_htp.profiling.optimum_inputs import InputSizeError, fitting_sizes
from tests.support.sizes import fixed

PAST = "decoder_with_past_model.onnx"


@pytest.mark.parametrize(
    ("name", "file", "sizes"),
    [
        ("bert", "model.onnx", {"batch_size": 1}),
        ("bert", "model.onnx", {"batch_size": 3, "input_ids.sequence_length": 5}),
        ("gpt2", "model.onnx", {"past_sequence_length": 5}),
        ("gpt2", "model.onnx", {"batch_size": 1, "sequence_length": 1}),
        ("gpt2", "model.onnx", {"sequence_length": 1, "past_sequence_length + sequence_length": 6}),
        ("t5", PAST, {"batch_size": 1, "encoder_sequence_length": 5, "past_decoder_sequence_length": 7}),
        ("swin", "model.onnx", {"batch_size": 1, "height": 32, "width": 32}),
        ("hubert", "model.onnx", {"batch_size": 1, "sequence_length": 8000}),
    ],
    ids=lambda value: "-".join(f"{name}={size}" for name, size in value.items()) if isinstance(value, dict) else None,
)
def test_fixed_sizes_are_kept(name, file, sizes, zoo_export, tmp_path):
    path = fixed(zoo_export(name).output / file, tmp_path / file, **sizes)
    for sibling in zoo_export(name).output.glob("*.onnx"):
        if sibling.name != file:
            (tmp_path / sibling.name).symlink_to(sibling)
    found = compare_models(path, pytorch=True)
    assert found.compared > 10
    assert not found.exceeds
    shapes = profile_file(path, runs=1, warmup=0).shapes
    for spec in read_signature(path)[0]:
        fixed_sizes = [size for size in spec.shape if isinstance(size, int)]
        pairs = zip(shapes[spec.name], spec.shape, strict=True)
        assert fixed_sizes == [size for size, wanted in pairs if isinstance(wanted, int)]
    if "attention_mask" in shapes and name == "gpt2":
        assert shapes["attention_mask"][1] == shapes["input_ids"][1] + shapes["past_key_values.0.key"][2]


def test_size_that_no_input_of_the_model_has_is_named(zoo_export, tmp_path):
    sizes = {"input_ids.sequence_length": 5, "token_type_ids.sequence_length": 6}
    path = fixed(zoo_export("bert").output / "model.onnx", tmp_path / "model.onnx", **sizes)
    with pytest.raises(InputSizeError, match=r"'(input_ids|token_type_ids)' has the size [56] in dimension 1"):
        compare_models(path, pytorch=True)


def test_huge_input_size_is_rejected_before_generation(zoo_export, tmp_path):
    path = fixed(zoo_export("bert").output / "model.onnx", tmp_path / "model.onnx", sequence_length=1 << 40)
    with pytest.raises(ComparisonError, match="'input_ids'"):
        compare_models(path, pytorch=True)


def test_sizes_are_found_if_a_dimension_depends_on_two():
    def shapes(sizes):
        return {"mask": (2, sizes["past"] + 2 * sizes["new"]), "past": (2, sizes["past"]), "other": (sizes["third"],)}

    inputs = [TensorSpec("mask", ("batch", 17)), TensorSpec("past", ("batch", 7))]
    assert fitting_sizes(shapes, {"past": 1, "new": 1, "third": 3}, inputs) == {"past": 7, "new": 5, "third": 3}


def test_file_with_external_data_is_timed(zoo_export, tmp_path):
    model = onnx.load(zoo_export("bert").output / "model.onnx")
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert profile_file(path, runs=1, warmup=0).total > 0
