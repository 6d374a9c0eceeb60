"""Repos whose main branch has changed since the commit of their ONNX file: the model of that commit loads."""

from __future__ import annotations

import json

import pytest

from optimum_htp import HTPExporter
from tests.support.moved import CLASSIFIER, LAYOUTS, SENTENCES, TEXT, changed_json, files_below


@pytest.mark.parametrize(("layout", "embed"), LAYOUTS)
def test_classifier_has_the_labels_and_words_of_its_commit(classifier, expected, ask, layout, embed):
    classifier(layout, embed)
    for answers in ask(CLASSIFIER.format(layout=layout, text=TEXT)):
        assert len(answers) == 5
        assert {name: tuple(answer) for name, answer in answers.items()} == dict.fromkeys(answers, expected)


def test_old_id_without_organization_is_the_same_repo(classifier, expected, ask, hub):
    """The Hub redirects `bert-base-uncased` to `google-bert/bert-base-uncased`."""
    classifier("", "none")
    hub.renamed["bert"] = "moved/bert"
    for answers in ask(CLASSIFIER.format(layout="", text=TEXT).replace('"moved/bert"', '"bert"')):
        assert {name: tuple(answer) for name, answer in answers.items()} == dict.fromkeys(answers, expected)


CROSS = """
import json
from sentence_transformers import CrossEncoder
print(json.dumps(CrossEncoder("moved/bert", backend="onnx").predict([({text!r}, "a dog")]).tolist()))
"""


@pytest.mark.parametrize(("layout", "embed"), LAYOUTS)
def test_cross_encoder_has_the_words_of_its_commit(classifier, model_folder, ask, layout, embed):
    from sentence_transformers import CrossEncoder

    classifier(layout, embed)
    scores = CrossEncoder(str(model_folder("bert")), device="cpu").predict([(TEXT, "a dog")])
    for mine in ask(CROSS.format(text=TEXT)):
        assert mine[0] == pytest.approx(scores[0].tolist(), abs=1e-4)


TRANSLATOR = """
import json
from optimum.onnxruntime import ORTModelForSeq2SeqLM
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

given = {{"subfolder": {layout!r}}} if {layout!r} else {{}}
mine = ORTModelForSeq2SeqLM.from_pretrained("moved/t5", **given)
theirs = AutoModelForSeq2SeqLM.from_pretrained({folder!r}).eval()
inputs = AutoTokenizer.from_pretrained({folder!r})({text!r}, return_tensors="pt")
assert mine.preprocessors[0]({text!r}).input_ids == inputs.input_ids.tolist()[0]
both = [model.generate(inputs.input_ids, max_new_tokens=6).tolist() for model in (mine, theirs)]
print(json.dumps([*both, mine.config.num_decoder_layers, mine.generation_config.decoder_start_token_id]))
"""


@pytest.mark.parametrize(
    ("changed", "layout", "embed"),
    [
        ("generation", "", "none"),
        pytest.param("generation", "onnx", "all", marks=pytest.mark.slow),
        pytest.param("sizes", "onnx", "none", marks=pytest.mark.slow),
        ("sizes", "", "all"),
    ],
)
def test_encoder_and_decoder_generate_as_at_their_commit(moved_on, model_folder, ask, changed, layout, embed):
    folder = model_folder("t5")
    files = files_below(folder)
    if changed == "sizes":
        new = changed_json(files, "config.json", num_decoder_layers=3, num_heads=2, d_kv=4)
    else:
        new = changed_json(files, "generation_config.json", decoder_start_token_id=5, eos_token_id=2)
        new |= changed_json(files, "config.json", decoder_start_token_id=5)
    moved_on("moved/t5", folder, new, layout, embed, pipeline_tag="text2text-generation")
    for mine, theirs, layers, start in ask(TRANSLATOR.format(layout=layout, folder=str(folder), text=TEXT)):
        assert mine == theirs
        assert layers == json.loads(files["config.json"])["num_decoder_layers"]
        assert start == json.loads(files["generation_config.json"])["decoder_start_token_id"] != 5


@pytest.mark.parametrize(("layout", "embed"), LAYOUTS)
def test_sentence_transformer_has_the_modules_and_words_of_its_commit(sentences, ask, layout, embed):
    publish, vector = sentences
    _, main = publish(layout, embed)
    for modules, mine in ask(SENTENCES.format(options={}, text=TEXT)):
        assert modules == ["Transformer", "Pooling", "Normalize"]
        assert mine == pytest.approx(vector.tolist(), abs=1e-5)
    ((modules, mine),) = ask(SENTENCES.format(options={"revision": main}, text=TEXT), offline=False)
    assert modules == ["Transformer", "Pooling"]
    assert mine != pytest.approx(vector.tolist(), abs=1e-2)


