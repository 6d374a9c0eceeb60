"""The commands in real processes: output, exit codes, and no remains after a kill."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import optimum_cli
from tests.support.environments import python_of_users

CLI = python_of_users().with_name("optimum-cli")


def test_export_help_has_optimums_options_and_ours():
    text = optimum_cli("export", "htp", "--help").stdout
    for option in ("--task", "--opset", "--optimize", "--model-kwargs", "--batch-size"):
        assert option in text
    for option in ("--revision", "--local-files-only", "--force-download", "--verify-hub", "--with-config", "--json"):
        assert option in text
    assert (
        "token " not in text.replace("pad_token", "").replace("PAD_TOKEN", "").lower().split("provenance arguments")[1]
    )


def test_export_prints_one_json_document(published, tmp_path, empty_home):
    published("bert")
    done = optimum_cli("export", "htp", "--model", "tiny/bert@main", tmp_path / "out", "--json", **empty_home)
    document = json.loads(done.stdout)
    assert document["files"] == [str(tmp_path / "out" / "model.onnx")]
    assert document["task"] == "text-classification"
    assert (document["metadata"]["hub_id"], document["metadata"]["hub_ref"]) == ("tiny/bert", "main")
    assert document["seconds"] > 0


def test_downloads_show_their_progress_to_a_terminal(published, tmp_path, empty_home):
    published("bert")
    terminal, stderr = pty.openpty()
    fcntl.ioctl(stderr, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [CLI, "export", "htp", "--model", "tiny/bert", "--task", "no-such-task", tmp_path / "out"]
    process = subprocess.Popen(command, env={**os.environ, **empty_home}, stdout=subprocess.DEVNULL, stderr=stderr)
    os.close(stderr)
    shown = b""
    with contextlib.suppress(OSError):  # Linux's error for the closed end of a terminal
        while piece := os.read(terminal, 4096):
            shown += piece
    process.wait(timeout=120)
    assert re.search(rb"Fetching \d files", shown)
    assert b"100%" in shown


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "models/my-bert"], "models/my-bert is neither a local folder"),
        (["--model", "tiny/bert@main", "--revision", "v1"], "Give only one of them"),
        (["--model", "./missing"], "The folder ./missing does not exist"),
        (
            ["--model", "tiny/bert", "--engine", "optimum", "--task", "image-to-text"],
            "Asked to export a bert model for the task image-to-text",
        ),
    ],
)
def test_errors_are_one_sentence_and_exit_code_1(published, tmp_path, arguments, sentence):
    published("bert")
    done = optimum_cli("export", "htp", *arguments, tmp_path / "out", check=False)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_export_needs_a_snapshot(published, tmp_path, empty_home, variable):
    published("bert")
    done = optimum_cli(
        "export", "htp", "--model", "tiny/bert", tmp_path / "out", check=False, **empty_home, **{variable: "1"}
    )
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE" in done.stderr


@pytest.mark.slow
def test_offline_export_from_a_snapshot(published, hub, tmp_path, empty_home):
    from huggingface_hub import snapshot_download

    snapshot_download(published("bert").repo_id, cache_dir=Path(empty_home["HF_HOME"], "hub"))
    with hub.recorded() as requests:
        optimum_cli("export", "htp", "--model", "tiny/bert", tmp_path / "out", **empty_home, HF_HUB_OFFLINE="1")
    assert requests == []
    assert (tmp_path / "out" / "model.onnx").is_file()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_export_leaves_existing_files(published, hub, tmp_path, empty_home, kind):
    published("bert")
    output = tmp_path / "out"
    output.mkdir()
    (output / "model.onnx").write_bytes(b"before")
    command = [CLI, "export", "htp", "--model", "tiny/bert", output]
    process = subprocess.Popen(command, env={**os.environ, **empty_home}, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".optimum-htp-*/exported/*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert process.poll() is None, process.stderr.read()
    process.send_signal(kind)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + kind
    assert "Traceback" not in stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (output / "model.onnx").read_bytes() == b"before"


@pytest.mark.slow
def test_two_exports_are_equal_byte_for_byte(published, tmp_path):
    published("t5")
    for seed in ("1", "2"):
        optimum_cli(
            "export", "htp", "--model", "tiny/t5", tmp_path / seed, SOURCE_DATE_EPOCH="1700000000", PYTHONHASHSEED=seed
        )
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / seed).glob("*.onnx")} for seed in ("1", "2")
    )
    assert len(first) == 4
    assert first == second
    (shown,) = json.loads(optimum_cli("htp", "info", tmp_path / "1" / "encoder_model.onnx", "--json").stdout)["files"]
    assert shown["record"]["export_timestamp"] == "2023-11-14T22:13:20Z"
    assert shown["record"]["model_downloads"] is None


def test_info_shows_the_source_of_a_file(exported, hub):
    path = exported("bert") / "model.onnx"
    text = optimum_cli("htp", "info", path).stdout
    assert "tiny/bert" in text
    assert hub.repos["tiny/bert"].refs["main"] in text
    assert "hf_hub_id" not in text
    assert "hf_hub_id = tiny/bert" in optimum_cli("htp", "info", path, "--show-metadata").stdout


def test_info_does_not_let_a_file_steer_the_terminal(exported, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = tmp_path / "m.onnx"
    path.write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(path, metadata={"hf_license": "\x1b[31mred\x07"})
    output = optimum_cli("htp", "info", path, "--show-metadata").stdout
    assert "\x1b" not in output
    assert "\\x1b[31mred" in output


def test_info_names_file_and_key_of_a_bad_record(exported, tmp_path):
    from optimum_htp.onnxfile import rewrite_model

    path = tmp_path / "m.onnx"
    path.write_bytes((exported("bert") / "model.onnx").read_bytes())
    rewrite_model(path, metadata={"hf_hub_sha": "short"})
    done = optimum_cli("htp", "info", path, check=False)
    assert done.returncode == 1
    assert "m.onnx" in done.stderr
    assert "hf_hub_sha" in done.stderr
    shown = optimum_cli("htp", "info", path, "--show-metadata")
    assert "hf_hub_sha = short" in shown.stdout
    assert "hf_hub_sha" in shown.stderr
