"""transformers' own exporters as an engine: what they export is a file like any other of ours."""

import json
import shutil
import sys
from pathlib import Path

import onnx
import pytest

pytest.importorskip("transformers.exporters", reason="transformers' own exporters come with transformers 5.24")
pytest.importorskip("onnxscript", reason="transformers' own exporters need onnxscript")

import torch
import transformers
from transformers.exporters import AutoExportConfig, AutoHfExporter, ExportedModel, OnnxConfig, OnnxExporter

import optimum_htp
from optimum_htp import (
    HTPExporter,
    compare_models,
    embed_files,
    extract_module,
    inject_hub_metadata,
    prove_weights,
    report_document,
    strip_metadata,
    tag_file,
    unembed_files,
)
from optimum_htp.errors import (
    ConfigLoadError,
    MissingSiblingError,
    OnnxFileNotFoundError,
    SeveralModelsError,
    WrongTaskError,
)
from optimum_htp.hierarchy.tags import read_modules
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import external_files, read_signature
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.stamping.verify import Status, verify_metadata
from tests.conftest import optimum_cli, slowly
from tests.support import models
from tests.support.models import _seeded
from tests.support.zoo import ZOO

TOKENS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 10, 3, 0]])
INPUTS = {"input_ids": TOKENS, "attention_mask": (TOKENS != 0).long(), "token_type_ids": torch.zeros_like(TOKENS)}
PROMPT = {name: INPUTS[name] for name in ("input_ids", "attention_mask")}


def small(model_class, folder, made):
    """Save a model of one layer in place of one of two, because the exporter takes as long again for each layer."""
    made(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    for name in ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"):
        if hasattr(config, name):
            setattr(config, name, 1)
    _seeded(model_class, config).save_pretrained(folder)


@pytest.fixture(scope="module")
def said(published, made_once):
    """A folder with what the command line wrote for a classifier on the Hub, and what it said."""
    command = ("export", "htp", "-m", published("bert").repo_id, "--engine", "transformers", "--json")

    def make(folder):
        done = optimum_cli(*command, folder / "out")
        (folder / "said.json").write_text(done.stdout)

    return made_once("engine/bert", make)


@pytest.fixture(scope="module")
def bert(said):
    """What the engine wrote for a classifier on the Hub: one file and nothing else."""
    return said / "out"


@pytest.fixture(scope="module")
def gpt2(published, made_once):
    """What the engine wrote for a decoder on the Hub."""
    repo_id = published("gpt2").repo_id
    return made_once("engine/gpt2", lambda folder: HTPExporter().export(repo_id, folder, engine="transformers"))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def says_nothing_of_this_machine(path):
    content = path.read_bytes()
    places = (sys.prefix, str(Path(transformers.__file__).parent), str(Path.home()), str(Path.cwd()), "site-packages")
    return not any(place.encode() in content for place in places)


def test_a_model_of_one_graph_is_one_file_that_carries_everything(bert):
    assert names_in(bert) == ["model.onnx"]
    assert external_files(bert / "model.onnx") == ()
    record = read_record(bert / "model.onnx")
    assert (record.hub_id, record.task, record.model_class) == (
        "tiny/bert",
        "text-classification",
        "BertForSequenceClassification",
    )
    embedded = embedded_in(bert / "model.onnx", record)
    assert {"config.json", "export.json", "tokenizer.json"} <= {*embedded.names}
    manifest = json.loads(embedded.read(["export.json"])["export.json"])
    assert manifest["components"]["model"]["file"] == "model.onnx"
    assert says_nothing_of_this_machine(bert / "model.onnx")
    onnx.checker.check_model(str(bert / "model.onnx"))


def test_its_nodes_say_their_modules(bert, model_folder):
    graph, assignment = read_modules(bert / "model.onnx")
    rules = assignment.coverage
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder("bert"))
    assert {*assignment.modules} <= {name for name, _ in model.named_modules()}
    assert "bert.encoder.layer.1.attention.self.query" in assignment.modules
    assert rules == {"name": len(graph.nodes)}


def test_its_record_holds_against_the_hub(bert):
    verdict = verify_metadata(bert / "model.onnx")
    assert verdict.status is Status.OK, verdict.reason
    assert "files in it are the commit's" in verdict.reason


