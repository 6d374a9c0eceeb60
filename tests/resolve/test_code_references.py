"""Configs that name code of libraries: neither an ONNX file nor a downloaded commit can make them import it."""

from __future__ import annotations

import json
import logging
import shutil

import onnx
import pytest
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoConfig

from optimum_htp import HTPExporter, errors
from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.extras.push.pushing import push
from optimum_htp.hubs import HubAccess
from optimum_htp.libraries.code_references import code_references, refuse_code_in_axes
from optimum_htp.loading.sentence_transformers import sentence_file
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.stamping.embed import embed_files, unembed_files
from tests.conftest import run_python
from tests.support.code_references import EVIL, POOLING, REFUSED, TRANSFORMER, tree
from tests.support.embedded import tampered

LOAD = (
    "from sentence_transformers import SentenceTransformer\nSentenceTransformer({folder!r}, backend='onnx'{options})"
)
HARMLESS = {
    "tree": ("export.json", tree('["input_ids", "attention_mask"]')),
    "modules": ("modules.json", [TRANSFORMER, POOLING]),
    "modules of newer versions": (
        "modules.json",
        [
            {"type": "sentence_transformers.base.modules.transformer.Transformer"},
            {"type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"},
            {"type": "sentence_transformers.sparse_encoder.models.SpladePooling"},
        ],
    ),
    "dense": ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Tanh"}),
    "identity": ("config.json", {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}),
    "name of an activation": ("config.json", {"activation_function": "gelu_new", "hidden_act": "gelu"}),
    "auto_map": ("config.json", {"auto_map": {"AutoConfig": "org/repo--configuration_mine.MineConfig"}}),
    "attention": ("config.json", {"attn_implementation": "sdpa", "cache_implementation": "static"}),
    "kernel that transformers takes itself": ("config.json", {"attn_implementation": "kernels-community/flash-attn"}),
    "trust in a config without a request": ("tokenizer_config.json", {"trust_remote_code": True}),
    "adapter": ("adapter_config.json", {"megatron_config": None, "megatron_core": "megatron.core"}),
    "pipeline": (
        "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [None, None],
            "requires_safety_checker": True,
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["optimum.onnxruntime.modeling_diffusion", "ORTUnet"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_references_to_code_are_found(case):
    name, content = REFUSED[case]
    assert [reference.file for reference in code_references(name, content)] == [name]


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless_configs_pass(case):
    assert not list(code_references(*HARMLESS[case]))


def test_configs_of_real_models_pass(exported, zoo_export, model_folder):
    for name in ("minilm", "bert", "gpt2", "t5", "vit", "wav2vec2"):
        for path in model_folder(name).rglob("*.json"):
            content = json.loads(path.read_bytes())
            assert not list(code_references(path.relative_to(model_folder(name)).as_posix(), content))


@pytest.fixture
def evil(hub):
    """A repo with code that writes a mark when it runs; and the mark."""

    def add(mark):
        hub.add("evil/code", {"evil.py": f"open({str(mark)!r}, 'w')\nraise SystemExit\n".encode()})
        return mark

    return add


def minilm_with(exported, folder, **files):
    """Copy an export into its own folder and embed other files in it."""
    folder.mkdir()
    path = shutil.copy(exported("minilm") / "model.onnx", folder / "model.onnx")
    tampered(path, files={name: json.dumps(content).encode() for name, content in files.items()})
    rewrite_model(path, metadata={"hf_export_library": "sentence_transformers"})
    return folder


CONFIG = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8}


@pytest.mark.parametrize("options", ["", ", trust_remote_code=True"])
@pytest.mark.parametrize("kind", ["evil/code--evil.Evil", "this.s"])
def test_embedded_list_of_modules_runs_nothing(exported, evil, tmp_path, kind, options, empty_home):
    mark = evil(tmp_path / "mark")
    modules = [{**TRANSFORMER, "type": kind}]
    folder = minilm_with(exported, tmp_path / "out", **{"config.json": CONFIG, "modules.json": modules})
    if options:  # of a local model: there is no commit with trusted files in their place
        record = read_record(folder / "model.onnx")
        gone = ("hf_hub_", "hf_config_files", "hf_weight_files")
        rewrite_model(
            folder / "model.onnx",
            metadata={"hf_model_type": "local"},
            drop=lambda key: key.startswith(gone) or key == "hf_model_type",
        )
        assert record.hub_id
    done = run_python(LOAD.format(folder=str(folder), options=options), check=False, forked=True, **empty_home)
    assert "UntrustedCodeError" in done.stderr
    assert kind in done.stderr
    assert "unembed" in done.stderr
    assert "Zen of Python" not in done.stdout
    assert not mark.exists()


@pytest.mark.parametrize("name", ["2_Dense/config.json", "sentence_bert_config.json", "1_Router/config.json"])
def test_other_files_of_sentence_transformers_are_checked_when_it_asks_for_them(exported, tmp_path, access, name):
    _, content = next(case for case in REFUSED.values() if case[0] == name)
    folder = minilm_with(exported, tmp_path / "out", **{"config.json": CONFIG, name: content})
    with pytest.raises(errors.UntrustedCodeError, match=name):
        sentence_file(folder, name, access)


def test_code_of_a_commit_runs_only_if_trusted(model_folder, hub, evil, tmp_path, empty_home, caplog):
    mark = evil(tmp_path / "mark")
    files = {path.relative_to(model_folder("minilm")).as_posix(): path for path in model_folder("minilm").rglob("*")}
    files = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    hub.add("tiny/with-code", {**files, "modules.json": json.dumps(EVIL).encode()})
    with caplog.at_level(logging.WARNING):
        done = HTPExporter().export("tiny/with-code", tmp_path / "out", task="feature-extraction")
    assert "modules.json is not embedded" in caplog.text
    assert "modules.json" not in {file.name for file in done.metadata.embedded_files}
    assert AutoConfig.from_pretrained(tmp_path / "out" / "model.onnx").model_type == "bert"

    def load(options):
        code = LOAD.format(folder=str(tmp_path / "out"), options=options)
        return run_python(code, check=False, forked=True, **empty_home)

    refused = load("")
    assert "UntrustedCodeError" in refused.stderr
    assert "trust_remote_code=True" in refused.stderr
    assert not mark.exists()
    load(", trust_remote_code=True")
    assert mark.exists()


def test_export_does_not_run_the_code_of_a_commit(model_folder, hub, evil, tmp_path):
    mark = evil(tmp_path / "mark")
    files = {path.name: path.read_bytes() for path in model_folder("bert").iterdir()}
    hub.add("tiny/with-code", {**files, "modules.json": json.dumps(EVIL).encode()})
    with pytest.raises(errors.UntrustedCodeError, match=r"modules\.json.*evil/code.*trust_remote_code"):
        HTPExporter().export("tiny/with-code", tmp_path / "out", library_name="sentence_transformers")
    assert not mark.exists()
    config = {**json.loads(files["config.json"]), "attn_implementation": "evil/kernel"}
    hub.add("tiny/with-kernel", {**files, "config.json": json.dumps(config).encode()})
    with pytest.raises(errors.UntrustedCodeError, match="attn_implementation='evil/kernel'"):
        HTPExporter().export("tiny/with-kernel", tmp_path / "out")


def test_endpoint_and_push_reject_such_a_file(exported, hub, tmp_path):
    folder = minilm_with(exported, tmp_path / "out", **{"config.json": CONFIG, "modules.json": EVIL})
    with pytest.raises(errors.UntrustedCodeError, match=r"modules\.json.*evil/code"):
        write_endpoint(folder, tmp_path / "endpoint")
    assert not (tmp_path / "endpoint").exists()
    (folder / "modules.json").write_text(json.dumps(EVIL))
    with pytest.raises(errors.UntrustedCodeError, match=r"modules\.json.*evil/code"):
        push([folder], "me/mine")
    assert "me/mine" not in hub.repos


def test_embed_leaves_out_code_and_unembed_warns_about_it(exported, tmp_path, caplog):
    folder = minilm_with(exported, tmp_path / "out", **{"config.json": CONFIG, "modules.json": EVIL})
    with caplog.at_level(logging.WARNING):
        unembed_files(folder / "model.onnx", tmp_path / "files")
    assert "evil/code--evil.Evil" in caplog.text
    assert json.loads((tmp_path / "files" / "modules.json").read_text()) == EVIL
    caplog.clear()
    rewrite_model(
        folder / "model.onnx",
        metadata={"hf_model_type": "local"},
        drop=lambda key: key.startswith(("hf_hub_", "hf_config_files", "hf_weight_files")) or key == "hf_model_type",
    )
    embedded = embed_files(folder / "model.onnx", tmp_path / "files", access=HubAccess(local_files_only=True))
    assert [file.name for file in embedded] == ["config.json"]
    assert "modules.json is not embedded" in caplog.text


@pytest.mark.parametrize(
    "axis",
    [
        "9**9**9**9",
        "1<<9**9",
        "[open({mark!r}, 'w'), 2][1]",
        "open({mark!r}, 'w') and batch_size",
        "(open)({mark!r}, 'w')",
        "max(1, open({mark!r}, 'w'))",
        "().__class__.__base__.__subclasses__()",
        "batch_size if exec else (",
        "breakpoint()",
    ],
)
def test_name_of_an_axis_runs_nothing(exported, tmp_path, axis):
    """Optimum evaluates it when it binds inputs and outputs."""
    mark = tmp_path / "mark"
    model = onnx.load(exported("bert") / "model.onnx")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = axis.format(mark=str(mark))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(errors.InvalidOnnxFileError, match=r"model\.onnx.*logits.*Python"):
        ORTModelForSequenceClassification.from_pretrained(tmp_path / "model.onnx", use_io_binding=True)
    with pytest.raises(errors.InvalidOnnxFileError, match=r"model\.onnx.*logits.*Python"):
        write_endpoint(tmp_path / "model.onnx", tmp_path / "endpoint")
    assert not mark.exists()


def test_names_of_axes_that_exporters_write_pass():
    names = ["batch_size", "past_sequence_length + sequence_length", "floor(height/8 - 1/2) + 1", "(height//8)*2"]
    names += ["Max(1, s0)", "unk__12", "s0 + s1 + 2", "Addlogits_dim_0", "-s0", "layer.0/out:0", "CeilDiv(s1, 2)"]
    refuse_code_in_axes({"x": [*names, 3, None], "y": None}, "model.onnx")


def test_config_that_names_a_kernel_is_not_loaded(exported, tmp_path):
    config = {**CONFIG, "attn_implementation": "evil/kernel"}
    folder = minilm_with(exported, tmp_path / "out", **{"config.json": config})
    with pytest.raises(errors.UntrustedCodeError, match=r"attn_implementation='evil/kernel'.*unembed"):
        AutoConfig.from_pretrained(folder / "model.onnx")
