"""The choice of an engine for a model, and the error if no engine supports it."""

import json
import sys

import pytest
import torch
import transformers

from optimum_htp import HTPExporter
from optimum_htp.errors import ArgumentError, ExportError, MissingDependencyError, OptionError
from optimum_htp.libraries.dependencies import has_transformers_exporters
from optimum_htp.libraries.sample_inputs import sample_inputs

classic = pytest.mark.skipif(has_transformers_exporters(), reason="this transformers has exporters of its own")
newest = pytest.mark.skipif(not has_transformers_exporters(), reason="transformers' own exporters come with 5.24")


@pytest.fixture(scope="module")
def funnel(made_once):
    """A model that Optimum's exporter does not support."""

    def make(folder):
        config = transformers.FunnelConfig(
            vocab_size=60, d_model=16, d_head=8, n_head=2, d_inner=32, block_sizes=[1, 1], num_decoder_layers=1
        )
        torch.manual_seed(0)
        transformers.FunnelForSequenceClassification(config).save_pretrained(folder)

    return made_once("engines/funnel", make)


def test_an_engine_that_is_not_known_is_refused(funnel, tmp_path):
    with pytest.raises(ArgumentError, match="use optimum or transformers"):
        HTPExporter().export(funnel, tmp_path / "out", engine="torch")


@pytest.mark.parametrize("name", ["optimum", pytest.param("transformers", marks=newest)])
def test_unknown_precision_is_rejected(name, model_folder, tmp_path):
    with pytest.raises(OptionError, match="use fp32, fp16, bf16"):
        HTPExporter().export(model_folder("bert"), tmp_path / "out", engine=name, dtype="half")


@classic
def test_missing_exporters_report_the_needed_transformers(funnel, tmp_path):
    with pytest.raises(MissingDependencyError, match=r"needs transformers 5\.24 or newer, and 4\.") as caught:
        HTPExporter().export(funnel, tmp_path / "out", engine="transformers")
    assert 'pip install "transformers>=5.24" onnxscript' in str(caught.value)
    assert not (tmp_path / "out").exists()


@classic
def test_error_without_an_engine_names_the_command(funnel, tmp_path):
    with pytest.raises(ExportError, match="Optimum cannot export") as caught:
        HTPExporter().export(funnel, tmp_path / "out", "text-classification")
    assert "funnel" in str(caught.value)
    assert 'pip install "transformers>=5.24"' in str(caught.value)


@classic
def test_optimums_exporter_is_the_default(model_folder, tmp_path):
    assert HTPExporter().export(model_folder("bert"), tmp_path / "out").engine == "optimum"


@newest
def test_unsupported_model_is_exported_by_transformers(funnel, tmp_path, caplog):
    pytest.importorskip("onnxscript")
    result = HTPExporter().export(funnel, tmp_path / "out")
    assert (result.engine, result.task) == ("transformers", "text-classification")
    assert "with transformers' own exporters. Optimum" in caplog.text
    assert "accepts input_ids of batch_size x 16 only" in caplog.text  # funnel's pooling makes it constant
    from transformers.exporters import ExportedModel

    loaded = ExportedModel.from_pretrained(tmp_path / "out")
    assert loaded(
        input_ids=torch.full((2, 16), 5), attention_mask=torch.ones(2, 16, dtype=torch.long)
    ).logits.shape == (2, 2)


@newest
def test_a_class_with_missing_weights_is_only_exported_if_the_engine_is_named(funnel, tmp_path):
    with pytest.raises(ExportError, match=r"has no funnel\.decoder\.\S+, .+ more\), which FunnelForQ") as caught:
        HTPExporter().export(funnel, tmp_path / "out", "question-answering")
    assert "(FunnelForSequenceClassification): text-classification." in str(caught.value)
    assert not (tmp_path / "out").exists()
    result = HTPExporter().export(funnel, tmp_path / "out", "question-answering", engine="transformers")
    assert result.task == "question-answering"


@newest
@pytest.mark.parametrize("name", ["FocalNet", "RegNet"])
def test_a_class_that_declares_text_input_for_images_is_traced_with_images(name):
    config = getattr(transformers, f"{name}Config")(hidden_sizes=[16, 16], depths=[1, 1])
    model = getattr(transformers, f"{name}ForImageClassification")(config)
    assert model.input_modalities == "text"
    assert {*sample_inputs(model, None, generates=False)} == {"pixel_values"}


@newest
@pytest.mark.parametrize("task", ["text-generation", "image-to-text"])  # the second is a class of AutoModel
@pytest.mark.parametrize("engine", [None, "transformers"])
def test_a_task_without_a_class_of_the_model_is_rejected(task, engine, funnel, tmp_path):
    with pytest.raises(ExportError, match=f"no class of funnel models for {task}.*: text-classification") as caught:
        HTPExporter().export(funnel, tmp_path / "out", task, engine=engine)
    assert not isinstance(caught.value, MissingDependencyError)
    assert not (tmp_path / "out").exists()


@newest
@pytest.mark.slow
def test_a_pipeline_tag_that_no_class_serves_counts_for_nothing(funnel, hub, access, tmp_path):
    hub.add("me/funnel", funnel, pipeline_tag="image-to-text", library_name="transformers")
    result = HTPExporter().export("me/funnel", tmp_path / "out", cache_dir=access.cache_dir)
    assert (result.task, result.metadata.model_class) == ("text-classification", "FunnelForSequenceClassification")


@newest
def test_a_missing_package_is_named_with_its_command(funnel, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingDependencyError, match=r"needs onnxscript\. Run `pip install onnxscript`"):
        HTPExporter().export(funnel, tmp_path / "out", engine="transformers")


@newest
def test_an_option_that_the_engine_lacks_is_an_error_of_the_arguments(funnel, tmp_path):
    pytest.importorskip("onnxscript")
    for engine in ("transformers", None):
        with pytest.raises(ArgumentError, match="no optimization level 'O2': leave it out"):
            HTPExporter().export(funnel, tmp_path / "out", "text-classification", engine=engine, optimize="O2")
    with pytest.raises(ArgumentError, match="no option 'slim': leave it out"):
        HTPExporter().export(funnel, tmp_path / "out", "text-classification", engine="transformers", slim=True)


@newest
@pytest.mark.parametrize("task", ["auto", "text-to-image"])
def test_transformers_own_exporters_refuse_a_diffusion_pipeline(task, tmp_path):
    pytest.importorskip("onnxscript")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(ExportError, match="Leave out --engine"):
        HTPExporter().export(tmp_path / "model", tmp_path / "out", task, engine="transformers")