def test_exported_model_loads_the_file_alone(bert, model_folder, tmp_path, hub):
    file = Path(shutil.copy(bert / "model.onnx", tmp_path / "renamed.onnx"))
    with hub.recorded() as requests:
        loaded = ExportedModel.from_pretrained(str(file))
    assert requests == []
    model = transformers.AutoModelForSequenceClassification.from_pretrained(model_folder("bert")).eval()
    with torch.inference_mode():
        expected = model(**INPUTS).logits
    assert torch.allclose(loaded(**INPUTS).logits, expected, atol=1e-5)
    assert loaded.config.id2label[1] == "LABEL 1"
    assert names_in(tmp_path) == ["renamed.onnx"]


def test_exported_model_loads_a_folder_of_files(gpt2, tmp_path):
    for file in gpt2.iterdir():
        shutil.copy(file, tmp_path)
    loaded = ExportedModel.from_pretrained(tmp_path)
    assert {*loaded.components} == {"prefill", "decode"}
    assert loaded.config.model_type == "gpt2"
    by_file = ExportedModel.from_pretrained(tmp_path / "prefill.onnx")
    assert {*by_file.components} == {"prefill", "decode"}


def test_prefill_and_decode_share_one_data_file(gpt2):
    assert names_in(gpt2) == ["decode.onnx", "model.onnx.data", "prefill.onnx"]
    assert external_files(gpt2 / "decode.onnx") == external_files(gpt2 / "prefill.onnx") == ("model.onnx.data",)
    places = {}
    for name in ("decode", "prefill"):
        model = onnx.load(gpt2 / f"{name}.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.external_data and tensor.name.startswith("transformer."):
                places.setdefault(tensor.name, set()).add({e.key: e.value for e in tensor.external_data}["offset"])
    assert places
    assert all(len(found) == 1 for found in places.values())
    assert says_nothing_of_this_machine(gpt2 / "decode.onnx")
    records = [read_record(gpt2 / f"{name}.onnx") for name in ("decode", "prefill")]
    assert records[0].onnx_files == ("decode.onnx", "prefill.onnx")
    assert records[0].belongs_with(records[1])
    assert records[0].task == "text-generation-with-past"


def test_prefill_and_decode_make_the_tokens_that_the_model_makes(gpt2, model_folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder("gpt2")).eval()
    tokens = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    model.generation_config.eos_token_id = None
    expected = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=6, do_sample=False)
    runners = ExportedModel.from_pretrained(gpt2).runners
    mask, places = torch.ones_like(tokens), torch.arange(tokens.shape[1]).expand(2, -1)
    result = runners["prefill"](input_ids=tokens, attention_mask=mask, position_ids=places)
    made = [tokens]
    for step in range(6):
        made.append(result.logits[:, -1].argmax(-1, keepdim=True))
        mask = torch.cat([mask, mask[:, :1]], 1)
        place = torch.full((2, 1), tokens.shape[1] + step)
        cache = getattr(result, "cache", None) or result.past_key_values
        result = runners["decode"](input_ids=made[-1], attention_mask=mask, position_ids=place, cache=cache)
    assert torch.equal(torch.cat(made, 1), expected)
    assert len({*torch.cat(made[1:], 1).flatten().tolist()}) >= 3


@pytest.mark.parametrize("name", [*slowly("t5"), "whisper"])
def test_encoder_prefill_and_decode_make_the_tokens_that_the_model_makes(name, made_once, tmp_path):
    animal = ZOO[name]
    model_class = getattr(transformers, animal.model)
    source = made_once(f"engine/small-{name}", lambda folder: small(model_class, folder, animal.save))
    folder = made_once(
        f"engine/zoo-{name}", lambda folder: HTPExporter().export(source, folder, engine="transformers")
    )
    assert {file.name for file in folder.iterdir()} >= {
        "decode.onnx",
        "encoder.onnx",
        "model.onnx.data",
        "prefill.onnx",
    }
    model = model_class.from_pretrained(source).eval()
    if name == "t5":
        inputs = {"input_ids": TOKENS, "attention_mask": INPUTS["attention_mask"]}
    else:
        torch.manual_seed(2)
        inputs = {"input_features": torch.rand(3, 16, 3000)}
    start = torch.tensor([[model.config.decoder_start_token_id, 5]] * len(next(iter(inputs.values()))))
    begun = {**inputs, "decoder_input_ids": start}
    runners = ExportedModel.from_pretrained(folder).runners
    encoded = runners["encoder"](**inputs)
    result = runners["prefill"](encoder_outputs=encoded, **begun)
    tokens = start
    for _ in range(5):
        with torch.inference_mode():
            expected = model(**{**inputs, "decoder_input_ids": tokens}).logits[:, -1]
        assert torch.allclose(result.logits[:, -1], expected, atol=1e-4)
        step = {**inputs, "decoder_input_ids": expected.argmax(-1, keepdim=True)}
        cache = getattr(result, "cache", None) or result.past_key_values
        result = runners["decode"](encoder_outputs=encoded, cache=cache, **step)
        tokens = torch.cat([tokens, step["decoder_input_ids"]], 1)
    shapes = {spec.name: spec.shape for spec in read_signature(folder / "decode.onnx")[0]}
    past = shapes["input.cache.self_attention_cache.layers.0.keys"][2]
    assert past == "past_sequence_length"
    encoder = shapes["input.cache.cross_attention_cache.layers.0.keys"][2]
    assert encoder == shapes.get("attention_mask", ("", "encoder_sequence_length"))[1] == "encoder_sequence_length"


