"""Inference Endpoints: what is written, and that it serves every kind of task in an environment made for it alone."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
import wave
from contextlib import nullcontext
from importlib.util import find_spec as is_installed
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerImageProcessor

import optimum_htp
from optimum_htp import HTPExporter
from optimum_htp.errors import EndpointError, MissingDependencyError
from optimum_htp.extras.endpoint.folder import write_endpoint
from optimum_htp.extras.endpoint.requirements import pinned
from optimum_htp.extras.push.pushing import push
from optimum_htp.hubs import HubAccess
from tests.conftest import optimum_cli, text2text
from tests.support import inference_server, models
from tests.support.donut import donut
from tests.support.linked import linked_environment

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), "uint8"))
SAMPLES = (np.random.default_rng(0).standard_normal(16_000) * 3000).astype("<i2")


def png():
    stream = io.BytesIO()
    PICTURE.save(stream, format="PNG")
    return stream.getvalue()


def wav():
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(SAMPLES.tobytes())
    return stream.getvalue()


def test_folder_is_whole(exported, tmp_path):
    made = write_endpoint(exported("bert") / "model.onnx", tmp_path / "out")
    assert made.task == "text-classification"
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert (
        there == set(made.files) >= {"config.json", "handler.py", "model.onnx", "requirements.txt", "tokenizer.json"}
    )
    lines = (tmp_path / "out" / "requirements.txt").read_text().splitlines()
    assert all("==" in line or line.startswith(("#", "--extra-index-url")) for line in lines)
    assert not any("optimum-htp" in line or "+" in line for line in lines)
    assert write_endpoint(tmp_path / "out").files == tuple(sorted(there - {"model.onnx"}))  # beside the model


@pytest.mark.parametrize("needed", [True, False])
def test_tokenizer_that_is_a_model_of_sentencepiece_needs_it(hub, tmp_path, needed):
    folder = models.bert(tmp_path / "model")
    (folder / "spiece.model").write_bytes(b"a model")
    if needed:
        (folder / "tokenizer.json").unlink()
    hub.add("tiny/pieces", folder, pipeline_tag="text-classification")
    file = HTPExporter().export("tiny/pieces", tmp_path / "out").files[0]
    with (
        nullcontext()
        if not needed or is_installed("sentencepiece")
        else pytest.raises(MissingDependencyError, match="pip install sentencepiece")
    ):
        write_endpoint(file, tmp_path / "endpoint")
        text = (tmp_path / "endpoint" / "requirements.txt").read_text()
        assert ("sentencepiece==" in text) is needed


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt", "config.json"])
def test_file_of_somebody_else_stays(exported, tmp_path, name):
    (tmp_path / name).write_text("theirs")
    with pytest.raises(EndpointError, match=rf"{name} is another one already.*-o"):
        write_endpoint(exported("bert") / "model.onnx", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "theirs"


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt"])
def test_file_that_was_edited_stays(exported, tmp_path, name):
    write_endpoint(exported("bert") / "model.onnx", tmp_path)
    with (tmp_path / name).open("a") as file:
        file.write("# mine\n")
    with pytest.raises(EndpointError, match=rf"{name} is another one already.*delete it"):
        write_endpoint(tmp_path)
    assert (tmp_path / name).read_text().endswith("# mine\n")


@pytest.mark.parametrize("task", ["multiple-choice", "no-such-task"])
def test_task_that_no_pipeline_serves_is_told(exported, tmp_path, task):
    from optimum_htp.onnxfile import rewrite_model

    (tmp_path / "model.onnx").write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": task})
    with pytest.raises(EndpointError, match=rf"exported for {task}, and no pipeline serves that"):
        write_endpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_file_with_inputs_that_no_pipeline_gives_is_refused(exported, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    (tmp_path / "model.onnx").write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(tmp_path / "model.onnx", metadata={"hf_task": "image-classification"})
    with pytest.raises(EndpointError, match=r"takes input_ids, .*ORTModelForImageClassification.* do not give"):
        write_endpoint(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_several_models_have_to_be_told_apart(exported, tmp_path):
    for name in ("model.onnx", "other.onnx"):
        (tmp_path / name).write_bytes((exported("bert") / "model.onnx").read_bytes())
    with pytest.raises(EndpointError, match=r"several models \(model.onnx, other.onnx\).*-o"):
        write_endpoint(tmp_path)


def test_version_that_nobody_knows_is_not_pinned():
    with pytest.raises(MissingDependencyError, match="pip install no-such-thing"):
        pinned(["no-such-thing"])


def test_command_writes_what_the_hub_then_holds(exported, hub, tmp_path):
    done = optimum_cli("htp", "endpoint", exported("bert"), "-o", tmp_path / "out", "--json")
    assert json.loads(done.stdout)["task"] == "text-classification"
    hub.writers = {"hf_w": {"me"}}
    done = push([tmp_path / "out"], "me/served", access=HubAccess(token="hf_w", cache_dir=tmp_path / "cache"))
    assert {"handler.py", "requirements.txt", "config.json", "model.onnx", "README.md"} <= set(done.files)
    del hub.repos["me/served"]


def answered(folder, body):
    """Return what the handler in a folder answers."""
    scope = {"__name__": "handler"}
    exec(compile((folder / "handler.py").read_text(), "handler.py", "exec"), scope)
    return scope["EndpointHandler"](str(folder))(body)


@text2text
@pytest.mark.parametrize("place", ["", "onnx", "of/the model"])
def test_encoder_and_merged_decoder_are_served(exported, model_folder, tmp_path, place):
    """Other decoders are not there: Optimum's `save_pretrained` keeps these two."""
    import transformers

    (tmp_path / "in" / place).mkdir(parents=True)
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx"):
        shutil.copy(exported("t5") / name, tmp_path / "in" / place)
    write_endpoint(tmp_path / "in", tmp_path / "out")
    options = {"max_new_tokens": 6, "do_sample": False}
    optimum_htp.deactivate()
    try:
        answer = answered(tmp_path / "out", {"inputs": "the cat", "parameters": options})
    finally:
        optimum_htp.activate()
    assert answer == transformers.pipeline("text2text-generation", model=str(model_folder("t5")))("the cat", **options)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "onnx/model_small.onnx", "sub/model_small.onnx"])
