"""The manual builds without a warning, and its commands exist."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec

import pytest

from optimum_htp.cli.export import HTPExportCommand
from optimum_htp.cli.group import commands
from tests.conftest import ROOT, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "optimum_htp").rglob("*.py"))
OURS = "https://github.com/optimum-htp/optimum-htp/blob/main/"


def blocks(*languages):
    """Yield pages with the content of their code blocks."""
    for page in PAGES:
        for language, content in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in languages:
                yield page.name, content


def shown_commands():
    """Yield each command of this package in a block, as words."""
    for page, content in blocks("bash", "text"):
        for line in content.replace("\\\n", " ").splitlines():
            text = line.removeprefix("$ ").strip()
            if re.match(r"optimum-cli (htp|export htp) ", text) and (line.startswith("$ ") or page):
                yield page, text


COMMANDS = sorted({*shown_commands()})


def parser_of(name, command):
    parser = argparse.ArgumentParser(f"optimum-cli {name}")
    command.parse_args(parser)
    command.describe(parser, "what it does")
    return parser


@pytest.fixture(scope="module")
def known():
    return {"export htp": HTPExportCommand, **{f"htp {one.name}": one.load() for one in commands()}}


@pytest.mark.parametrize(("page", "text"), COMMANDS, ids=[f"{page}: {text}"[:80] for page, text in COMMANDS])
def test_shown_command_can_be_typed(page, text, known):
    words = shlex.split(text.partition(" | ")[0].partition(" > ")[0], comments=True)[1:]
    name = " ".join(words[:2])
    if name in known and "--help" not in words:
        parser_of(name, known[name]).parse_args(words[2:])
    else:
        assert words[0] == "htp" or "--help" in words, text


def test_help_of_each_command_has_examples_that_can_be_typed(known):
    for name, command in known.items():
        text = parser_of(name, command).format_help()
        assert len(command.examples) >= 2, name
        assert "exit codes:" in text, name
        for example in command.examples:
            assert f"  optimum-cli {example}\n" in text
            words = shlex.split(example)
            assert " ".join(words[:2]) == name
            parser_of(name, command).parse_args(words[2:])


def test_blocks_of_python_compile():
    for page, content in blocks("python"):
        compile(content, page, "exec")


def test_table_of_environment_variables_has_all():
    table = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"OPTIMUM_HTP_[A-Z_]+", SOURCES))
    assert named == set(re.findall(r"OPTIMUM_HTP_[A-Z_]+", table))


def test_links_of_the_readme_lead_to_files_and_headings():
    text = PAGES[0].read_text(encoding="utf-8")
    links = re.findall(re.escape(OURS) + r"([\w./-]+)(?:#([\w-]+))?", text)
    assert len(links) > 15
    for path, anchor in links:
        page = (ROOT / path).read_text(encoding="utf-8")
        headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()) for line in page.splitlines() if line[:1] == "#"]
        assert not anchor or anchor in [one.replace(" ", "-") for one in headings], f"{path}#{anchor}"


def test_guide_on_plugins_shows_the_tested_plugin():
    shown = [content for page, content in blocks("python", "toml") if page == "plugins.md"]
    for name in ("acme_hub.py", "acme_command.py", "pyproject.toml"):
        assert (ROOT / "tests" / "plugin" / name).read_text(encoding="utf-8") in shown, name


def test_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_manual_builds_without_a_warning(tmp_path):
    done = run(sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert "built" in done.stderr
    pages = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert {"cli", "api", "format", "load"} <= pages
    reference = (tmp_path / "site" / "cli" / "index.html").read_text(encoding="utf-8")
    assert all(f"optimum-cli htp {one.name}" in reference for one in commands())


def test_git_has_no_built_pages():
    ignored = subprocess.run(["git", "check-ignore", "-q", "out/site"], cwd=ROOT, check=False)
    assert ignored.returncode == 0