def test_weights_whose_names_transformers_5_changed_have_to_be_in_their_place(model_folder, made_once, tmp_path):
    source = model_folder("vit")
    folder = made_once("engine/vit", lambda folder: HTPExporter().export(source, folder, engine="transformers"))
    proof = prove_weights(folder / "model.onnx", source)
    assert proof.counts["foreign"] == 0
    assert not any(finding.by_value for finding in proof.findings if finding.module and ".layers." in finding.module)
    model = onnx.load(folder / "model.onnx")
    values = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    name, other = (f"vit.layers.{layer}.layernorm_before.weight" for layer in (0, 1))
    swapped = changed(folder / "model.onnx", tmp_path / "swapped.onnx", name, lambda _: values[other])
    assert [finding.name for finding in prove_weights(swapped, source).foreign] == [name]


def test_open_sizes_have_names(bert, gpt2):
    shapes = {spec.name: spec.shape for spec in read_signature(bert / "model.onnx")[0]}
    assert shapes["input_ids"] == shapes["token_type_ids"] == ("batch_size", "sequence_length")
    shapes = {spec.name: spec.shape for spec in read_signature(gpt2 / "decode.onnx")[0]}
    assert shapes["input_ids"] == ("batch_size", 1)
    assert shapes["input.cache.layers.0.keys"] == ("batch_size", 4, "past_sequence_length", 8)
    assert shapes["attention_mask"] == ("batch_size", "past_sequence_length + 1")


def test_the_masks_of_a_decoder_are_inputs(gpt2):
    for name in ("prefill", "decode"):
        assert "attention_mask" in {spec.name for spec in read_signature(gpt2 / f"{name}.onnx")[0]}


@pytest.fixture
def plain(mixtral, hub, tmp_path):
    """A copy of what transformers alone wrote for a model that is on the Hub, to be changed."""
    hub.add("me/mixtral", mixtral / "model", pipeline_tag="text-generation", library_name="transformers")
    shutil.copytree(mixtral / "plain", tmp_path / "plain")
    return tmp_path / "plain" / "model.onnx"


def test_what_transformers_alone_wrote_can_be_injected_and_verified(plain):
    record = inject_hub_metadata(plain, "me/mixtral")
    assert (record.task, record.model_class) == ("text-generation", "MixtralForCausalLM")
    assert "export.json" in {file.name for file in record.embedded_files}
    assert verify_metadata(plain).status is Status.OK
    for other in plain.parent.glob("*.json"):
        other.unlink()
    loaded = ExportedModel.from_pretrained(plain)
    assert loaded(**PROMPT).logits.shape == (2, 5, 40)
    assert loaded.config.num_local_experts == 4


def test_what_transformers_alone_wrote_can_be_tagged_without_its_model(plain):
    assignment = tag_file(plain)
    assert assignment.coverage.get("root", 0) + assignment.coverage.get("partial_name", 0) == 0
    assert "model.layers.1.self_attn.q_proj" in assignment.modules
    assert assignment.tree.classes["model.layers.1.self_attn.q_proj"] == "Linear"


