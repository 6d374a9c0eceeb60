"""The argument parser of our commands: errors in one line, suggestions for typos, and dashes in option names."""

from __future__ import annotations

import math
import re
import sys
from argparse import Action, ArgumentError, ArgumentParser, ArgumentTypeError, _SubParsersAction
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

__all__ = ["UNAVAILABLE", "Parser", "adopt", "integer", "number", "path"]

UNAVAILABLE: Final = "unavailable"
"""Default of a parser whose command cannot run: the reason."""

_MAY_BE_EMPTY: Final = {"inputs", "patterns", "module", "message"}
_NEGATIVE: Final = re.compile(r"-\.?\d")
_PROGRAM: Final = "optimum-cli "


class Parser(ArgumentParser):
    """A parser that reports the first wrong argument in one line and exits with code 2.

    optimum-cli creates the parsers itself, so `adopt` changes their class.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; each must be known. `--cache_dir` is read as `--cache-dir`."""
        given = _with_dashes(sys.argv[1:] if args is None else args)
        reason = self.get_default(UNAVAILABLE)
        if reason is not None and not {"-h", "--help"} & {*given}:
            self.exit(1, f"error: {reason}\n")
        self._check_names(given)
        found, unknown = super().parse_known_args(given, namespace)
        if isinstance(getattr(found, "inputs", None), list):  # `htp run FILE -p a=b INPUT`; argparse ends them at -p
            split = unknown.index("--") if "--" in unknown else len(unknown)
            found.inputs, unknown = [*found.inputs, *unknown[:split], *unknown[split + 1 :]], []
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        for action in self._actions:
            values = getattr(found, action.dest, None)
            if action.dest not in _MAY_BE_EMPTY and (values == "" or (isinstance(values, list) and "" in values)):
                self.error(f"{_name(action)} is empty")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print an error and the command that shows the help, in one line; exit with code 2."""
        from optimum_htp.masking import without_secrets
        from optimum_htp.report.texts import sentence

        message = message.removeprefix("argument ").replace("the following arguments are required", "missing")
        line = sentence(without_secrets(message)).rstrip(".?")
        end = "?" if message.endswith("?") else "."
        self.exit(2, f"error: {line}{end} See {self.prog} --help\n")

    def _check_names(self, given: Sequence[str]) -> None:
        """Reject the first option that this command does not have, also where other arguments are missing."""
        options = self._option_string_actions
        has_commands = any(isinstance(action, _SubParsersAction) for action in self._actions)
        for text in given:
            if text == "--" or (has_commands and not text.startswith("-")):
                return
            if len(text) < 2 or text[0] != "-" or " " in text or _NEGATIVE.match(text):
                continue
            name = text.partition("=")[0]
            if text.startswith("--"):
                is_known = any(option.startswith(name) for option in options)  # abbreviations, as in Optimum
            else:
                is_known = text[:2] in options and f"-{name}" not in options  # `-model` is not `-m odel`
            if not is_known:
                from optimum_htp.suggestions import did_you_mean

                near = did_you_mean(name, (option for option in options if option.startswith("--")))
                if any(action.dest == "inputs" and action.nargs == "*" for action in self._actions):
                    near = f"{near} Put -- before an input that starts with a dash."
                self.error(f"unknown option {name} of {self.prog.removeprefix(_PROGRAM)}.{near}")

    def _check_value(self, action: Action, value: Any) -> None:
        """Reject a value that is not one of the choices, and suggest one."""
        if action.choices is None or value in action.choices:
            return
        from optimum_htp.suggestions import did_you_mean

        choices = [str(choice) for choice in action.choices]
        if isinstance(action, _SubParsersAction):
            raise ArgumentError(
                None, f"unknown command {value!r} of {self.prog.removeprefix(_PROGRAM)}.{did_you_mean(value, choices)}"
            )
        raise ArgumentError(
            action, f"{value!r} is not one of: {', '.join(choices)}.{did_you_mean(str(value), choices)}"
        )


def adopt(parser: ArgumentParser) -> None:
    """Give a parser the behaviour of `Parser`, and its options names with dashes."""
    parser.__class__ = Parser
    for action in parser._actions:
        names = [_dashed(name) for name in action.option_strings]
        if names != action.option_strings:
            for name in action.option_strings:
                del parser._option_string_actions[name]
            action.option_strings = list(dict.fromkeys(names))
            parser._option_string_actions |= dict.fromkeys(names, action)


def integer(least: int) -> Callable[[str], int]:
    """Return the type of an option that takes an integer of at least `least`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not an integer") from None
        if value < least:
            raise ArgumentTypeError(f"{text} is less than {least}")
        return value

    return parse


def number(*, positive: bool = False) -> Callable[[str], float]:
    """Return the type of an option that takes a finite number that is not negative, or is positive."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is not a number") from None
        if not math.isfinite(value) or value < 0 or (positive and value == 0):
            raise ArgumentTypeError(f"{text} is not a {'positive' if positive else 'non-negative'} number")
        return value

    return parse


def path(text: str) -> Path:
    """Return the path of an option; an empty text is not the present folder."""
    if not text:
        raise ArgumentTypeError("the path is empty")
    return Path(text)


def _name(action: Action) -> str:
    return action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)


def _dashed(option: str) -> str:
    return option.replace("_", "-") if option.startswith("--") else option


def _with_dashes(arguments: Sequence[str]) -> list[str]:
    """Return arguments with dashes in the option names, up to `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [
        *(_dashed(name) + sign + value for name, sign, value in (text.partition("=") for text in arguments[:end])),
        *arguments[end:],
    ]