def test_file_in_a_folder_is_served_without_this_package(exported, tmp_path, name):
    file = tmp_path / "in" / name
    file.parent.mkdir(parents=True)
    shutil.copy(exported("bert") / "model.onnx", file)
    write_endpoint(tmp_path / "in", tmp_path / "out")
    optimum_htp.deactivate()
    try:
        (answer,) = answered(tmp_path / "out", {"inputs": "the cat"})
    finally:
        optimum_htp.activate()
    assert answer["label"].startswith("LABEL")


def test_pair_of_texts_is_answered_as_in_a_list(exported, model_folder, tmp_path):
    import transformers

    write_endpoint(exported("bert"), tmp_path / "out")
    pair = {"text": "the big cat", "text_pair": "the dog"}
    answer = answered(tmp_path / "out", {"inputs": pair})
    expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))(pair)
    assert answer["label"] == expected["label"]
    assert answer["score"] == pytest.approx(expected["score"], abs=1e-4)


class Served:
    def __init__(self, python, port):
        self.python, self.address = python, f"http://127.0.0.1:{port}"

    def __call__(self, name, body, kind="application/json", query=""):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/{name}{query}", data, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="session")
def donut_file(made_once):
    """A file of a model whose card says that it answers questions on documents, which is no task of an export's."""
    from optimum_htp.onnxfile import rewrite_model

    def make(folder):
        HTPExporter().export(
            donut(folder / "model"), folder / "out", task="image-to-text-with-past", with_config=False
        )
        for path in (folder / "out").glob("*.onnx"):
            rewrite_model(path, metadata={"hf_pipeline_tag": "document-question-answering"})

    return made_once("models/donut", make) / "out"