@pytest.mark.parametrize(
    ("which", "layer", "query"),
    [
        ("bert", "bert.encoder.layer.1", "bert.encoder.layer.1.attention.self.query"),
        ("plain", "model.layers.1", "model.layers.1.self_attn.q_proj"),
    ],
)
def test_files_are_proven_compared_cut_and_described(which, layer, query, request, tmp_path):
    file = request.getfixturevalue(which)
    if which == "bert":
        file = Path(shutil.copy(file / "model.onnx", tmp_path / "model.onnx"))
    else:
        inject_hub_metadata(file, "me/mixtral")
        tag_file(file)
    proof = prove_weights(file)
    assert proof.counts["foreign"] == 0
    assert proof.counts["proven"] > 15
    comparison = compare_models(file, pytorch=True)
    assert comparison.compared > 10
    assert not comparison.exceeds
    module = extract_module(file, layer, tmp_path / "layer.onnx")
    assert query in read_modules(tmp_path / "layer.onnx")[1].modules
    assert module
    assert query in {row["name"] for row in report_document([file])["files"][0]["modules"]}


@pytest.fixture(scope="module")
def mixtral(made_once):
    """A mixture of experts, and what transformers alone wrote for it."""
    config = transformers.MixtralConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=32,
    )

    def make(folder):
        model = _seeded(transformers.MixtralForCausalLM, config)
        model.save_pretrained(folder / "model")
        inputs = {**PROMPT, "use_cache": False}
        OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True)).save_pretrained(folder / "plain")

    return made_once("engine/mixtral", make)


def changed(source, target, name, change):
    """A copy of a model in which the values of one weight are changed."""
    model = onnx.load(source)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, target)
    return target


def test_the_experts_of_a_layer_in_one_tensor_are_proven_and_a_change_of_them_is_found(mixtral, tmp_path):
    file = Path(shutil.copytree(mixtral / "plain", tmp_path / "plain"), "model.onnx")
    tag_file(file)
    proof = prove_weights(file, mixtral / "model")
    assert proof.counts["foreign"] == 0
    stacks = [finding for finding in proof.findings if "experts" in finding.how]
    assert len(stacks) == 4
    assert {finding.tensors[0] for finding in stacks if len(finding.tensors) == 8} == {
        f"model.layers.{layer}.block_sparse_moe.experts.0.w1.weight" for layer in (0, 1)
    }
    first, other = (next(one for one in stacks if f"layers.{layer}." in one.module).name for layer in (0, 1))
    values = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(file).graph.initializer}

    def one_number(array):
        array[(3,) * array.ndim] += 1e-3
        return array

    for change in (one_number, lambda array: array[[0, 2, 1, 3]], lambda array: values[other]):
        assert change(values[first].copy()).shape == values[first].shape
        found = prove_weights(changed(file, tmp_path / "changed.onnx", first, change), mixtral / "model")
        assert [finding.name for finding in found.foreign] == [first]
    both, down = sorted((one for one in stacks if "layers.0." in one.module), key=lambda one: -len(one.tensors))
    gates = values[both.name][..., : values[both.name].shape[-1] // 2].swapaxes(1, 2)  # are of the same size
    assert gates.shape == values[down.name].shape
    exchanged = changed(file, tmp_path / "changed.onnx", down.name, lambda array: gates)
    assert prove_weights(exchanged, mixtral / "model").foreign


def test_experts_that_take_equal_tokens_in_another_order_are_no_difference(plain):
    tag_file(plain)
    inject_hub_metadata(plain, "me/mixtral")
    comparison = compare_models(plain, pytorch=True)
    assert any(".experts." in module.name and module.values for module in comparison.modules)
    assert not [module.name for module in comparison.modules if module.exceeds]


@pytest.mark.slow
def test_a_row_that_the_exporter_looked_up_in_a_table_is_proven(model_folder, made_once, tmp_path):
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(model_folder("t5")).eval()
    inputs = {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :1], "use_cache": False}

    def make(folder):
        OnnxExporter().export(model, inputs, OnnxConfig(dynamic=True)).save_pretrained(folder)
        tag_file(folder / "model.onnx")

    file = made_once("engine/plain-t5", make) / "model.onnx"
    proof = prove_weights(file, model_folder("t5"))
    assert proof.counts["foreign"] == 0
    [row] = [finding for finding in proof.findings if finding.how == "rows of a table"]
    assert row.tensors == ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",)
    found = prove_weights(
        changed(file, tmp_path / "changed.onnx", row.name, lambda array: array * 1.001), model_folder("t5")
    )
    assert [finding.name for finding in found.foreign] == [row.name]


def test_decoders_are_compared_with_pytorch_stage_by_stage(gpt2):
    for name in ("prefill", "decode"):
        comparison = compare_models(gpt2 / f"{name}.onnx", pytorch=True)
        assert comparison.compared > 5
        assert not comparison.exceeds


