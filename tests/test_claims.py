"""What an export may not claim: where weights, code, scheduler or folder are not a commit's alone, it says less."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification

from optimum_htp import HTPExporter
from optimum_htp.errors import ExportError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_metadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.resolve.embedded import embedded_in


@pytest.mark.parametrize("engine", ["optimum", "transformers"])
def test_adapter_is_not_pinned_to_its_commit(engine, published, model_folder, hub, tmp_path):
    """Its weights are added to another model's, of which it names no commit."""
    pytest.importorskip(f"{engine}.exporters")
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    published("bert")
    base = AutoModelForSequenceClassification.from_pretrained(model_folder("bert"))
    adapted = get_peft_model(
        base, LoraConfig(target_modules=["query"], r=2, task_type="SEQ_CLS", init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "tiny/bert"
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder("bert") / name, tmp_path / "adapter")
    hub.add("me/adapter", tmp_path / "adapter")
    result = HTPExporter().export("me/adapter", tmp_path / "out", task="text-classification", engine=engine)
    record = read_record(result.files[0])
    assert (record.model_type, record.hub_sha, record.weight_files) == ("local", None, None)
    assert record.base_model == "me/adapter"
    assert "adapter, added to tiny/bert" in result.reason
    inputs = {name: torch.ones(1, 5, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    got = ORTModelForSequenceClassification.from_pretrained(result.files[0])(**inputs).logits
    assert torch.allclose(got, adapted.eval()(**inputs).logits, atol=1e-4)
    with adapted.disable_adapter():
        assert not torch.allclose(got, adapted(**inputs).logits, atol=1e-4)


def test_adapter_as_peft_saves_it_is_answered_with_how_to_merge_it(published, model_folder, hub, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    published("bert")
    base = AutoModelForSequenceClassification.from_pretrained(model_folder("bert"))
    adapted = get_peft_model(base, LoraConfig(target_modules=["query"], r=2, task_type="SEQ_CLS"))
    adapted.peft_config["default"].base_model_name_or_path = "tiny/bert"
    adapted.save_pretrained(tmp_path / "adapter")
    hub.add("me/lora", tmp_path / "adapter")
    for model in ("me/lora", str(tmp_path / "adapter")):
        for task in ("auto", "text-classification"):
            with pytest.raises(ExportError, match=r"adapter of tiny/bert.*merge_and_unload.*--model tiny/bert"):
                HTPExporter().export(model, tmp_path / "out", task=task)


def test_code_of_the_tokenizer_alone_belongs_to_the_commit(hub, tmp_path):
    files = {
        "config.json": b'{"model_type": "llama"}',
        "tokenizer_config.json": json.dumps(
            {"auto_map": {"AutoTokenizer": ["tokenization_x.XTokenizer", None]}}
        ).encode(),
        "tokenization_x.py": b"",
        "model.safetensors": b"",
    }
    repo = hub.add("me/coded-tokenizer", files)
    access = HubAccess(cache_dir=tmp_path)
    checkpoint = fetch_checkpoint(locate(repo.repo_id, None, access), access, None)
    assert "tokenization_x.py" in checkpoint.config_files
    assert (checkpoint.folder / "tokenization_x.py").is_file()


@pytest.fixture
def in_folders(model_folder, tmp_path):
    """A model of sentence_transformers whose transformer lies in a folder of its own."""
    pytest.importorskip("sentence_transformers")
    source, folder = model_folder("minilm"), tmp_path / "in-folders"
    (folder / "0_Transformer").mkdir(parents=True)
    shutil.copytree(source / "1_Pooling", folder / "1_Pooling")
    for path in source.iterdir():
        own = path.name in ("modules.json", "config_sentence_transformers.json", "README.md")
        if path.is_file():
            shutil.copy(path, folder if own else folder / "0_Transformer")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_transformer_in_a_folder_is_found(in_folders, hub, tmp_path):
    hub.add("me/in-folders", in_folders, pipeline_tag="sentence-similarity")
    result = HTPExporter().export("me/in-folders", tmp_path / "out")
    record = read_record(result.files[0])
    assert (record.export_library, record.model_type) == ("sentence_transformers", "hub")
    assert {"0_Transformer/tokenizer.json", "0_Transformer/config.json"} <= {
        *embedded_in(result.files[0], record).names
    }


@pytest.fixture
def diffusion(model_folder, hub):
    pytest.importorskip("diffusers")
    folder = model_folder("stable_diffusion")
    hub.add("tiny/diffusion", folder, pipeline_tag="text-to-image", library_name="diffusers")
    return folder


def test_local_pipeline_tells_no_path_of_this_machine(diffusion, tmp_path):
    result = HTPExporter().export(diffusion, tmp_path / "out")
    texts = [path.read_text() for path in (tmp_path / "out").rglob("*.json")]
    first = next(
        path for path in result.files if "hf_embedded_zip" in read_metadata(path) or read_record(path).embedded_files
    )
    embedded = embedded_in(first, read_record(first))
    texts += [content.decode() for content in embedded.read(list(embedded.names)).values()]
    assert len(texts) > 6
    assert not [text for text in texts if str(diffusion) in text or str(diffusion.parent) in text]


@pytest.mark.slow
def test_exchanged_scheduler_is_not_the_commits(diffusion, tmp_path):
    from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained("tiny/diffusion", cache_dir=tmp_path / "cache")
    options = {"model": pipe, "cache_dir": tmp_path / "cache"}
    assert HTPExporter().export(output_path=tmp_path / "same", **options).metadata.model_type == "hub"
    assert HTPExporter().export(output_path=tmp_path / "again", **options).metadata.model_type == "hub"
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    result = HTPExporter().export(output_path=tmp_path / "other", **options)
    assert (result.metadata.model_type, result.metadata.base_model) == ("local", "tiny/diffusion")
    assert "scheduler is a EulerDiscreteScheduler" in result.reason
