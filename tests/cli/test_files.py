"""Commands with many files: the failure of one file, also by a bug of this package, does not affect the others."""

from __future__ import annotations

import json

import pytest

from optimum_htp.onnxfile import read_metadata
from tests.conftest import optimum_cli, run_python
from tests.vectors import make

_WITH_A_BROKEN_PLUGIN = '''
import sys
from optimum_htp import hookspecs, plugins

class Value:
    """Fails in our own hands, after the plugin has answered."""
    def __init__(self, number):
        self.number = number
    def __str__(self):
        return str(1 / self.number)

class Plugin:
    calls = 0
    @hookspecs.hookimpl
    def optimum_htp_metadata(self, metadata, info):
        self.calls += 1
        return {"mine": Value(self.calls - 2)}

plugins.manager().register(Plugin())
from optimum.commands.optimum_cli import main
main()
'''


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    paths = [tmp_path / "files" / f"{name}.onnx" for name in "abc"]
    for path in paths:
        path.write_bytes(make.model({}).SerializeToString())
    return paths


def inject(files, folder, *options, **env):
    command = ["htp", "inject", *files, "--model", folder, "--force", "--jobs", "1", *options]
    given = f"import sys\nsys.argv[1:] = {[str(part) for part in command]}\n"
    return run_python(given + _WITH_A_BROKEN_PLUGIN, check=False, forked=True, **env)


def test_bug_in_one_file_is_reported_and_the_others_are_processed(files, model_folder):
    done = inject(files, model_folder("bert"))
    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [str(files[0]), str(files[2])]
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert str(files[1]) in error
    assert "ZeroDivisionError" in error
    assert "bug of optimum-htp" in error
    assert "Traceback" not in done.stderr
    assert ["mine" in read_metadata(path) for path in files] == [True, False, True]


@pytest.mark.slow
def test_traceback_of_a_bug_is_there_for_those_who_ask(files, model_folder):
    done = inject(files, model_folder("bert"), OPTIMUM_HTP_DEBUG="1")
    assert "Traceback" in done.stderr
    assert "in plugin_properties" in done.stderr


def test_json_reports_a_bug_and_the_other_results(files, model_folder):
    document = json.loads(inject(files, model_folder("bert"), "--json").stdout)
    assert document["failed"] == 1
    assert [one.get("error") for one in document["files"]] == [None, "ZeroDivisionError", None]


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["inject", "--model", "./missing"], "ModelNotFoundError"),
        (["tag", "--output", "out.onnx"], "ArgumentError"),
        (["profile"], "MetadataError"),
    ],
)
def test_json_is_printed_after_any_failure(command, error, files):
    name, *options = command
    given = files[:1] if name == "profile" else files
    done = optimum_cli("htp", name, *given, *options, "--json", check=False)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["error"] == error
    assert document["message"] in done.stderr
    assert name == "profile" or (document["files"], document["failed"]) == ([], 3)


def test_errors_keep_what_programs_need(hub):
    hub.status, hub.retry_after = 429, 7
    url = "hf://org/model/model.onnx"
    soon = {"OPTIMUM_HTP_TIMEOUT": "1"}  # shorter than the wait that the Hub requests
    done = optimum_cli("htp", "info", url, "--json", check=False, **soon)
    (file,) = json.loads(done.stdout)["files"]
    assert (file["file"], file["error"], file["retry_after"]) == (url, "RateLimitedError", 7)
    reported = optimum_cli("htp", "info", url, check=False, **soon)
    assert url in reported.stderr


def test_file_that_has_no_tags_leaves_the_others_shown(files, tmp_path):
    tagged = make.model({"htp.modules": '{"": "Model"}'})
    (tmp_path / "files" / "d.onnx").write_bytes(tagged.SerializeToString())
    done = optimum_cli("htp", "info", tmp_path / "files", "--tree", check=False)
    assert done.returncode == 1
    assert done.stderr.count("has no tags") == 3
    assert "(model) Model" in done.stdout
