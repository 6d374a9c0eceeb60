"""Pages of the manual that are made of the code: the commands, the Python names and the format of the metadata.

mkdocs calls `on_files` before it builds (https://www.mkdocs.org/user-guide/configuration/#hooks).
"""

from __future__ import annotations

import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import optimum_htp

ROOT = Path(__file__).resolve().parents[1]
BLOB = "https://github.com/optimum-htp/optimum-htp/blob/main/"
WIDTH = "100"  # characters of a line of help


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    for name, lines in (("cli.md", cli()), ("api.md", api()), ("format.md", metadata_format())):
        files.append(File.generated(config, name, content="\n".join(lines) + "\n"))
    return files


def helps() -> Iterator[tuple[str, str]]:
    """Yield each command and its help."""
    from optimum_htp.cli.export import HTPExportCommand
    from optimum_htp.cli.group import commands

    os.environ["COLUMNS"] = WIDTH
    arguments = sys.argv
    known = {"export htp": (HTPExportCommand, HTPExportCommand.COMMAND.help)}
    known |= {f"htp {entry.name}": (entry.load(), entry.help) for entry in commands()}
    for name, (command, text) in known.items():
        sys.argv = ["optimum-cli", *name.split()]  # The destinations of an export are options of its own command only.
        parser = ArgumentParser(f"optimum-cli {name}")
        command.parse_args(parser)
        command.describe(parser, text)
        sys.argv = arguments
        yield name, parser.format_help()


def cli() -> Iterator[str]:
    """Yield the lines of the page on commands."""
    yield "# Commands"
    for name, text in helps():
        yield f"\n## optimum-cli {name}\n\n```text\n{text.rstrip()}\n```"


def api() -> Iterator[str]:
    """Yield the lines of the page on Python names."""
    yield "# Python\n\nThese names are imported from `optimum_htp`; `load` from `optimum_htp.runtime`."
    places = sys.modules["optimum_htp"]._HOME
    for name in optimum_htp.__all__:
        if name in places:
            yield f"\n::: optimum_htp.{places[name]}.{name}"
    yield "\n::: optimum_htp.runtime.model.load\n\n::: optimum_htp.runtime.model.Model"


def metadata_format() -> Iterator[str]:
    """Yield the lines of the page on the format, with links that lead out of the manual."""
    text = (ROOT / "optimum_htp" / "METADATA.md").read_text(encoding="utf-8")
    yield re.sub(r"\]\((?!https?:|#)([^)]+)\)", rf"]({BLOB}optimum_htp/\1)", text)
