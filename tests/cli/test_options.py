"""Options have one name and one help text in all commands; typos name the nearest option."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest

from optimum_htp.cli.export import HTPExportCommand
from optimum_htp.cli.group import commands
from optimum_htp.cli.options import CACHE_DIR, FORCE_DOWNLOAD, LOCAL_FILES_ONLY, MODEL, REVISION
from tests.conftest import optimum_cli

SENTENCES = {
    "--cache-dir": CACHE_DIR,
    "--force-download": FORCE_DOWNLOAD,
    "--json": "Print one",
    "--local-files-only": LOCAL_FILES_ONLY,
    "--model": MODEL,
    "--quiet": "Print no progress and no results",
    "--revision": REVISION,
}
SHORT = {"-h": "--help", "-m": "--model", "-o": "--output", "-p": "--parameter", "-q": "--quiet"}


@pytest.fixture(scope="module")
def parsers():
    parsers = {}
    for name, command in {
        "export htp": HTPExportCommand,
        **{f"htp {one.name}": one.load() for one in commands()},
    }.items():
        parser = ArgumentParser(f"optimum-cli {name}")
        command.parse_args(parser)
        command.describe(parser, "text")
        parsers[name] = parser
    return parsers


def test_options_have_one_name_and_one_help_text(parsers):
    for name, parser in parsers.items():
        options = {option: action for action in parser._actions for option in action.option_strings}
        assert {"--quiet", "--json"} <= options.keys(), name
        assert not any("_" in option for option in options), name
        assert not {"--token", "--to", "--offline"} & options.keys(), name
        for option, action in options.items():
            if not option.startswith("--"):
                assert SHORT[option] in action.option_strings, (name, option)
            assert action.help.startswith(SENTENCES.get(option, "")), (name, option)


@pytest.mark.parametrize("option", ["--cache_dir", "--cache-dir", "--cache"])
def test_spellings_of_optimum_and_abbreviations_are_accepted(parsers, option):
    for name in ("export htp", "htp verify", "htp batch"):
        words = {"export htp": ["-m", "x", "out"], "htp verify": ["f"], "htp batch": ["list", "-o", "out"]}[name]
        assert parsers[name].parse_args([*words, option, "DIR"]).cache_dir == "DIR"
        assert parsers[name].parse_args([*words, f"{option}=D_R"]).cache_dir == "D_R"


def test_texts_after_two_dashes_are_not_options(parsers):
    assert parsers["htp run"].parse_args(["f", "--", "--my_text"]).inputs == ["--my_text"]
    assert parsers["htp compare"].parse_args(["a", "b", "--atol", "1e-3"]).atol == 1e-3


def test_quiet_prints_errors_and_requested_data_only(exported, tmp_path):
    file = exported("bert") / "model.onnx"
    for words in (["info"], ["verify"], ["compare", file], ["report", "-o", tmp_path / "r.md"]):
        done = optimum_cli("htp", words[0], file, *words[1:], "--quiet")
        assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "r.md").is_file()
    assert optimum_cli("htp", "nodes", file, "bert.pooler", "-q").stdout.splitlines()
    assert optimum_cli("htp", "info", file, "-q", "--json").stdout.startswith("{")
    assert "none.onnx" in optimum_cli("htp", "info", "none.onnx", "-q", check=False).stderr