@pytest.fixture(scope="module")
def served(exported, zoo_export, donut_file, tmp_path_factory):
    """Endpoints of many tasks, served from an environment of their requirements; no Hub can be reached."""
    root = tmp_path_factory.mktemp("served")
    names = set()
    for name in ("bert", "gpt2", "t5", "vit", "wav2vec2", "minilm"):
        write_endpoint(exported(name), root / name)
        names |= set((root / name / "requirements.txt").read_text().splitlines())
    for name in ("distilbert", "deberta-v2", "albert", "segformer", "clip", "trocr", "hubert", "whisper"):
        write_endpoint(zoo_export(name).output, root / name)
        names |= set((root / name / "requirements.txt").read_text().splitlines())
    assert write_endpoint(donut_file, root / "donut").task == "document-question-answering"
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "segformer")  # the tiny model has
    everything = root / "requirements.txt"  # one that knows nothing of segments
    everything.write_text("\n".join(sorted(names)))
    python = linked_environment(tmp_path_factory.mktemp("environment"), everything)
    env = {name: text for name, text in os.environ.items() if not name.startswith(("HF_", "PYTHON", "OPTIMUM_HTP"))}
    env |= {"HF_HOME": str(root / "home"), "HF_ENDPOINT": "http://127.0.0.1:1"}
    with subprocess.Popen(
        [python, Path(inference_server.__file__), root], env=env, stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        yield Served(python, process.stdout.readline().strip())
        process.terminate()


@pytest.mark.slow
class TestServing:
    def test_environment_has_none_of_our_code(self, served, tmp_path):
        done = subprocess.run(
            [served.python, "-c", "import transformers, optimum_htp"], capture_output=True, text=True, cwd=tmp_path
        )
        assert "No module named 'optimum_htp'" in done.stderr

    def test_texts_are_classified_as_pytorch_does(self, served, model_folder):
        import transformers

        texts = ["the big cat sat on the mat", "the dog"]
        expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))(texts)
        status, answer = served("bert", {"inputs": texts})
        assert status == 200
        assert [one["label"] for one in answer] == [one["label"] for one in expected]
        assert answer[0]["score"] == pytest.approx(expected[0]["score"], abs=1e-4)
        status, answer = served("bert", {"inputs": texts[0], "parameters": {"top_k": 2}})
        assert len(answer) == 2
        assert len(served("bert", {"inputs": texts[0]}, query="?top_k=3")[1]) == 3
        pair = {"text": texts[0], "text_pair": texts[1]}
        expected = transformers.pipeline("text-classification", model=str(model_folder("bert")))(pair)
        status, answer = served("bert", {"inputs": pair})
        assert (status, answer["label"]) == (200, expected["label"])

    def test_texts_are_generated_as_pytorch_does(self, served, model_folder):
        import transformers

        options = {"max_new_tokens": 6, "do_sample": False}
        for name, task in (("gpt2", "text-generation"), ("t5", "text2text-generation")):
            expected = transformers.pipeline(task, model=str(model_folder(name)))("the cat", **options)
            assert served(name, {"inputs": "the cat", "parameters": options}) == (200, expected)
            assert len(served(name, {"inputs": ["the cat", "the dog"], "parameters": options})[1]) == 2

    def test_sentences_become_embeddings(self, served):
        from sentence_transformers import SentenceTransformer

        from tests.support.models import minilm

        texts = ["A man is eating food.", "A man eats something.", "The stock market fell sharply."]
        status, answer = served("minilm", {"inputs": texts})
        assert status == 200
        assert np.allclose(answer["embeddings"], SentenceTransformer(str(minilm())).encode(texts), atol=1e-4)
        asked = {"source_sentence": texts[0], "sentences": texts[1:]}
        near, far = served("minilm", {"inputs": asked})[1]["similarities"]
        assert near > 0.6
        assert far < 0.2

    def test_other_texts(self, served):
        asked = {"question": "who sat", "context": "the big cat sat on the mat"}
        status, answer = served("distilbert", {"inputs": asked})
        assert (status, {"score", "start", "end", "answer"} <= set(answer)) == (200, True)
        status, answer = served("distilbert", {"inputs": [asked, asked], "parameters": {"max_answer_len": 3}})
        assert (status, len(answer)) == (200, 2)
        status, answer = served("deberta-v2", {"inputs": "the big cat"})
        assert (status, isinstance(answer, list)) == (200, True)
        status, answer = served("albert", {"inputs": "the big cat"})
        assert status == 200, answer
        assert np.asarray(answer).ndim == 3

    def test_images(self, served):
        status, answer = served("vit", png(), "image/png")
        assert status == 200, answer
        text = base64.b64encode(png()).decode()
        assert served("vit", {"inputs": text}) == (200, answer)
        assert len(served("vit", {"inputs": [text, f"data:image/png;base64,{text}"]})[1]) == 2
        status, answer = served("segformer", {"inputs": text})
        assert status == 200, answer
        assert Image.open(io.BytesIO(base64.b64decode(answer[0]["mask"]))).size == PICTURE.size
        status, answer = served("trocr", {"inputs": [text, text], "parameters": {"max_new_tokens": 4}})
        assert status == 200, answer
        assert len(answer) == 2
        labels = {"candidate_labels": ["cat", "dog"]}
        status, answer = served("clip", {"inputs": text, "parameters": labels})
        assert (status, {one["label"] for one in answer}) == (200, {"cat", "dog"})

    def test_audio(self, served, model_folder):
        import transformers

        listen = transformers.pipeline("automatic-speech-recognition", model=str(model_folder("wav2vec2")))
        expected = listen(SAMPLES.astype(np.float32) / 32768)
        assert served("wav2vec2", wav(), "audio/wav") == (200, expected)
        assert served("wav2vec2", {"inputs": base64.b64encode(wav()).decode()}) == (200, expected)
        raw = {"raw": (SAMPLES / 32768).tolist(), "sampling_rate": 16_000}
        assert served("wav2vec2", {"inputs": raw}) == (200, expected)
        status, answer = served("hubert", wav(), "audio/wav", "?top_k=2")
        assert status == 200, answer
        assert len(answer) == 2

    def test_speech_becomes_text_as_in_pytorch(self, served, zoo_export):
        import transformers

        whisper = zoo_export("whisper").model
        listen = transformers.pipeline("automatic-speech-recognition", model=str(whisper))
        options = {"generate_kwargs": {"max_new_tokens": 24}}
        expected = listen(SAMPLES.astype(np.float32) / 32768, **options)
        assert expected["text"].strip()
        body = {"inputs": base64.b64encode(wav()).decode(), "parameters": options}
        assert served("whisper", body) == (200, expected)

    @pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg decodes what is no WAV")
    @pytest.mark.parametrize(("name", "suffix"), [("whisper", "flac"), ("wav2vec2", "flac"), ("wav2vec2", "wav")])
    def test_ffmpeg_decodes_other_audio(self, served, tmp_path, name, suffix):
        """Another format, or another rate."""
        (tmp_path / "in.wav").write_bytes(wav())
        rate = ["-ar", "48000"] if suffix == "wav" else []
        command = ["ffmpeg", "-loglevel", "error", "-i", tmp_path / "in.wav", *rate, tmp_path / f"out.{suffix}"]
        subprocess.run(command, check=True)
        options = {"generate_kwargs": {"max_new_tokens": 24}} if name == "whisper" else {}

        def heard(content):
            return served(name, {"inputs": base64.b64encode(content).decode(), "parameters": options})

        plain, answer = heard(wav()), heard((tmp_path / f"out.{suffix}").read_bytes())
        assert plain[0] == 200, plain
        assert answer == plain if suffix == "flac" else answer[0] == 200

    def test_questions_on_documents_are_answered_as_in_pytorch(self, served, donut_file):
        import transformers

        folder = str(donut_file.parent / "model")
        processor = transformers.AutoProcessor.from_pretrained(folder)
        ask = transformers.pipeline(
            "document-question-answering",
            model=transformers.VisionEncoderDecoderModel.from_pretrained(folder),
            tokenizer=processor.tokenizer,
            image_processor=processor.image_processor,
        )
        question = {"image": PICTURE, "question": "who sat?"}
        expected = ask(**question)
        assert expected[0]["answer"]
        asked = {**question, "image": base64.b64encode(png()).decode()}
        assert served("donut", {"inputs": asked}) == (200, expected)
        assert served("donut", {"inputs": [asked, asked]}) == (200, [expected, expected])

    @pytest.mark.parametrize(
        ("name", "body", "message"),
        [
            ("bert", {"inputs": None}, "inputs"),
            ("bert", {"inputs": []}, "is empty"),
            ("bert", {"inputs": "a", "parameters": [1]}, "JSON object"),
            ("bert", {"inputs": 5}, "takes texts"),
            ("gpt2", {"inputs": "a", "parameters": {"no_such_thing": 1}}, "no_such_thing"),
            ("vit", {"inputs": "/etc/passwd"}, "paths are not opened"),
            ("vit", {"inputs": "http://127.0.0.1:1/a.png"}, "paths are not opened"),
            ("wav2vec2", {"inputs": "/etc/passwd"}, "paths are not opened"),
            ("minilm", {"inputs": {"sentences": "a"}}, "source_sentence"),
        ],
    )
    def test_errors_are_told_as_the_contract_has_them(self, served, name, body, message):
        status, answer = served(name, body)
        assert status == 400
        assert message in answer["error"]
