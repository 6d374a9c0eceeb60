"""Lists and journals of batches: what is asked for, and what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest

from optimum_htp.errors import BatchListError
from optimum_htp.extras.batch.jobs import Job, is_as_asked, jobs_from_lines, lasting_options
from optimum_htp.extras.batch.journal import Journal


def test_journal_goes_on_after_a_line_that_was_cut_short(tmp_path):
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


def test_lines_say_how_to_export():
    lines = ["# none", "", "org/a@v1", '{"model": "org/b", "task": "fill-mask", "output": "b", "opset": 17}']
    first, second = jobs_from_lines(lines, "list", {"task": "auto", "opset": 18, "dtype": "fp16"})
    assert (first.model, first.output, first.task, first.options["opset"]) == ("org/a@v1", "org/a@v1", "auto", 18)
    assert (second.output, second.task, second.options) == ("b", "fill-mask", {"opset": 17, "dtype": "fp16"})
    lines = ["org/a.onnx", '{"model": "org/b", "output": "./b/"}', '{"model": "org/b", "output": "b"}']
    assert [job.output for job in jobs_from_lines(lines, "list")] == ["org/a.onnx-model", "b"]


def test_export_is_as_asked_only_with_the_same_options():
    job = Job("org/a", "org/a", options={"hierarchy": False, "pad_token_id": 0, "opset": None, "token": "x"})
    entry = {"task": "fill-mask", "asked": "auto", "options": {"hierarchy": False, "pad_token_id": 0}}
    assert lasting_options(job.options) == entry["options"]
    assert is_as_asked(job, entry)
    assert is_as_asked(replace(job, task="fill-mask"), entry)
    assert is_as_asked(job, {"task": "fill-mask"})  # of a journal that says nothing of it
    assert not is_as_asked(replace(job, task="text-classification"), entry)
    assert not is_as_asked(replace(job, options={"hierarchy": True, "pad_token_id": 0}), entry)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (['{"model": 3}'], 'line 1: it has no "model"'),
        (["{"], "line 1"),
        (['{"model": "a/b", "output": "../x"}'], "leads out"),
        (['{"model": "a/b", "output": "/x"}'], "leads out"),
        (["../../no-such/x"], "neither a folder here nor a model"),
        (['{"model": "a/b", "token": "hf_x"}'], "for all models"),
        (['{"model": "a/b", "task": 1}'], '"task" is no text'),
        (["a/b", '{"model": "c/d", "output": "a/b"}'], "lines 1 and 2"),
        (["a/b", '{"model": "c/d", "output": "./a//b/"}'], "lines 1 and 2"),
        (["a/b", '{"model": "c/d", "output": "A/B"}'], "lines 1 and 2"),
        (['{"model": "a/b", "output": "b.onnx"}'], "leave out .onnx"),
    ],
)
def test_lists_that_are_none_are_refused_with_the_line(lines, said):
    with pytest.raises(BatchListError, match="list") as raised:
        jobs_from_lines(lines, "list")
    assert said in str(raised.value)
