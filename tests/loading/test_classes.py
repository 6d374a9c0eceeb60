"""All of Optimum's classes match PyTorch, loaded from the files alone.

`tests/support/zoo.py` has the table of architectures, classes and tasks. The tests compare all outputs that both
return, or, for generators, the tokens and the logits of each step.
"""

from __future__ import annotations

import numpy as np
import optimum.onnxruntime
import pytest
import torch
import transformers

from optimum_htp import OptimumONNXModel
from optimum_htp.hooks.patching import is_wrapped
from tests.support.animals import inputs
from tests.support.zoo import ZOO

OTHERS = {
    "ORTModelForCustomTasks": "test_custom_task",
    "ORTModelForCausalLM": "gpt2",
}


def test_table_has_every_class_that_optimum_has():
    classes = {
        name
        for name in dir(optimum.onnxruntime)
        if name.startswith("ORTModelFor") and isinstance(getattr(optimum.onnxruntime, name), type)
    }
    assert classes == {animal.ort_class for animal in ZOO.values()} | set(OTHERS)


def test_all_classes_with_from_pretrained_are_hooked():
    """All of Optimum's classes with a `from_pretrained` use the hook."""
    pytest.importorskip("diffusers")
    loading = [
        one
        for one in (getattr(optimum.onnxruntime, name) for name in dir(optimum.onnxruntime) if name.startswith("ORT"))
        if isinstance(one, type)
        and hasattr(one, "from_pretrained")
        and not issubclass(one, transformers.PretrainedConfig)
    ]
    assert len(loading) > 25
    assert [one.__name__ for one in loading if not is_wrapped(one.from_pretrained)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_class_matches_pytorch(name, zoo_export, tmp_path, monkeypatch, hub):
    """Model and preprocessors are loaded from the embedded files only."""
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "embedded")
    animal, files = ZOO[name], zoo_export(name)
    cls = getattr(optimum.onnxruntime, animal.ort_class)
    file = sorted(files.output.glob("*.onnx"))[-1]  # the first of several files embeds the configs
    with hub.recorded() as requests:
        ours = cls.from_pretrained(file)
        preprocessors = list(getattr(ours, "preprocessors", ()))
    assert requests == []
    _same_preprocessors(preprocessors, files.model)
    assert isinstance(ours, cls)  # Whisper has its own class
    assert type(OptimumONNXModel.from_pretrained(file)) is type(ours)
    theirs = getattr(transformers, animal.model).from_pretrained(files.model).eval()
    batch = inputs(animal)
    if ours.can_generate():
        _same_generation(ours, theirs, batch, animal)
    else:
        with torch.no_grad():
            mine, reference = ours(**batch), theirs(**batch)
        shared = [key for key in mine if isinstance(mine[key], torch.Tensor) and key in reference]
        assert shared
        for key in shared:
            np.testing.assert_allclose(mine[key], reference[key], atol=animal.max_difference, err_msg=key)
    ours.save_pretrained(tmp_path / "saved")
    assert type(cls.from_pretrained(tmp_path / "saved")) is type(ours)


def _same_preprocessors(ours, model):
    for mine in ours:
        theirs = type(mine).from_pretrained(model)
        if isinstance(mine, transformers.PreTrainedTokenizerBase):
            assert mine("the small cat ran").input_ids == theirs("the small cat ran").input_ids
            assert mine.is_fast == theirs.is_fast
        assert str(mine.to_dict() if hasattr(mine, "to_dict") else mine.special_tokens_map) == str(
            theirs.to_dict() if hasattr(theirs, "to_dict") else theirs.special_tokens_map
        )


def _same_generation(ours, theirs, batch, animal):
    options = {
        "max_new_tokens": 8,
        "min_new_tokens": 8,
        "do_sample": False,
        "num_beams": 1,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    mine, reference = ours.generate(**batch, **options), theirs.generate(**batch, **options)
    assert mine.sequences.tolist() == reference.sequences.tolist()
    assert len(reference.sequences[:, -8:].unique()) >= 3
    for a, b in zip(mine.logits, reference.logits, strict=True):
        np.testing.assert_allclose(a, b, atol=animal.max_difference, rtol=1e-4)


@pytest.mark.slow
def test_custom_task(published, model_folder, tmp_path):
    from optimum_htp import HTPExporter

    HTPExporter().export(published("minilm").repo_id, tmp_path, library_name="sentence_transformers")
    model = optimum.onnxruntime.ORTModelForCustomTasks.from_pretrained(tmp_path / "model.onnx")
    assert type(OptimumONNXModel.from_pretrained(tmp_path / "model.onnx")) is type(model)
    batch = model.preprocessors[0](["a cat", "a dog ran"], padding=True, return_tensors="pt")
    outputs = model(**batch)
    reference = transformers.AutoModel.from_pretrained(model_folder("minilm")).eval()
    with torch.no_grad():
        hidden = reference(**batch).last_hidden_state
    np.testing.assert_allclose(outputs["token_embeddings"], hidden, atol=1e-4)
