"""Claims of an export: weights, code, scheduler or folder that are not only from a commit are not attributed to it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from optimum.onnxruntime import ORTModelForSequenceClassification

from optimum_htp import HTPExporter
from optimum_htp.errors import ExportError, ModelNotFoundError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_metadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.resolve.embedded import embedded_in
from tests.conftest import optimum_cli
from tests.support import models


@pytest.fixture
def adapter(model_folder, hub, tmp_path):
    """The folder of an adapter with a config, and its base model with the adapter."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    hub.add("tiny/base", model_folder("bert"))
    base = AutoModelForSequenceClassification.from_pretrained(model_folder("bert"))
    adapted = get_peft_model(
        base, LoraConfig(target_modules=["query"], r=2, task_type="SEQ_CLS", init_lora_weights=False)
    )
    adapted.peft_config["default"].base_model_name_or_path = "tiny/base"
    adapted.save_pretrained(tmp_path / "adapter")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model_folder("bert") / name, tmp_path / "adapter")
    return tmp_path / "adapter", adapted.eval()


def with_adapter_config(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def same_answers(file, model):
    inputs = {name: torch.ones(1, 5, dtype=torch.long) for name in ("input_ids", "attention_mask", "token_type_ids")}
    got = ORTModelForSequenceClassification.from_pretrained(file)(**inputs).logits
    return torch.allclose(got, model(**inputs).logits, atol=1e-4)


def other_weights(hub, repo_id):
    """Give a repo's main branch other weights; return the previous commit."""
    from safetensors.torch import load, save

    repo = hub.repos[repo_id]
    commit = repo.refs["main"]
    name = next(name for name in repo.commits[commit] if name.endswith(".safetensors"))
    changed = {key: tensor + 1 for key, tensor in load(repo.commits[commit][name]).items()}
    repo.commit({**repo.commits[commit], name: save(changed, {"format": "pt"})})
    return commit


@pytest.mark.parametrize("engine", ["optimum", "transformers"])
def test_adapter_and_its_base_model_are_those_of_their_commits(engine, adapter, hub, tmp_path):
    pytest.importorskip(f"{engine}.exporters")
    folder, adapted = adapter
    base = other_weights(hub, "tiny/base")
    with_adapter_config(folder, revision=base)
    commit = hub.add("me/adapter", folder).refs["main"]
    result = HTPExporter().export("me/adapter", tmp_path / "out", task="text-classification", engine=engine)
    record = read_record(result.files[0])
    assert (record.model_type, record.hub_sha, record.weight_files) == ("local", None, None)
    assert (record.base_model, record.base_commits) == ("me/adapter", {"me/adapter": commit, "tiny/base": base})
    assert f"adapter, added to tiny/base at {base}" in result.reason
    other_weights(hub, "me/adapter")
    assert same_answers(result.files[0], adapted)
    with adapted.disable_adapter():
        assert not same_answers(result.files[0], adapted)
    assert str(tmp_path) not in result.files[0].read_bytes().decode("latin-1")
    assert f"tiny/base at {base}" in optimum_cli("htp", "info", result.files[0]).stdout
    for options in ([], ["--weights"]):
        said = optimum_cli("htp", "verify", *options, result.files[0], check=False)
        assert f"made from me/adapter at {commit}, tiny/base at {base}" in said.stdout + said.stderr


@pytest.mark.parametrize("engine", ["optimum", "transformers"])
def test_base_model_is_a_folder_only_for_local_adapters(engine, adapter, hub, model_folder, tmp_path):
    pytest.importorskip(f"{engine}.exporters")
    folder, adapted = adapter
    with_adapter_config(folder, base_model_name_or_path=str(model_folder("bert")))
    hub.add("them/adapter", folder)
    options = {"task": "text-classification", "engine": engine}
    with pytest.raises(ExportError, match=r"adapter_config.json of them/adapter names .*hf download them/adapter"):
        HTPExporter().export("them/adapter", tmp_path / "out", **options)
    result = HTPExporter().export(folder, tmp_path / "out", **options)
    assert read_record(result.files[0]).base_commits is None
    assert same_answers(result.files[0], adapted)


def test_folder_here_is_not_the_base_model_that_an_adapter_of_the_hub_names(adapter, hub, tmp_path, monkeypatch):
    folder, adapted = adapter
    hub.add("me/adapter", folder)
    models.bert(tmp_path / "here" / "tiny" / "base", labels=3, hidden=16)
    monkeypatch.chdir(tmp_path / "here")
    result = HTPExporter().export("me/adapter", tmp_path / "out", task="text-classification", engine="optimum")
    assert same_answers(result.files[0], adapted)


def test_base_model_that_is_missing_is_named(adapter, hub, tmp_path):
    folder, _ = adapter
    with_adapter_config(folder, base_model_name_or_path="no/base")
    hub.add("me/adapter", folder)
    with pytest.raises(ModelNotFoundError, match=r"adapter_config.json of me/adapter names 'no/base'"):
        HTPExporter().export("me/adapter", tmp_path / "out", task="text-classification")


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
    """A model of sentence_transformers with its transformer in a subfolder."""
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


def test_local_pipeline_contains_no_path_of_this_machine(diffusion, tmp_path):
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
