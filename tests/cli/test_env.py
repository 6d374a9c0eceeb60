"""`optimum-cli htp env`: versions, and incompatible combinations of them."""

from __future__ import annotations

import json
from importlib import metadata

from optimum_htp.hooks.newest.stack import TESTED, inspect_stack
from tests.conftest import optimum_cli

NEWEST = int(metadata.version("transformers").partition(".")[0]) >= 5


def test_command_prints_versions_and_breaks():
    about = json.loads(optimum_cli("htp", "env", "--json").stdout)
    versions = {package["name"]: package["version"] for package in about["packages"]}
    assert versions["transformers"] == metadata.version("transformers")
    assert about["faults"] == {}
    assert about["enabled"] is True
    assert any(item["bridged"] for item in about["breaks"]) is NEWEST


def test_text_names_each_bridged_break():
    text = optimum_cli("htp", "env").stdout
    assert f"transformers           {metadata.version('transformers')}" in text
    assert ("masks_without_cache_position" in text) is NEWEST
    assert ("No bridge is needed" in text) is not NEWEST


def test_disabled_package_is_shown():
    assert "is disabled" in optimum_cli("htp", "env", OPTIMUM_HTP_DISABLE="1").stdout


def test_newer_than_tested(monkeypatch):
    monkeypatch.setitem(TESTED, "onnx", "1.0.0")
    monkeypatch.setitem(TESTED, "onnxruntime", "99.0.0")
    newer = {package.name: package.is_newer for package in inspect_stack().packages}
    assert newer["onnx"] is True
    assert newer["onnxruntime"] is False
