"""Lists and journals of batches."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from optimum_htp.errors import BatchListError
from optimum_htp.extras.batch.jobs import Job, is_as_asked, jobs_from_lines, lasting_options, read_jobs
from optimum_htp.extras.batch.journal import Journal


def test_journal_continues_after_a_truncated_line(tmp_path):
    job = Job("tiny/bert", "tiny/bert")
    with Journal(tmp_path / "j") as book:
        book.start(job)
        book.end(job, {"state": "done", "commit": "a"})
    with (tmp_path / "j").open("a") as file:
        file.write('{"event": "end", "output": "tiny/b')
    with Journal(tmp_path / "j") as book:
        assert book.ends["tiny/bert"]["commit"] == "a"
        book.end(job, {"state": "done", "commit": "b"})
    with Journal(tmp_path / "j") as book:
        assert book.ends["tiny/bert"]["commit"] == "b"


def test_options_of_a_line_take_precedence():
    lines = ["# none", "", "org/a@v1", '{"model": "org/b", "task": "fill-mask", "output": "b", "opset": 17}']
    first, second = jobs_from_lines(lines, "list", {"task": "auto", "opset": 18, "dtype": "fp16"})
    assert (first.model, first.output, first.task, first.options["opset"]) == ("org/a@v1", "org/a@v1", "auto", 18)
    assert (second.output, second.task, second.options) == ("b", "fill-mask", {"opset": 17, "dtype": "fp16"})
    lines = ["org/a.onnx", '{"model": "org/b", "output": "./b/"}', '{"model": "org/b", "output": "b"}']
    assert [job.output for job in jobs_from_lines(lines, "list", {})] == ["org/a.onnx-model", "b"]


def test_export_is_current_only_with_the_same_options():
    job = Job("org/a", "org/a", options={"hierarchy": False, "pad_token_id": 0, "opset": None, "token": "x"})
    entry = {"task": "fill-mask", "asked": "auto", "options": {"hierarchy": False, "pad_token_id": 0}}
    assert lasting_options(job.options) == entry["options"]
    assert is_as_asked(job, entry)
    assert is_as_asked(replace(job, task="fill-mask"), entry)
    assert is_as_asked(job, {"task": "fill-mask"})  # an entry without options
    assert not is_as_asked(replace(job, task="text-classification"), entry)
    assert not is_as_asked(replace(job, options={"hierarchy": True, "pad_token_id": 0}), entry)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"model": 3}'], 'line 1: it has no "model"'),
        (["{"], "line 1"),
        (['{"model": "a/b", "output": "../x"}'], "leads out"),
        (['{"model": "a/b", "output": "/x"}'], "leads out"),
        (["../../no-such/x"], "neither a local folder nor a repo id"),
        (['{"model": "a/b", "token": "hf_x"}'], "cannot be set per model"),
        (['{"model": "a/b", "task": 1}'], '"task" is not a text'),
        (["a/b", '{"model": "c/d", "output": "a/b"}'], "lines 1 and 2"),
        (["a/b", '{"model": "c/d", "output": "./a//b/"}'], "lines 1 and 2"),
        (["a/b", '{"model": "c/d", "output": "A/B"}'], "lines 1 and 2"),
        (['{"model": "a/b", "output": "b.onnx"}'], "leave out .onnx"),
    ],
)
def test_invalid_line_is_named(lines, message):
    with pytest.raises(BatchListError, match="list") as raised:
        jobs_from_lines(lines, "list", {})
    assert message in str(raised.value)


TWO = ["org/a", "org/b@v1"]


@pytest.mark.parametrize(
    "data",
    [
        b"org/a\norg/b@v1",
        b"org/a\r\n\r\norg/b@v1\r\n",
        "\ufefforg/a\norg/b@v1\n".encode(),
        "org/a\norg/b@v1\n".encode("utf-16"),
        "\ufefforg/a\r\norg/b@v1".encode("utf-16-be"),
        json.dumps(TWO).encode(),
        json.dumps([{"model": "org/a"}, "org/b@v1"], indent=1).encode(),
        b'{"model": "org/a"}\n{"model": "org/b@v1"}\n',
        b'# comment\n{"model": "org/a"}\norg/b@v1',
    ],
)
def test_list_in_any_text_encoding_is_read(data, tmp_path):
    path = tmp_path / "models.txt"
    path.write_bytes(data)
    assert [job.model for job in read_jobs(path, {})] == TWO


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv", b"model\norg/a\n", "m.csv is a CSV file. Write one model per line"),
        ("m.txt", b"model,task\norg/a,fill-mask\n", "m.txt, line 1 is CSV. Write one model per line"),
        ("m.yml", b"- org/a\n", "m.yml is a YAML file. Write one model per line"),
        ("m.txt", b"# models\n- org/a\n", "m.txt, line 2 is YAML. Write one model per line"),
        ("m.txt", b"models:\n  org/a\n", "m.txt, line 1 is YAML. Write one model per line"),
        ("m.txt", b"", "m.txt lists no models. Write one model per line"),
        ("m.txt", b"\n# org/a\n", "m.txt lists no models. Write one model per line"),
        ("m.json", b"[]", "m.json lists no models. Write one model per line"),
        ("m.json", b'["org/a", 3]', "m.json: entry 2 is neither a text nor a JSON object"),
        ("m.json", b'["org/a",', "m.json is not a valid JSON array"),
        ("m.json", b'{"models": []}', "Pass a manifest with --from-manifest"),
        ("m.txt", "org/a".encode("utf-16-le"), "m.txt is not a text file"),
        ("m.onnx", b"\x08\x0a\xff\xfe", "m.onnx is not a text file"),
    ],
)
def test_list_in_another_format_is_named(name, data, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BatchListError) as raised:
        read_jobs(path, {})
    assert message in str(raised.value)


def test_folder_is_not_a_list(tmp_path):
    with pytest.raises(BatchListError, match="is a folder, not a list of models"):
        read_jobs(tmp_path, {})


def test_local_folder_with_punctuation_is_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a, b: c").mkdir()
    (tmp_path / "models.txt").write_text("a, b: c\n")
    (job,) = read_jobs(tmp_path / "models.txt", {})
    assert job.model == "a, b: c"
