"""Inference Endpoints run every kind of task in an environment that contains only their requirements."""

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
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import SegformerImageProcessor

from optimum_htp import HTPExporter
from optimum_htp.extras.endpoint.folder import write_endpoint
from tests.support import inference_server
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
    """A file with a card for document-question-answering, a task without an exporter."""
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
    """Endpoints of many tasks, in an environment with their requirements and without a Hub."""
    root = tmp_path_factory.mktemp("served")
    names = set()
    for name in ("bert", "gpt2", "t5", "vit", "wav2vec2", "minilm"):
        write_endpoint(exported(name), root / name)
        names |= set((root / name / "requirements.txt").read_text().splitlines())
    for name in ("distilbert", "deberta-v2", "albert", "segformer", "clip", "trocr", "hubert", "whisper"):
        write_endpoint(zoo_export(name).output, root / name)
        names |= set((root / name / "requirements.txt").read_text().splitlines())
    assert write_endpoint(donut_file, root / "donut").task == "document-question-answering"
    # The tiny model's processor does not support segmentation.
    SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "segformer")
    everything = root / "requirements.txt"
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
    def test_environment_does_not_contain_this_package(self, served, tmp_path):
        done = subprocess.run(
            [served.python, "-c", "import transformers, optimum_htp"], capture_output=True, text=True, cwd=tmp_path
        )
        assert "No module named 'optimum_htp'" in done.stderr

    def test_text_classification_matches_pytorch(self, served, model_folder):
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

    def test_text_generation_matches_pytorch(self, served, model_folder):
        import transformers

        options = {"max_new_tokens": 6, "do_sample": False}
        for name, task in (("gpt2", "text-generation"), ("t5", "text2text-generation")):
            expected = transformers.pipeline(task, model=str(model_folder(name)))("the cat", **options)
            assert served(name, {"inputs": "the cat", "parameters": options}) == (200, expected)
            assert len(served(name, {"inputs": ["the cat", "the dog"], "parameters": options})[1]) == 2

    def test_sentence_embeddings_and_similarities(self, served):
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

    def test_other_text_tasks(self, served):
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

    def test_speech_recognition_matches_pytorch(self, served, zoo_export):
        import transformers

        whisper = zoo_export("whisper").model
        listen = transformers.pipeline("automatic-speech-recognition", model=str(whisper))
        options = {"generate_kwargs": {"max_new_tokens": 24}}
        expected = listen(SAMPLES.astype(np.float32) / 32768, **options)
        assert expected["text"].strip()
        body = {"inputs": base64.b64encode(wav()).decode(), "parameters": options}
        assert served("whisper", body) == (200, expected)

    @pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg decodes files other than WAV")
    @pytest.mark.parametrize(("name", "suffix"), [("whisper", "flac"), ("wav2vec2", "flac"), ("wav2vec2", "wav")])
    def test_ffmpeg_decodes_other_audio(self, served, tmp_path, name, suffix):
        """Convert to another format or sampling rate."""
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

    def test_document_question_answering_matches_pytorch(self, served, donut_file):
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
            ("bert", {"inputs": 5}, "requires texts"),
            ("bert", {"inputs": {"wrong": 1}}, "text-classification rejects an object with 'wrong': "),
            ("bert", {"inputs": [{"wrong": 1}]}, "rejects a list that begins with an object with 'wrong': "),
            ("gpt2", {"inputs": {}}, "pipeline for text-generation rejects an object without fields: "),
            ("gpt2", {"inputs": "a", "parameters": {"no_such_thing": 1}}, "a text and the parameters 'no_such_thing'"),
            ("distilbert", {"inputs": {"question": "a"}}, "answering rejects an object with 'question': "),
            ("clip", {"inputs": {"wrong": 1}}, "rejects an object with 'wrong': "),
            ("vit", {"inputs": "/etc/passwd"}, "paths are not opened"),
            ("vit", {"inputs": "http://127.0.0.1:1/a.png"}, "paths are not opened"),
            ("wav2vec2", {"inputs": "/etc/passwd"}, "paths are not opened"),
            ("minilm", {"inputs": {"sentences": "a"}}, "source_sentence"),
        ],
    )
    def test_errors_have_the_form_of_inference_endpoints(self, served, name, body, message):
        status, answer = served(name, body)
        assert status == 400
        assert message in answer["error"]
