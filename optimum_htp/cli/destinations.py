"""The destinations that plugins add to the commands that write files, such as `--push-to-hub`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optimum_htp.cli.display import show

__all__ = ["add_destinations", "send"]


def add_destinations(parser: Any) -> list[str]:
    """Declare the options of all destinations; return their names."""
    from optimum_htp.plugins import destinations

    own = ArgumentParser(add_help=False)
    for one in destinations():
        one.add_arguments(parser)
        one.add_arguments(own)
    return [action.dest for action in own._actions]


def send(args: Namespace, files: Sequence[str | Path]) -> dict[str, Any]:
    """Send files to the destinations that options ask for; print what was done, and return it for JSON."""
    from optimum_htp.plugins import destinations

    documents: dict[str, Any] = {}
    for one in destinations():
        result = one.send(args, files)
        if result is None:
            continue
        documents[one.name] = dict(result)
        for line in one.lines(result) if not args.json else ():
            show(line)
    return documents
