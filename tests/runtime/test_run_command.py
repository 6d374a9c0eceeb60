"""`optimum-cli htp run` and `python -m optimum_htp.runtime` print the results of a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from optimum_htp.runtime import load
from optimum_htp.runtime.command import main
from tests.conftest import optimum_cli

GREEDY = ("-p", "do_sample=false", "-p", "max_new_tokens=6")


def printed(capsys, *arguments):
    code = main([str(one) for one in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_labels_are_printed_with_scores(zoo_export, capsys):
    folder = zoo_export("roberta").output
    (best,) = load(folder)("I like it")
    code, out, _ = printed(capsys, folder, "I like it")
    assert (code, out) == (0, f"{best['score']:.4f}  {best['label']}\n")
    code, out, _ = printed(capsys, folder, "I like it", "the cat", "--json", "-p", "top_k=2")
    documents = [json.loads(line) for line in out.splitlines()]
    assert [one["input"] for one in documents] == ["I like it", "the cat"]
    assert documents[0]["answer"] == load(folder)("I like it", top_k=2)


def test_generated_text_is_printed(zoo_export, capsys):
    folder = zoo_export("gpt2").output
    ((whole,),) = load(folder)(["the cat"], do_sample=False, max_new_tokens=6, return_full_text=False)
    code, out, _ = printed(capsys, folder, "the cat", *GREEDY)
    assert (code, out.strip()) == (0, whole["generated_text"].strip())


def test_question_with_context_as_parameter(zoo_export, capsys):
    folder = zoo_export("distilbert").output
    answer = load(folder)(question="who sat?", context="the cat sat on the mat")
    shown = f"{answer['score']:.4f}  {answer['answer']}\n"
    assert printed(capsys, folder, "who sat?", "-p", "context=the cat sat on the mat")[1] == shown
    fields = json.dumps({"question": "who sat?", "context": "the cat sat on the mat"})
    assert printed(capsys, folder, fields)[1] == shown


def test_zero_shot_labels_as_parameter(zoo_export, capsys):
    options = ["--task", "zero-shot-classification", "-p", "candidate_labels=cat,mat"]
    code, out, _ = printed(capsys, zoo_export("roberta").output, "a cat", *options)
    assert code == 0
    assert {line.split()[1] for line in out.splitlines()} == {"cat", "mat"}


def test_image_path_as_input(zoo_export, capsys, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    code, out, _ = printed(capsys, zoo_export("resnet").output, tmp_path / "image.png")
    assert code == 0
    assert len(out.splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["no.onnx", "a"], "no ONNX file"),
        (["{file}", "a", "-p", "top"], "NAME=VALUE"),
        (["{file}", "a", "-p", "top=1"], "got an unexpected keyword argument 'top'"),
    ],
)
def test_error_is_one_message(arguments, text, zoo_export, capsys):
    file = str(zoo_export("roberta").output)
    code, out, err = printed(capsys, *(one.format(file=file) for one in arguments))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert text in err


@pytest.mark.parametrize("text", ["--hello", "-hello", "-pi is 3"])
def test_input_that_begins_with_a_dash_needs_a_separator(text, zoo_export, capsys):
    folder = zoo_export("roberta").output
    try:
        code, _, err = printed(capsys, folder, text)
    except SystemExit as stopped:
        code, err = stopped.code, capsys.readouterr().err
    assert code != 0
    assert "put `--` before the inputs" in err
    for options in ([], ["--json"]):
        code, out, _ = printed(capsys, folder, *options, "--", text)
        assert (code, len(out.splitlines())) == (0, 1)


def test_inputs_can_follow_options(zoo_export, capsys):
    folder = zoo_export("roberta").output
    _, expected, _ = printed(capsys, folder, "the cat", "--", "-5", "--json", "I like it")
    assert printed(capsys, folder, "the cat", "-p", "top_k=1", "--", "-5", "--json", "I like it")[1] == expected
    _, expected, _ = printed(capsys, folder, "the cat", "I like it", "--json")
    assert printed(capsys, folder, "--json", "the cat", "I like it")[1] == expected
    assert printed(capsys, folder, "the cat", "--json", "I like it")[1] == expected
    arguments = ("htp", "run", folder, "the cat", "--json", "I like it")
    assert optimum_cli(*arguments).stdout == expected


def test_optimum_cli_explains_the_separator(zoo_export):
    failed = optimum_cli("htp", "run", zoo_export("roberta").output, "--hello", check=False)
    assert failed.returncode == 2
    assert "Put -- before an input" in failed.stderr
    assert optimum_cli("htp", "run", zoo_export("roberta").output, "--", "--hello").stdout


def test_each_line_of_standard_input_is_answered_immediately(zoo_export):
    command = [sys.executable, "-m", "optimum_htp.runtime", str(zoo_export("roberta").output), "--json"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for text in ("I like it", "the cat"):
            process.stdin.write(f"{text}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["input"] == text  # before the next line is written
        process.stdin.close()
        assert process.wait() == 0


def test_optimum_cli_prints_the_same(zoo_export, capsys):
    folder = zoo_export("roberta").output
    _, expected, _ = printed(capsys, folder, "I like it", "-p", "top_k=2")
    assert optimum_cli("htp", "run", folder, "I like it", "-p", "top_k=2").stdout == expected
    failed = optimum_cli("htp", "run", "no.onnx", "a", check=False)
    assert failed.returncode == 1
    assert "no ONNX file" in failed.stderr


@pytest.mark.parametrize(
    "command", [["-m", "optimum_htp.runtime"], ["-m", "optimum.commands.optimum_cli", "htp", "run"]]
)
def test_closed_output_ends_without_message(command, zoo_export):
    with subprocess.Popen(
        [sys.executable, *command, zoo_export("roberta").output],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        process.stdin.write(b"the cat\n" * 10)
        process.stdin.close()
        assert process.wait() == 141
        assert process.stderr.read() == b""


def test_unsupported_and_control_characters_are_escaped(zoo_export):
    arguments = [zoo_export("distilbert").output, "who?", "-p", "context=caf\u00e9\x1b[31m"]
    done = subprocess.run(
        [sys.executable, "-m", "optimum_htp.runtime", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"\x1b" not in done.stdout
    assert b"\\" in done.stdout


def test_nan_score_is_null_in_json(zoo_export, tmp_path, capsys):
    import onnx

    path = tmp_path / "model.onnx"
    model = onnx.load(zoo_export("roberta").output / "model.onnx")
    logits = next(node for node in model.graph.node if "logits" in node.output)
    logits.output[0] = "numbers"
    model.graph.node.append(onnx.helper.make_node("Sub", ["numbers", "infinity"], ["less"]))
    model.graph.node.append(onnx.helper.make_node("Add", ["less", "infinity"], ["logits"]))
    model.graph.initializer.append(onnx.helper.make_tensor("infinity", 1, [1], [float("inf")]))
    onnx.save(model, path)
    code, out, _ = printed(capsys, path, "I like it", "--json")
    (answer,) = json.loads(out, parse_constant=pytest.fail)["answer"]
    assert (code, answer["score"]) == (0, None)


def test_folder_of_several_models_is_rejected(zoo_export, tmp_path, capsys):
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes((zoo_export("roberta").output / "model.onnx").read_bytes())
    (tmp_path / "b.onnx").write_bytes((zoo_export("bert").output / "model.onnx").read_bytes())
    (tmp_path / "config.json").write_text("{}")
    code, _, err = printed(capsys, tmp_path, "I like it")
    assert code == 1
    assert "a.onnx, b.onnx" in err