def test_optimums_classes_say_who_loads_the_stages_of_a_decoder(gpt2):
    modeling = pytest.importorskip("optimum.onnxruntime.modeling_decoder", exc_type=ImportError)
    with pytest.raises(WrongTaskError, match="ExportedModel"):
        modeling.ORTModelForCausalLM.from_pretrained(gpt2 / "decode.onnx")


def test_loading_says_what_is_missing(bert, gpt2, tmp_path):
    with pytest.raises(OnnxFileNotFoundError, match="Check the path"):
        ExportedModel.from_pretrained("no-such-file.onnx")
    shutil.copy(gpt2 / "decode.onnx", tmp_path)
    with pytest.raises(MissingSiblingError, match=r"prefill\.onnx is missing"):
        ExportedModel.from_pretrained(tmp_path / "decode.onnx")
    strip = Path(shutil.copy(bert / "model.onnx", tmp_path / "stripped.onnx"))
    strip_metadata(strip)
    with pytest.raises(ConfigLoadError, match=r"has no export\.json"):
        ExportedModel.from_pretrained(strip)
    shutil.copy(bert / "model.onnx", tmp_path / "bert.onnx")
    with pytest.raises(SeveralModelsError, match="holds 2 models"):
        ExportedModel.from_pretrained(tmp_path)


def test_the_command_line_takes_the_engine_and_says_it(said, tmp_path):
    document = json.loads((said / "said.json").read_text())
    assert (document["engine"], document["task"]) == ("transformers", "text-classification")
    assert names_in(said / "out") == ["model.onnx"]
    with pytest.raises(TypeError, match="no option 'pad_token_id'"):
        HTPExporter().export("tiny/bert", tmp_path / "out", engine="transformers", pad_token_id=1)


def test_what_is_embedded_anew_still_loads(bert, model_folder, tmp_path):
    file = Path(shutil.copy(bert / "model.onnx", tmp_path))
    assert "export.json" in {embedded.name for embedded in embed_files(file)}
    assert "export.json" in {embedded.name for embedded in embed_files(file, model_folder("bert"))}
    assert verify_metadata(file).status is Status.OK
    assert unembed_files(file, tmp_path)
    assert {*ExportedModel.from_pretrained(file).components} == {"model"}
    assert "export.json" in {embedded.name for embedded in embed_files(file)}


def test_a_repo_of_such_files_loads_by_its_name(gpt2, hub):
    hub.add("me/stamped", gpt2)
    loaded = ExportedModel.from_pretrained("me/stamped")
    assert {*loaded.components} == {"prefill", "decode"}
    assert loaded.config.model_type == "gpt2"
    by_file = ExportedModel.from_pretrained("hf://me/stamped/decode.onnx")
    assert {*by_file.components} == {"prefill", "decode"}


