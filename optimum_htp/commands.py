"""What plugins add to optimum-cli: commands of `optimum-cli htp`, and destinations of written files."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

__all__ = ["CommandEntry", "Destination"]


@dataclass(frozen=True)
class CommandEntry:
    """A command of `optimum-cli htp`. Its class is imported when the command is used.

    Attributes:
        name: Name of the command.
        help: One line for the list of commands.
        target: The class as `module:Class`: a subclass of `optimum_htp.cli.base.Command`.
    """

    name: str
    help: str
    target: str

    def load(self) -> type:
        """Import the class.

        Raises:
            ImportError, AttributeError: The module or the class does not exist.
        """
        module, _, name = self.target.partition(":")
        found: type = getattr(importlib.import_module(module), name)
        return found


class Destination(ABC):
    """A destination to which `export htp` and `htp inject` send the written files if an option requests it.

    Attributes:
        name: Key of the result in the JSON document of the command.
    """

    name: str

    @abstractmethod
    def add_arguments(self, parser: Any) -> None:
        """Add the options of this destination to a parser or an argument group."""

    @abstractmethod
    def send(self, args: Namespace, files: Sequence[str | Path]) -> Mapping[str, Any] | None:
        """Send files.

        Args:
            args: The options of the command.
            files: The files that the command wrote.

        Returns:
            The result for the JSON document; None if no option requests this destination.
        """

    @abstractmethod
    def lines(self, result: Mapping[str, Any]) -> Sequence[str]:
        """Return the lines that the command prints about a result."""
