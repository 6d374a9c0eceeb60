"""Exit codes: every command has those of the manual's table."""

from __future__ import annotations

import re

import pytest

from optimum_htp.cli.group import _COMMANDS
from optimum_htp.plugins import commands
from tests.conftest import ROOT, optimum_cli

ARGUMENTS = {
    "batch": ("none.txt", "-o", "out"),
    "compare": ("none.onnx", "other.onnx"),
    "endpoint": ("none.onnx", "-o", "out"),
    "extract": ("none.onnx", "--module", "a", "-o", "out.onnx"),
    "inject": ("none.onnx", "--model", "tiny/bert"),
    "mirror": ("none.onnx", "-o", "mirror"),
    "nodes": ("none.onnx", "a"),
    "push": ("none.onnx", "me/model"),
    "report": ("none.onnx", "-o", "out.md"),
    "tag": ("none.onnx",),
}


COMMANDS = sorted({entry.name for entry in _COMMANDS} | commands().keys())


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_arguments_are_2(command):
    assert optimum_cli("htp", command, "--no-such-option", check=False).returncode == 2


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"env"}))
def test_missing_file_is_1(command, published):
    published("bert")
    missing = optimum_cli("htp", command, *ARGUMENTS.get(command, ("none.onnx",)), check=False)
    assert missing.returncode == 1
    assert "none." in missing.stderr
    assert "Traceback" not in missing.stderr


def test_table_lists_all_codes():
    table = (ROOT / "docs" / "exit-codes.md").read_text()
    codes = re.findall(r"(?m)^\| (\d+)(?:, (\d+))? \|", table)
    assert {int(code) for row in codes for code in row if code} == {0, 1, 2, 3, 4, 5, 130, 141, 143}


@pytest.mark.parametrize("named", [(), ("--model", "tiny/bert")])
def test_hub_that_cannot_be_reached_is_4_for_weights_too(exported, empty_home, named):
    file = exported("bert") / "model.onnx"
    away = {**empty_home, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert optimum_cli("htp", "verify", "--weights", *named, file, check=False, **away).returncode == 4
