"""Untrusted JSON: too deep, too large, or of another structure. It causes typed errors or warnings."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from optimum_htp.errors import BatchListError, EndpointError, ManifestError
from optimum_htp.extras.batch.jobs import Job, jobs_from_lines
from optimum_htp.extras.batch.journal import Journal
from optimum_htp.extras.batch.outputs import MARKER, Location
from optimum_htp.extras.endpoint.folder import _weights_of_modules
from optimum_htp.hubs import HubAccess
from optimum_htp.libraries.names import SENTENCE_MODULES
from optimum_htp.parsing import json_or_none, parse_json
from optimum_htp.stamping.manifests import read_manifest
from tests.conftest import ROOT

DEEP = "[" * 200_000 + "]" * 200_000
DIGITS = "1" * 5_000


@pytest.mark.parametrize(
    "text",
    [
        DEEP,
        DEEP.encode(),
        '{"a":' * 101 + "1" + "}" * 101,
        DIGITS,
        "[1",
        "",
        "\ufeff{}",
        b"\xff",
        b'{"a": "\xe4"}',
        "x" * 20,
    ],
    ids=lambda text: str(text[:12]),
)
def test_json_out_of_bounds_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"^it (is|has) "):
        parse_json(text)
    assert json_or_none(text) is None


def test_ordinary_json_is_read():
    assert parse_json(b'{"a": [1.5, NaN, "\xc3\xa4"]}')["a"][2] == "\xe4"
    assert parse_json('{"a":' * 99 + "1" + "}" * 99)
    with pytest.raises(ValueError, match="longer than 3"):
        parse_json("[1, 2]", 3)


def test_all_json_is_read_by_one_function():
    uses = [
        path.name
        for path in (ROOT / "optimum_htp").rglob("*.py")
        if re.search(r"json\.loads?\(|JSONDecoder", path.read_text(encoding="utf-8"))
    ]
    assert uses == ["parsing.py"]


@pytest.mark.parametrize(
    "line",
    [
        '{"model": "x", "a": ' + DEEP + "}",
        '{"model": "x", "opset": ' + DIGITS + "}",
        '{"model": "a\\ud800b"}',
        '{"model": "a\\u0000b"}',
        '{"model": "x", "output": "a\\u0000b"}',
        '{"model": ["x"]}',
        '{"model": "x", "revision": {}}',
        '{"model": "x"',
        '{"model": "' + "x" * (1 << 20) + '"}',
        "x" * 300,
        "x" * (1 << 21),
    ],
    ids=lambda line: f"{line[:30]}-{len(line)}",
)
def test_bad_list_line_is_an_error_with_its_number(line):
    with pytest.raises(BatchListError, match="list, line 2: "):
        jobs_from_lines(["gpt2", line], "list", {})


@pytest.mark.parametrize(
    "line",
    [
        DEEP,
        DIGITS,
        "{",
        "[1]",
        '"abc"',
        '{"event": "end", "output": "x", "state": "done", "versions": ["a"]}',
        '{"event": "end", "output": "x", "state": "done", "versions": {"torch": 2}}',
        '{"event": "end", "output": "x", "state": "done", "versions": "a"}',
        '{"event": "end", "output": "x", "state": "done", "options": "a"}',
        '{"event": "end", "output": "x", "state": "done", "files": ["a"]}',
        '{"event": "end", "output": "x", "state": "done", "files": [{"name": "../a", "size": 1, "sha256": "b"}]}',
        '{"event": "end", "output": "x", "state": {"a": 1}}',
        '{"event": "end", "output": "x", "state": "done", "task": [], "commit": 5}',
    ],
    ids=lambda line: line[-40:],
)
def test_bad_journal_line_is_left_out_with_a_warning_and_kept(line, tmp_path, caplog):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.end(Job("m", "good"), {"state": "done"})
    with path.open("a") as file:
        file.write(line + "\n")
    with Journal(path) as journal:
        assert list(journal.ends) == ["good"]
        journal.push(Job("m", "good"), {"files": {"model.onnx": "0"}, "repo": "a/b"})
    assert "line 2" in caplog.text
    assert path.read_text().splitlines()[1] == line
    with Journal(path) as journal:
        assert journal.pushes["good"]["files"] == {"model.onnx": "0"}


def test_journal_remembers_its_own_pushes(tmp_path, caplog):
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.push(Job("m", "good"), {"asked": {"repo": "me/m", "create_pr": False}, "files": {"a": "b"}})
    with Journal(tmp_path / "j.jsonl") as journal:
        assert list(journal.pushes) == ["good"]
    assert not caplog.records


def test_marker_of_a_location_has_to_have_its_shape(tmp_path):
    job, place = Job("m", "x"), tmp_path / "x"
    place.mkdir()
    (place / "a").write_text("1")
    good = {"commit": "c", "files": [{"name": "a", "size": 1, "sha256": "0"}]}
    location = Location(f"file://{tmp_path}")
    (place / MARKER).write_text(json.dumps(good))
    assert location.standing(job, {}) == good
    for bad in ({**good, "versions": ["a"]}, {**good, "options": 5}, [], 5, {"commit": "c", "files": [[]]}):
        (place / MARKER).write_text(json.dumps(bad))
        assert location.standing(job, {}) is None
    (place / MARKER).write_text(DEEP)
    assert location.standing(job, {}) is None


@pytest.mark.parametrize("text", [DEEP, DIGITS, '{"optimum_htp_manifest": 1, "folder": ".", "models": [[]]}'])
def test_bad_manifest_is_an_error(text, tmp_path):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(ManifestError, match=r"m\.json"):
        read_manifest(tmp_path / "m.json")


@pytest.mark.parametrize(
    "content", ["[1]", '"abc"', '{"a": 1}', "5", '[{"type": "X"}]', '[{"type": 1, "path": ""}]', DEEP]
)
def test_modules_of_another_shape_are_an_error_of_the_endpoint(content, tmp_path):
    (tmp_path / SENTENCE_MODULES).write_text(content)
    configs = {SENTENCE_MODULES: tmp_path / SENTENCE_MODULES}
    with pytest.raises(EndpointError, match=r"modules\.json of m\.onnx is not a list"):
        _weights_of_modules(SimpleNamespace(path="m.onnx"), configs, HubAccess())