def test_auto_hf_exporter_writes_such_a_file_in_the_format_htp(hub, made_once, tmp_path):
    model_class = transformers.BertForSequenceClassification
    source = made_once("engine/small-bert", lambda folder: small(model_class, folder, models.bert))
    hub.add("tiny/small-bert", source, pipeline_tag="text-classification", library_name="transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained("tiny/small-bert").eval()
    config = AutoExportConfig.from_dict({"export_format": "htp", "dynamic": True})
    exported = AutoHfExporter.from_config(config).export(model, INPUTS, config)
    exported.save_pretrained(tmp_path)
    assert names_in(tmp_path) == ["config.json", "export.json", "model.onnx"]
    file = tmp_path / "model.onnx"
    assert says_nothing_of_this_machine(file)
    assert verify_metadata(file).status is Status.OK
    assert read_record(file).hub_id == "tiny/small-bert"
    assert "bert.encoder.layer.0.attention.self.query" in read_modules(file)[1].modules
    with torch.inference_mode():
        expected = model(**INPUTS).logits
    assert torch.allclose(ExportedModel.from_pretrained(tmp_path)(**INPUTS).logits, expected, atol=1e-5)
    alone = Path(shutil.copy(file, tmp_path / "alone.onnx"))
    assert torch.allclose(ExportedModel.from_pretrained(alone)(**INPUTS).logits, expected, atol=1e-5)
    again = ExportedModel.from_pretrained(tmp_path)
    again.save_pretrained(tmp_path / "again")
    assert read_record(tmp_path / "again" / "model.onnx") == read_record(file)


@pytest.fixture(scope="module")
def stages(published, made_once):
    """What `AutoHfExporter` wrote for a decoder on the Hub, and what it answered before and after that."""
    model = transformers.AutoModelForCausalLM.from_pretrained(published("gpt2").repo_id).eval()
    config = AutoExportConfig.from_dict({"export_format": "htp", "dynamic": True})
    inputs = {"input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]]), "attention_mask": torch.ones(2, 4).long()}

    def make(folder):
        exported = AutoHfExporter.from_config(config).export_for_generation(model, inputs, config)
        exported.save_pretrained(folder)
        assert exported.runners["prefill"](**inputs, position_ids=torch.arange(4).expand(2, -1)).logits.shape[0] == 2
        exported.save_pretrained(folder.with_name("twice"))

    return made_once("engine/stages", make)


def offsets_in(path):
    """Where in the data file each weight of a graph is that does not lie in the graph."""
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    return {one.name: {e.key: e.value for e in one.external_data}["offset"] for one in tensors if one.external_data}


def test_the_stages_of_a_decoder_in_the_format_htp_are_one_model_with_one_data_file(stages, gpt2, hub):
    files = ["config.json", "decode.onnx", "export.json", "model.onnx.data", "prefill.onnx"]
    assert [name for name in names_in(stages) if name != "generation_config.json"] == files
    assert (stages / "model.onnx.data").stat().st_size <= (gpt2 / "model.onnx.data").stat().st_size
    decode, prefill = offsets_in(stages / "decode.onnx"), offsets_in(stages / "prefill.onnx")
    shared = [name for name in decode if name.startswith("transformer.")]
    assert shared
    assert all(decode[name] == prefill[name] for name in shared)
    first, second = (read_record(stages / f"{name}.onnx") for name in ("decode", "prefill"))
    assert first.onnx_files == ("decode.onnx", "prefill.onnx")
    assert first.belongs_with(second)
    assert (first.hub_id, first.task) == ("tiny/gpt2", "text-generation-with-past")
    for name in ("decode", "prefill"):
        assert verify_metadata(stages / f"{name}.onnx").status is Status.OK
        assert "transformer.h.1.attn" in read_modules(stages / f"{name}.onnx")[1].modules
        assert says_nothing_of_this_machine(stages / f"{name}.onnx")


def test_stages_without_a_mask_are_compared_without_one(stages):
    for name in ("prefill", "decode"):
        assert "attention_mask" not in {spec.name for spec in read_signature(stages / f"{name}.onnx")[0]}
        comparison = compare_models(stages / f"{name}.onnx", pytorch=True)
        assert comparison.compared > 10
        assert not comparison.exceeds


def test_stages_in_the_format_htp_load_from_a_folder_a_file_and_a_repo(stages, model_folder, hub, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder("gpt2")).eval()
    inputs = {"input_ids": torch.tensor([[7, 8, 9]]), "attention_mask": torch.ones(1, 3).long()}
    with torch.inference_mode():
        expected = model(**inputs).logits[:, -1]
    hub.add("me/stages", stages)
    again = ExportedModel.from_pretrained(stages)
    again.save_pretrained(tmp_path / "again")
    for name in (stages, stages.with_name("twice"), stages / "prefill.onnx", "me/stages", tmp_path / "again"):
        loaded = ExportedModel.from_pretrained(name)
        assert {*loaded.components} == {"prefill", "decode"}
        answer = loaded.runners["prefill"](**inputs, position_ids=torch.arange(3)[None]).logits[:, -1]
        assert torch.allclose(answer, expected, atol=1e-5)
    assert names_in(tmp_path / "again") == names_in(stages)


def test_the_format_goes_when_we_do():
    optimum_htp.deactivate()
    try:
        with pytest.raises(ValueError, match="Unknown export format"):
            AutoHfExporter.from_config({"export_format": "htp"})
    finally:
        optimum_htp.activate()
    assert AutoHfExporter.from_config({"export_format": "htp"}).export_format == "htp"


def test_what_transformers_saves_and_loads_stays_transformers_own(mixtral):
    loaded = ExportedModel.from_pretrained(mixtral / "plain")
    assert loaded(**PROMPT).logits.shape == (2, 5, 40)
    for wrong in (mixtral, "no/such-model", None, 3):
        assert outcome(wrong, hooked=True) == outcome(wrong, hooked=False)


def outcome(name, *, hooked):
    """What comes of loading something that is not ours."""
    try:
        if not hooked:
            optimum_htp.deactivate()
        return ExportedModel.from_pretrained(name)
    except Exception as error:  # noqa: BLE001 - whatever it is, it has to be the same
        return type(error), str(error)
    finally:
        optimum_htp.activate()
