"""A model in memory is attributed to a commit only if its weights are those of the commit."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import ExportError, MissingDependencyError, VerificationError
from optimum_htp.libraries.dependencies import needing_optimum_onnx
from tests.support.zoo import ZOO


@pytest.fixture
def bert(published, hub):
    published("bert")
    return hub.repos["tiny/bert"]


@pytest.fixture
def export(tmp_path):
    return lambda model, **options: HTPExporter().export(model=model, output_path=tmp_path / "out", **options)


def load(**options):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained("tiny/bert", **options)


def one_edited_value(model):
    model.bert.encoder.layer[1].output.dense.weight.data[3, 5] += 1e-3


def a_merged_adapter(model):
    """Return the same model with some weights exchanged."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=["query"], init_lora_weights=False)
    return get_peft_model(model, lora).merge_and_unload()


def an_adapter(model):
    """A model of peft around a model of transformers."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules=["query"], init_lora_weights=False))


def a_trained_head(model):
    import torch

    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    ids = torch.tensor([[2, 5, 6, 3]])
    model(input_ids=ids, labels=torch.tensor([1])).loss.backward()
    optimizer.step()


def another_activation(model):
    import torch

    for layer in model.bert.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.ReLU()


@pytest.mark.parametrize(
    "change", [one_edited_value, a_merged_adapter, an_adapter, a_trained_head, another_activation]
)
def test_model_that_was_changed_in_memory_is_local(bert, export, tmp_path, caplog, change):
    model = load()
    model = change(model) or model
    result = export(model)
    assert (result.metadata.model_type, result.metadata.hub_sha) == ("local", None)
    assert result.metadata.base_model == "tiny/bert"
    assert result.reason is not None
    assert result.reason in caplog.text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "bert"


def test_a_peft_prompt_in_the_inputs_is_reported(bert, export):
    from peft import PromptTuningConfig, get_peft_model

    prompted = get_peft_model(load(), PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4))
    with pytest.raises(ExportError, match=r"PeftModel.*PROMPT_TUNING.*merge_and_unload"):
        export(prompted)


def test_untouched_model_is_pinned_also_in_half_precision(bert, export):
    import torch

    for model in (load(), load(torch_dtype=torch.float16), load().half()):
        result = export(model)
        assert (result.metadata.hub_id, result.metadata.hub_sha) == ("tiny/bert", bert.refs["main"])
        assert result.reason is None


@pytest.mark.parametrize("hierarchy", [True, False])
def test_head_that_the_checkpoint_lacks_is_no_commits(bert, tmp_path, caplog, hierarchy):
    result = HTPExporter().export("tiny/bert", tmp_path / "out", task="fill-mask", hierarchy=hierarchy)
    assert (result.metadata.model_type, result.metadata.base_model) == ("local", "tiny/bert")
    assert result.metadata.hub_sha is None
    assert "the checkpoint has no cls." in result.reason
    assert result.reason in caplog.text
    assert (tmp_path / "out" / "config.json").is_file()
    with pytest.raises(VerificationError, match="random values"):
        HTPExporter().export("tiny/bert", tmp_path / "verified", task="fill-mask", verify_hub=True)
    assert not (tmp_path / "verified").exists()


@pytest.mark.parametrize("hierarchy", [True, False])
def test_pooler_that_no_output_needs_does_not_count(zoo_export, tmp_path, hierarchy):
    """The checkpoint of a masked language model lacks them."""
    from transformers import AutoModel

    zoo_export("bert")
    for subject in ({"model_name_or_path": "zoo/bert"}, {"model": AutoModel.from_pretrained("zoo/bert")}):
        output = tmp_path / next(iter(subject))
        result = HTPExporter().export(**subject, output_path=output, task="feature-extraction", hierarchy=hierarchy)
        assert (result.metadata.model_type, result.metadata.model_class) == ("hub", "BertModel")
        assert result.reason is None


def test_model_whose_weights_cannot_be_had_is_local(hub, bert, export):
    repo = hub.add("tiny/soon-gone", dict(bert.commits[bert.refs["main"]]))
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained("tiny/soon-gone")
    sha = repo.refs["main"]
    repo.commits[sha] = {name: body for name, body in repo.commits[sha].items() if "safetensors" not in name}
    from huggingface_hub import scan_cache_dir

    for cached in scan_cache_dir().repos:
        if cached.repo_id == "tiny/soon-gone":
            scan_cache_dir().delete_revisions(*(one.commit_hash for one in cached.revisions)).execute()
    result = export(model)
    assert (result.metadata.model_type, result.metadata.base_model) == ("local", "tiny/soon-gone")
    assert "cannot be checked" in result.reason


def test_random_state_of_the_user_is_unchanged(bert, export):
    import torch

    model = load()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    from optimum_htp.export.subject import inspect_loaded_model
    from optimum_htp.hubs import HubAccess

    inspect_loaded_model(model, HubAccess(), None)
    assert torch.equal(torch.rand(3), expected)


def test_pipeline_of_several_models_is_compared_with_each(model_folder, hub):
    from diffusers import StableDiffusionPipeline

    from optimum_htp.export.subject import inspect_loaded_model
    from optimum_htp.hubs import HubAccess

    hub.add("memory/diffusion", model_folder("stable_diffusion"), library_name="diffusers")
    pipeline = StableDiffusionPipeline.from_pretrained("memory/diffusion")
    assert inspect_loaded_model(pipeline, HubAccess(), None).reason is None
    pipeline.unet.conv_in.bias.data += 1
    assert (
        inspect_loaded_model(pipeline, HubAccess(), None).reason == "in unet the values of conv_in.bias were changed"
    )


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_architecture_is_recognized_until_it_is_changed(name, hub, tmp_path):
    """Tied, shared, renamed and split tensors: changes by loading are not changes of the model."""
    import torch
    import transformers

    from optimum_htp.export.subject import inspect_loaded_model
    from optimum_htp.hubs import HubAccess

    folder = ZOO[name].save(tmp_path / name)
    hub.add(f"memory/{name}", folder)
    model = getattr(transformers, ZOO[name].model).from_pretrained(f"memory/{name}")
    assert inspect_loaded_model(model, HubAccess(), None).reason is None
    *_, last = model.parameters()
    with torch.no_grad():
        last.view(-1)[0] += 1
    assert "values of" in inspect_loaded_model(model, HubAccess(), None).reason


def test_package_that_is_missing_is_named_as_pip_knows_it(model_folder, tmp_path, monkeypatch):
    for name in ("adapter_config.json", "config.json"):
        shutil.copy(model_folder("bert") / "config.json", tmp_path / name)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny/base"}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"adapter of tiny/base: run `pip install peft`"):
        HTPExporter().export(tmp_path, tmp_path / "out", task="text-classification")
    with (
        pytest.raises(MissingDependencyError, match=r"needs PIL.* Run `pip install pillow`"),
        needing_optimum_onnx("Loading a file"),
    ):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
