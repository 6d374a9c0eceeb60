"""The library and task of a model without declarations."""

from __future__ import annotations

import pytest

from optimum_htp.errors import ExportError
from optimum_htp.libraries.tasks import infer_library, infer_task, with_past


@pytest.mark.parametrize(
    ("config", "tag", "task"),
    [
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, None, "fill-mask"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "fill-mask", "fill-mask"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "sentence-similarity", "feature-extraction"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "zero-shot-classification", "text-classification"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "image-to-video", "feature-extraction"),
        ({"model_type": "bert", "architectures": ["BertForPreTraining"]}, None, "feature-extraction"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "translation", "text2text-generation"),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, None, "zero-shot-image-classification"),
        ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2Model"]}, None, "feature-extraction"),
        (
            {
                "model_type": "bert",
                "architectures": ["MyBert"],
                "auto_map": {"AutoModelForTokenClassification": "modeling_my.MyBert"},
            },
            None,
            "token-classification",
        ),
    ],
)
def test_task_is_inferred_from_tag_then_class(config, tag, task):
    assert infer_task(config, "transformers", tag) == task


def test_unknown_task_requires_an_argument():
    with pytest.raises(ExportError, match=r"--task.*fill-mask"):
        infer_task({"model_type": "bert", "architectures": ["Unheard"]}, "transformers", None)


def test_generators_are_exported_with_past():
    gpt2 = {"model_type": "gpt2"}
    assert with_past("text-generation", gpt2, "transformers") == "text-generation-with-past"
    assert with_past("fill-mask", {"model_type": "bert"}, "transformers") == "fill-mask"
    assert with_past("text-generation", {"model_type": "unheard"}, "transformers") == "text-generation"


def test_library_is_inferred_from_files_not_from_installed_packages():
    assert infer_library(["model_index.json"], {}) == "diffusers"
    assert infer_library(["config.json"], {"architecture": "resnet50", "num_classes": 5}) == "timm"
    assert (
        infer_library(["modules.json", "config_sentence_transformers.json"], {"model_type": "bert"}) == "transformers"
    )
    assert infer_library(["modules.json", "0_Transformer/config.json"], {}) == "sentence_transformers"
    assert infer_library(["modules.json", "config.json"], {}) == "transformers"
