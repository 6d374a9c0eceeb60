"""`optimum-cli htp env`: the installed versions, and the incompatibilities that are bridged."""

from __future__ import annotations

import dataclasses
import logging
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import TYPE_CHECKING

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json
from optimum_htp.cli.options import add_json_argument

if TYPE_CHECKING:
    from optimum_htp.hooks.newest.stack import Stack

__all__ = ["EnvCommand"]


class EnvCommand(Command):
    """Prints the versions that a bug report needs."""

    examples = (
        "htp env",
        "htp env --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        add_json_argument(parser)

    def execute(self) -> None:
        """Import Optimum's ONNX code, and print versions and bridges."""
        from optimum_htp.hooks.newest.stack import inspect_stack

        logging.getLogger("transformers").setLevel(logging.ERROR)
        stack = inspect_stack()
        if self.args.json:
            show_json(dataclasses.asdict(stack))
            return
        for line in _lines(stack):
            show(line)


def _lines(stack: Stack) -> Iterator[str]:
    width = max(len(package.name) for package in stack.packages)
    for package in stack.packages:
        newer = f"  newer than {package.tested}, the newest tested version" if package.is_newer else ""
        yield f"{package.name:<{width}}  {package.version or 'not installed'}{newer}"
    yield ""
    if not stack.enabled:
        yield "optimum-htp is disabled (OPTIMUM_HTP_DISABLE)."
    bridged = [item for item in stack.breaks if item["bridged"]]
    if not stack.breaks:
        yield "No bridge is needed: optimum-onnx supports this transformers."
    elif stack.enabled:
        known = f"{len(stack.breaks)} known incompatibilities between optimum-onnx and transformers"
        yield f"{len(bridged)} of {known} are bridged:"
    for item in bridged:
        yield f"  {item['name']} ({item['module']}): {item['summary']}"
    for module, fault in stack.faults.items():
        yield f"Cannot import {module}: {fault}"
