"""`optimum-cli htp run` and `python -m optimum_htp.runtime`: run a model on each input."""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TextIO

from optimum_htp.errors import ArgumentError, OptimumHTPError, OutputError
from optimum_htp.parsing import json_or_none
from optimum_htp.runtime.model import GENERATING, TASKS, Model, load

__all__ = ["add_arguments", "main", "run"]

_CLOSED: Final = 128 + 13  # exit code of a process that SIGPIPE ended
_HARMLESS: Final = ("Zs", "Mn", "Cn", "Co")  # not printable for Python, but without effect on a terminal
_SEPARATOR: Final = "If an input begins with `-`, put `--` before the inputs: FILE -- INPUT."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="An ONNX file with a record, its folder, a repo, or hf://...")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="A text, the path of an image, or a JSON object with several fields. Default: the lines of standard "
        "input. Put `--` before inputs that begin with `-`.",
    )
    parser.add_argument("--task", choices=sorted(TASKS), help="Task (default: the recorded task).")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="Parameter of the task, such as top_k=3, max_new_tokens=50, candidate_labels=red,blue or context=TEXT.",
    )
    parser.add_argument("--chat", action="store_true", help="Send each input as a chat message.")
    parser.add_argument("--json", action="store_true", help="Print one line of JSON for each input.")
    parser.add_argument(
        "--revision", help="Branch, tag, commit or refs/pr/N of the model. Replaces the recorded commit."
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", help="Folder of the Hub's cache (default: the cache of huggingface_hub)."
    )
    parser.add_argument(
        "--local-files-only", action="store_true", help="Use only files of the cache; do not connect to a Hub."
    )


class _Parser(argparse.ArgumentParser):
    """A parser whose errors mention `--`."""

    def error(self, message: str) -> NoReturn:
        super().error(f"{message}. {_SEPARATOR}")


def run(arguments: argparse.Namespace, stream: TextIO | None, lines: Iterable[str] | None) -> None:
    """Run the model on the inputs and write the results. Without inputs in the arguments, the lines are the inputs.

    The stream and the lines are None if standard output or input was closed before the start.

    Raises:
        OptimumHTPError: The file cannot be loaded, or an input is invalid; the subclass gives the reason.
        BrokenPipeError: The reader of the output has closed it.
    """
    parameters = dict(map(_parameter, arguments.parameter))
    model = load(
        arguments.file,
        task=arguments.task,
        revision=arguments.revision,
        cache_dir=arguments.cache_dir,
        local_files_only=arguments.local_files_only,
    )
    write = functools.partial(_write, stream)
    for text in arguments.inputs or _stripped(lines or ()):
        _answer(model, text, parameters, arguments, write)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0, 1 with a message on standard error, 130 after Ctrl+C, or 141 if the output pipe was closed."""
    parser = _Parser(prog="python -m optimum_htp.runtime", description="Run an ONNX file on inputs, without PyTorch.")
    add_arguments(parser)
    try:
        run(parser.parse_intermixed_args(argv), sys.stdout, sys.stdin)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes standard output at exit
        return _CLOSED
    except OptimumHTPError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _write(stream: TextIO | None, piece: str) -> None:
    """Write and flush. Escape control characters and characters that the encoding lacks: labels are untrusted."""
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    shown = "".join(
        one if one.isprintable() or one in "\n\t" or unicodedata.category(one) in _HARMLESS else ascii(one)[1:-1]
        for one in piece
    )
    try:
        stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Cannot write to standard output: {error.strerror or error}.") from error


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    return (text for line in lines if (text := line.rstrip("\r\n")))


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ArgumentError(f"-p {text} does not have the form NAME=VALUE. {_SEPARATOR}")
    parsed = json_or_none(value)
    return name, value if parsed is None and value != "null" else parsed


def _answer(
    model: Model, text: str, parameters: Mapping[str, Any], arguments: argparse.Namespace, write: Callable[[str], None]
) -> None:
    """Run the model on one input and write the result. A generated text is written in pieces."""
    one, options = _input(model, text, parameters, is_chat=arguments.chat)
    beams = options.get("num_beams", 1 if model.task == "text-generation" else None)
    if not arguments.json and model.task in GENERATING and beams == 1:
        model(one, **options, streamer=write)
        write("\n")
        return
    answer = model(one, **options)
    if arguments.json:
        write(json.dumps({"input": one, "answer": _finite(answer)}, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        write("".join(f"{line}\n" for line in _lines(answer)))


def _input(model: Model, text: str, parameters: Mapping[str, Any], *, is_chat: bool) -> tuple[Any, dict[str, Any]]:
    """Return the argument and the parameters of the model call."""
    options, given = dict(parameters), json_or_none(text) if text.startswith("{") else None
    if is_chat:
        return [{"role": "user", "content": text}], options
    if model.task == "question-answering" and not isinstance(given, dict):
        return {"question": text, "context": options.pop("context", None)}, options
    if model.task == "sentence-similarity" and isinstance(given, dict):
        source = given.get("source", given.get("source_sentence"))  # The second is the name in Hugging Face's API.
        return source, {**options, "sentences": given.get("sentences")}
    return given if isinstance(given, dict) else text, options


def _finite(answer: Any) -> Any:
    """Return an answer with None in place of NaN and infinity, which JSON does not support."""
    if isinstance(answer, dict):
        return {key: _finite(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_finite(value) for value in answer]
    return None if isinstance(answer, float) and not math.isfinite(answer) else answer


def _lines(answer: Any) -> Iterator[str]:
    """Yield the lines of an answer for the terminal."""
    if isinstance(answer, dict):
        answer = [answer]
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        yield json.dumps(answer, ensure_ascii=False)
        return
    for one in answer:
        if "labels" in one and "scores" in one:
            yield from (f"{score:.4f}  {label}" for label, score in zip(one["labels"], one["scores"], strict=True))
            continue
        score = f"{one['score']:.4f}  " if "score" in one else ""
        shown = next((one[key] for key in _SHOWN if key in one), json.dumps(one, ensure_ascii=False))
        where = f"  {one['word']} [{one['start']}:{one['end']}]" if "word" in one else ""
        yield f"{score}{shown}{where}"


_SHOWN: Final = ("sequence", "label", "answer", "entity_group", "entity", "generated_text")
"""The field to show; the first existing one."""
