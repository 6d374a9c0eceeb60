"""Models of timm: the config has no model type, other names for labels, and no other file."""

import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from optimum_htp import HTPExporter, inject_hub_metadata, prove_weights
from optimum_htp.errors import ExportError, PreprocessorLoadError
from optimum_htp.metadata import read_record
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.conftest import run_python

LABELS = ["ant", "bee", "cat", "dog", "elk"]
CONFIG = {
    "architecture": "test_resnet",
    "num_classes": 5,
    "label_names": LABELS,
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "num_classes": 5,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "crop_pct": 1.0,
    },
}
UNNAMED = {key: value for key, value in CONFIG.items() if key != "label_names"}


def graph(path):
    """Save an image classifier with five labels."""
    shapes = {"wide": (3, 400), "narrow": (400, 5)}
    weights = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in shapes.items()]
    nodes = [
        make_node("ReduceMean", ["pixel_values"], ["means"], axes=[2, 3], keepdims=0),
        make_node("MatMul", ["means", "wide"], ["hidden"]),
        make_node("MatMul", ["hidden", "narrow"], ["logits"]),
    ]
    taken = make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, ["batch_size", 3, "height", "width"])
    given = make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch_size", 5])
    made = make_graph(nodes, "classifier", [taken], [given], weights)
    onnx.save(make_model(made, opset_imports=[make_opsetid("", 17)], ir_version=10), path)
    return path


def has_timm():
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError):  # PyPI's torchvision does not run with PyTorch's CPU build
        return False
    return True


def classifier():
    from optimum.onnxruntime import ORTModelForImageClassification

    return ORTModelForImageClassification


with_timm = pytest.mark.skipif(not has_timm(), reason="timm, with a torchvision that runs here, is not installed")


def test_a_file_of_timm_names_its_labels_and_its_image_processor(hub, tmp_path):
    hub.add("timm/tiny", {"config.json": json.dumps(CONFIG).encode()}, pipeline_tag="image-classification")
    file = graph(tmp_path / "model.onnx")
    record = inject_hub_metadata(file, "timm/tiny")
    assert (record.export_library, record.task, record.preprocessors) == (
        "timm",
        "image-classification",
        ("AutoImageProcessor",),
    )
    model = classifier().from_pretrained(file)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model(pixel_values=torch.rand(2, 3, 8, 8)).logits.shape == (2, 5)


@pytest.mark.parametrize("config", [UNNAMED, {**UNNAMED["pretrained_cfg"], "architecture": "test_resnet"}])
@pytest.mark.parametrize("stamped", [True, False])
def test_number_of_labels_matches_the_config(config, stamped, hub, tmp_path):
    file = graph(tmp_path / "model.onnx")
    (tmp_path / "config.json").write_text(json.dumps(config))  # the second is written by Optimum's exporter
    if stamped:
        hub.add("timm/unnamed", {"config.json": json.dumps(config).encode()}, pipeline_tag="image-classification")
        inject_hub_metadata(file, "timm/unnamed")
    assert len(classifier().from_pretrained(file).config.id2label) == 5


@pytest.mark.skipif(has_timm(), reason="timm is installed")
def test_missing_timm_is_named(hub, tmp_path):
    hub.add("timm/tiny", {"config.json": json.dumps(CONFIG).encode()}, pipeline_tag="image-classification")
    file = graph(tmp_path / "model.onnx")
    inject_hub_metadata(file, "timm/tiny")
    with pytest.raises(PreprocessorLoadError, match="pip install timm"):
        list(classifier().from_pretrained(file).preprocessors)


def test_a_failed_import_of_timm_is_reported(hub, tmp_path):
    hub.add("timm/tiny", {"config.json": json.dumps(CONFIG).encode()}, pipeline_tag="image-classification")
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    code = (
        "from optimum_htp import HTPExporter\n"
        "from optimum_htp.errors import ExportError\n"
        "try: HTPExporter().export('timm/tiny', 'out', engine='optimum')\n"
        "except ExportError as error: print(error)\n"
    )
    said = run_python(code, PYTHONPATH=str(tmp_path)).stdout
    assert "torchvision::nms does not exist" in said
    assert "Install the torchvision" in said


@pytest.fixture(scope="module")
def saved(made_once):
    """A real model, saved as timm saves it for a Hub."""
    timm = pytest.importorskip("timm")

    def make(folder):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=5).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)
        timm.models.save_for_hf(model, folder, {"num_classes": 5, "label_names": LABELS}, safe_serialization=True)

    return made_once("models/timm", make)


@with_timm
def test_both_engines_export_the_classifier_and_it_answers_as_timm_does(saved, hub, tmp_path):
    import timm
    from PIL import Image
    from transformers import pipeline

    config = json.loads((saved / "config.json").read_text())
    config.pop("model_args", None)  # TimmWrapperForImageClassification passes some twice
    shutil.copytree(saved, tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    hub.add("timm/real", tmp_path / "saved", pipeline_tag="image-classification", library_name="timm")
    pixels = torch.rand(2, 3, 160, 160)
    own = timm.create_model(f"local-dir:{tmp_path / 'saved'}", pretrained=True).eval()
    with torch.inference_mode():
        expected = own(pixels)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (170, 170, 3), np.uint8))
    answers = []
    for engine in ("optimum", "transformers"):
        pytest.importorskip(f"{engine}.exporters")
        HTPExporter().export("timm/real", tmp_path / engine, engine=engine)
        file = tmp_path / engine / "model.onnx"
        record = read_record(file)
        assert (record.task, record.export_library) == ("image-classification", "timm")
        assert verify_metadata(file).status is Status.OK
        proof = prove_weights(file)
        assert proof.counts["foreign"] == 0
        assert proof.counts["proven"]
        model = classifier().from_pretrained(file)
        assert torch.allclose(model(pixel_values=pixels).logits, expected, atol=1e-4)
        answers.append(pipeline(model=str(file))(picture))
        assert {one["label"] for one in answers[-1]} == {*LABELS}
    assert [one["label"] for one in answers[0]] == [one["label"] for one in answers[-1]]


@with_timm
def test_unloadable_model_is_not_blamed_on_sample_inputs(saved, hub, tmp_path):
    pytest.importorskip("transformers.exporters")
    hub.add("timm/arguments", saved, pipeline_tag="image-classification", library_name="timm")
    with pytest.raises(ExportError, match="multiple values") as raised:
        HTPExporter().export("timm/arguments", tmp_path / "out", engine="transformers")
    assert "sample_inputs" not in str(raised.value)