def test_user_arguments_are_used(classifier, ask):
    _, main = classifier()
    code = f"""
import json
from optimum.onnxruntime import ORTModelForSequenceClassification
from optimum.pipelines import pipeline
from transformers import AutoConfig, AutoTokenizer

config, words = (loader.from_pretrained("moved/bert") for loader in (AutoConfig, AutoTokenizer))
load = ORTModelForSequenceClassification.from_pretrained
models = [load("moved/bert", subfolder="onnx", revision={main!r}), load("moved/bert", subfolder="onnx", config=config)]
run = pipeline("text-classification", model="moved/bert", tokenizer=words, accelerator="ort")
runs = [run, pipeline("text-classification", model="moved/bert", revision={main!r}, accelerator="ort")]
assert models[0].preprocessors[0].vocab == words.vocab
print(json.dumps([
    [model.config.id2label[0] for model in models],
    [(one.model.config.id2label[0], one.tokenizer.vocab == words.vocab) for one in runs],
]))
"""
    for models, runs in ask(code):
        assert models == ["NEW 0", "NEW 0"]
        assert runs == [["LABEL 0", True], ["NEW 0", True]]


SAID = """
import json, logging
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger("optimum_htp").addHandler(handler)
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import pipeline
models = [ORTModelForSequenceClassification.from_pretrained("moved/bert", subfolder={layout!r}) for _ in range(2)]
run = pipeline("text-classification", model=models[0], tokenizer={tokenizer!r})
print(json.dumps([models[1].config.id2label[0], run({text!r})[0]["label"][:3], said]))
"""


@pytest.mark.parametrize("layout", ["onnx", ""])
def test_deleted_commit_is_reported_once(classifier, hub, ask, layout):
    commit, main = classifier(layout, "none")
    del hub.repos["moved/bert"].commits[commit]
    for label, answer, said in ask(SAID.format(layout=layout, tokenizer="moved/bert", text=TEXT)):
        assert (label, answer) == ("NEW 0", "NEW")
        (warning,) = [text for text in said if commit in text]
        assert main in warning
        assert f'config=AutoConfig.from_pretrained("moved/bert", revision="{commit}")' in warning


def test_change_is_reported_once(classifier, ask):
    _, main = classifier()
    for label, answer, said in ask(SAID.format(layout="onnx", tokenizer=None, text=TEXT)):
        assert (label, answer) == ("LABEL 0", "LAB")
        assert len([text for text in said if "config.json has changed" in text and main in text]) <= 1


@pytest.mark.parametrize("embed", ["all", "none"])
def test_nothing_is_loaded_twice_if_the_configs_are_equal(moved_on, model_folder, hub, ask, embed):
    moved_on("moved/bert", model_folder("bert"), {"README.md": b"new"}, "onnx", embed)
    code = """
import json, onnxruntime
made = []
class Session(onnxruntime.InferenceSession):
    def __init__(self, *args, **options):
        made.append(args)
        super().__init__(*args, **options)
onnxruntime.InferenceSession = Session
from optimum.onnxruntime import ORTModelForSequenceClassification
from optimum.pipelines import pipeline
model = ORTModelForSequenceClassification.from_pretrained("moved/bert", subfolder="onnx")
run = pipeline("text-classification", model="moved/bert", accelerator="ort")
print(json.dumps([len(made), model.config.id2label[0]]))
"""
    assert ask(code, offline=False) == [[2, "LABEL 0"]]


DIFFUSION = """
import json
import numpy as np, torch
from diffusers import StableDiffusionPipeline
from optimum.onnxruntime import ORTDiffusionPipeline, ORTStableDiffusionPipeline

def images(pipe):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return pipe("a b c", num_inference_steps=2, output_type="np", height=16, width=16, latents=latents).images

theirs = StableDiffusionPipeline.from_pretrained({model!r})
answers = []
for cls in (ORTDiffusionPipeline, ORTStableDiffusionPipeline):
    mine = cls.from_pretrained("moved/diffusion")
    answers.append([
        type(mine.scheduler).__name__,
        mine.tokenizer("a b c").input_ids == theirs.tokenizer("a b c").input_ids,
        float(np.abs(images(mine) - images(theirs)).max()),
    ])
print(json.dumps(answers))
"""


@pytest.mark.slow
@pytest.mark.parametrize("embed", ["all", "none"])
@pytest.mark.parametrize("complete", [False, True])
def test_diffusion_pipeline_has_the_configs_of_its_commit(hub, model_folder, tmp_path, ask, complete, embed):
    """With a config next to each part, Optimum loads the pipeline itself; without them, it fails."""
    pytest.importorskip("diffusers")
    folder = model_folder("stable_diffusion")
    files = files_below(folder)
    repo = hub.add("moved/diffusion", files, pipeline_tag="text-to-image", library_name="diffusers")
    options = {"embed": embed, "cache_dir": tmp_path / "exporting", "with_config": complete}
    HTPExporter().export("moved/diffusion", tmp_path / "out", **options)
    kept = {name: body for name, body in files.items() if not name.endswith(".safetensors")}
    new = changed_json(files, "model_index.json", scheduler=["diffusers", "PNDMScheduler"])
    new |= changed_json(files, "scheduler/scheduler_config.json", _class_name="PNDMScheduler", beta_start=0.1)
    for name in {"tokenizer/vocab.json", "tokenizer/tokenizer.json"} & {*files}:
        content = json.loads(files[name])
        words = content["model"]["vocab"] if "model" in content else content
        words |= dict(zip(words, reversed(words.values()), strict=True))
        new[name] = json.dumps(content).encode()
    repo.commit({**kept, **files_below(tmp_path / "out"), **new})
    for answers in ask(DIFFUSION.format(model=str(folder))):
        assert answers == [["DDIMScheduler", True, pytest.approx(0, abs=1e-4)]] * 2
