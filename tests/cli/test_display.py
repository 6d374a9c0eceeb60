"""Output in a terminal: names and messages contain no control sequences, and the output is readable."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.cli.display import folded, show_json
from optimum_htp.onnxfile import TensorSpec, rewrite_model
from optimum_htp.report.texts import json_text, printable, sentence
from tests.conftest import optimum_cli
from tests.support.environments import python_of_users
from tests.vectors import make

CLI = python_of_users().with_name("optimum-cli")
HOSTILE = "\x1b[31mred\ncommit          forged\u202edlrow\x9b2J\u2028"


def write(path, properties=make.HUB, inputs=()):
    model = make.model(properties)
    for name, shape in inputs:
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "model.onnx")


def htp(*arguments, **options):
    return subprocess.run([CLI, "htp", *arguments], capture_output=True, timeout=120, **{"text": True, **options})


def tame(text):
    """Whether a text contains only punctuation, spaces and line ends."""
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("options", [[], ["--show-metadata"], ["--tree"], ["--json"]])
def test_values_forge_no_line_and_steer_nothing(options, tmp_path):
    metadata = {"hf_license": HOSTILE, "mine": HOSTILE, "htp.modules": json.dumps({"": HOSTILE, HOSTILE: HOSTILE})}
    file = write(tmp_path / "m.onnx", {**make.HUB, **metadata}, [(HOSTILE, [HOSTILE, 2])])
    model = onnx.load(file)
    helper.set_model_props(model.graph.node[0], {"htp.module": HOSTILE})
    file.write_bytes(model.SerializeToString())
    text = optimum_cli("htp", "info", file, *options).stdout
    assert tame(text)
    assert not [line for line in text.splitlines() if line.startswith("commit") and "forged" in line]
    assert "red" in text


@pytest.mark.parametrize(
    "command",
    [["info"], ["tag"], ["strip"], ["verify"], ["profile"], ["report", "-o", "r.md"], ["inject", "-m", "./x"]],
)
def test_names_of_files_steer_nothing(command, tmp_path):
    name = "\x1b[2J\nerror: forged\u202e.onnx"
    (tmp_path / name).write_bytes(b"no model")
    for path in (tmp_path / name, tmp_path / f"missing{name}"):
        done = optimum_cli("htp", *command, path, check=False)
        assert done.returncode == 1
        assert tame(done.stderr)
        assert tame(done.stdout)
        assert not [line for line in done.stderr.splitlines() if line.startswith("error: forged")]


def test_log_messages_cannot_control_the_terminal(model_folder, tmp_path):
    name = "\x1b[2J\u202e\nWARNING forged.onnx"
    for path in (model_folder("bert") / "config.json",):
        (tmp_path / "config.json").write_bytes(path.read_bytes().replace(b'"bert"', b'"gpt2"'))
    write(tmp_path / name, {**make.HUB, "hf_model_class": "BertModel", "htp.modules": '{"": "Model"}'})
    done = htp("profile", name, "--runs", "1", cwd=tmp_path)
    ours = [line for line in done.stderr.splitlines() if "is not used for" in line]
    assert len(ours) == 1
    assert tame(done.stderr)
    assert not [line for line in done.stderr.splitlines() if line.startswith("WARNING forged")]


def test_names_that_are_not_unicode_are_shown(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff.onnx"
    Path(os.fsdecode(path)).write_bytes(make.model({**make.HUB, "htp.modules": '{"": "\\ud800"}'}).SerializeToString())
    done = htp("info", path, "--json", text=False)
    assert json.loads(done.stdout.decode("utf-8"))["files"][0]["file"].endswith("\udcff.onnx")
    assert b"Traceback" not in done.stderr
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    plain = htp("info", path, path + b"x", text=False, env=ascii_only)
    assert b"\\udcff.onnx" in plain.stdout + plain.stderr
    assert b"Traceback" not in plain.stderr


def test_json_is_valid_by_the_letter():
    document = {"a": [float("nan"), float("inf"), 1.5], "b": "\ud800\x1b\u202e\U000e0001\u00e9", "c": {"d": (1, None)}}
    text = json_text(document)
    text.encode("utf-8")
    assert text.isprintable()
    assert "é" in text
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert strict == {"a": [None, None, 1.5], "b": document["b"], "c": {"d": [1, None]}}


def test_texts_stay_on_their_line():
    assert printable("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert sentence("first\n  second\x1b") == r"first second\x1b"


def past(layers, leaves, shape, prefix="past_key_values"):
    return [TensorSpec(f"{prefix}.{layer}.{leaf}", shape, "float32") for layer in range(layers) for leaf in leaves]


def test_past_is_one_line():
    ids = TensorSpec("input_ids", ("batch", "sequence"), "int64")
    shape = ("batch", 12, "past", 64)
    assert folded([ids, *past(12, ["key", "value"], shape)]) == [
        "input_ids int64[batch, sequence]",
        "past_key_values.0…11.key/value float32[batch, 12, past, 64]",
    ]
    own, cross = past(2, ["decoder.key", "decoder.value"], shape), past(2, ["encoder.key", "encoder.value"], ("n",))
    assert folded([*own, *cross]) == [
        "past_key_values.0…1.decoder.key/value float32[batch, 12, past, 64]",
        "past_key_values.0…1.encoder.key/value float32[n]",
    ]
    assert folded(past(3, ["key", "value"], ("n",), "present")) == ["present.0…2.key/value float32[n]"]


def test_past_with_gaps_and_other_inputs_are_shown_each():
    gaps = [*past(1, ["key", "value"], ("n",)), *past(4, ["key", "value"], ("n",))[6:]]
    assert folded(gaps) == [str(spec) for spec in gaps]
    mixed = [TensorSpec(f"layer.{index}.weight", ("n",), "float32") for index in range(5)]
    assert folded(mixed) == [str(spec) for spec in mixed]
    assert folded([]) == []


def test_info_has_an_input_a_line_and_all_of_them_where_asked(tmp_path):
    names = [f"past_key_values.{layer}.{leaf}" for layer in range(24) for leaf in ("key", "value")]
    file = write(tmp_path / "m.onnx", inputs=[(name, ["batch", 2]) for name in names])
    lines = optimum_cli("htp", "info", file).stdout.splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("inputs "))
    assert lines[start].split() == ["inputs", "x", "float32[batch,", "2]"]
    assert lines[start + 1].strip() == "past_key_values.0…23.key/value float32[batch, 2]"
    assert lines[start + 2].startswith("outputs ")
    every = optimum_cli("htp", "info", file, "--all").stdout
    assert all(f" {name} float32" in every for name in names)


def in_terminal(columns, *command):
    """Run a command in a terminal of a given width; return the output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen([CLI, *map(str, command)], stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(ours, 4096):
            shown += piece
    except OSError:  # Linux's error for the closed end of a terminal
        pass
    assert process.wait(timeout=60) == 0
    return shown.decode().splitlines()


def test_lines_fit_the_terminal_and_pipes_get_them_whole(tmp_path):
    files = json.dumps([f"part_of_the_model_number_{index}.onnx" for index in range(12)])
    properties = {**make.HUB, "hf_onnx_files": files, "htp.modules": json.dumps({"": "C" * 200})}
    file = write(tmp_path / "m.onnx", properties)
    shown = in_terminal(70, "htp", "info", file, "--tree")
    assert max(map(len, shown)) <= 70
    assert all(f"part_of_the_model_number_{index}.onnx" in "\n".join(shown) for index in range(12))
    piped = optimum_cli("htp", "info", file, "--tree").stdout.splitlines()
    assert len(next(line for line in piped if line.startswith("files "))) > 300


@pytest.mark.parametrize(
    "command", [["info", "--all"], ["info", "--json"], ["strip", "--output", "out"], ["verify", "--json"]]
)
def test_reader_that_leaves_early_is_no_error(command, tmp_path):
    names = [(f"input_{index}_{'x' * 200}", ["batch"]) for index in range(600)]
    files = [write(tmp_path / f"m{index}.onnx", inputs=names) for index in range(3)]
    command = [CLI, "htp", command[0], *files, *command[1:]]
    read, write_end = os.pipe()
    process = subprocess.Popen(command, stdout=write_end, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    os.close(write_end)
    os.close(read)  # as `head -0` does
    _, stderr = process.communicate(timeout=60)
    assert stderr == ""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no disk here that is always full")
@pytest.mark.parametrize("command", [["info"], ["info", "--json"], ["verify", "--json"], ["strip"]])
def test_full_disk_behind_standard_output_is_reported(command, tmp_path):
    properties = {**make.HUB, "hf_private": "perhaps"} if command[0] == "verify" else make.HUB
    names = [(f"input_{index}_{'x' * 200}", ["batch"]) for index in range(100)]  # more than Python's buffer
    file = write(tmp_path / "m.onnx", properties, names)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [CLI, "htp", command[0], file, *command[1:]], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: Standard output cannot be written: No space left on device. Free disk space, or redirect it to "
        "another file."
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("properties", "code"), [(make.HUB, 0), ({**make.HUB, "hf_private": "perhaps"}, 1)])
@pytest.mark.parametrize("flags", ["", "--json"])
def test_closed_standard_output_changes_no_exit_code(flags, properties, code, tmp_path):
    file = write(tmp_path / "m.onnx", properties)
    line = f'"{CLI}" htp info "{file}" {flags} >&-'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert bool(done.stderr) == (code == 1 and not flags)  # the JSON document contains a file's fault
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("argument", ["folder", "fol*", "folder/*", "folder/**/*.onnx"])
def test_hidden_files_are_nobodys_models(argument, tmp_path):
    for name in ("a.onnx", "sub/b.onnx", ".optimum-htp-x/c.onnx", "sub/.optimum-htp-y/d.onnx", ".m.onnx.abc.onnx"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
    content = json.loads(htp("strip", argument, "--json", cwd=tmp_path).stdout)
    assert [one["file"] for one in content["files"]] == ["folder/a.onnx", "folder/sub/b.onnx"]
    named = json.loads(htp("info", "folder/.optimum-htp-x", "--json", cwd=tmp_path).stdout)
    assert [one["file"] for one in named["files"]] == ["folder/.optimum-htp-x/c.onnx"]


@pytest.mark.parametrize("command", [["info"], ["report", "-o", "r.md"], ["profile"], ["strip"], ["verify"], ["tag"]])
def test_names_that_are_too_long_are_reported(command, tmp_path):
    done = optimum_cli("htp", *command, f"{'x' * 5000}.onnx", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot be opened" in done.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("command", [["info"], ["report", "-o", "r.md"], ["profile"], ["strip"], ["verify"], ["tag"]])
def test_files_without_read_permission_are_reported(command, file):
    file.chmod(0)
    done = optimum_cli("htp", *command, file, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "model.onnx" in done.stderr


def test_rewriting_keeps_values_as_they_are(file):
    rewrite_model(file, metadata={"mine": HOSTILE})
    content = json.loads(optimum_cli("htp", "info", file, "--json").stdout)
    assert content["files"][0]["header"]["metadata"]["mine"] == HOSTILE


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_valid_in_every_encoding(encoding, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    document = {"file": "\xe9\U0001f600\x96\udce9.onnx"}
    show_json(document)
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode(encoding)) == document
