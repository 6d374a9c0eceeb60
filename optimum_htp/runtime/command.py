"""What `optimum-cli htp run` and `python -m optimum_htp.runtime` do: answer inputs, one after the other."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from optimum_htp.errors import ArgumentError, OptimumHTPError, OutputError
from optimum_htp.parsing import json_or_none
from optimum_htp.runtime.model import TASKS, Model, load

__all__ = ["add_arguments", "main", "run"]

_CLOSED: Final = 128 + 13  # what a shell says of a program that SIGPIPE ended
_HARMLESS: Final = ("Zs", "Mn", "Cn", "Co")  # what is not printable to Python, and does nothing to a terminal
_GENERATING: Final = ("text-generation", "text2text-generation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", metavar="FILE", help="An ONNX file with a record, its folder, a repo, or hf://...")
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="A text, or the path of an image; a JSON object for several fields. Without any, each line of standard "
        "input is one.",
    )
    parser.add_argument("--task", choices=sorted(TASKS), help="What to answer; without it, the task of the file.")
    parser.add_argument(
        "-p",
        "--parameter",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="A parameter of the task, such as top_k=3, max_new_tokens=50, candidate_labels=red,blue or context=TEXT.",
    )
    parser.add_argument("--chat", action="store_true", help="Each input is a message to a model that chats.")
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


def run(arguments: argparse.Namespace, stream: TextIO | None, lines: Iterable[str] | None) -> None:
    """Answer the inputs.

    Args:
        arguments: As `add_arguments` declares them.
        stream: Where the answers go; None where standard output was closed before.
        lines: The inputs, if the arguments have none; None where standard input was closed before.

    Raises:
        OptimumHTPError: The file cannot be loaded, or an input not be answered; the subclass says why.
        BrokenPipeError: What read the answers is gone.
    """
    parameters = dict(map(_parameter, arguments.parameter))
    model = load(
        arguments.file,
        task=arguments.task,
        revision=arguments.revision,
        cache_dir=arguments.cache_dir,
        local_files_only=arguments.local_files_only,
    )

    def write(piece: str) -> None:
        _write(stream, piece)

    for text in arguments.inputs or _stripped(lines or ()):
        _answer(model, text, parameters, arguments, write)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 with a sentence on standard error, 141 if nobody reads on."""
    parser = argparse.ArgumentParser(
        prog="python -m optimum_htp.runtime", description="Answer inputs with an ONNX file, without PyTorch."
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(argv), sys.stdout, sys.stdin)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it at its end
        return _CLOSED
    except OptimumHTPError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _write(stream: TextIO | None, piece: str) -> None:
    """Write at once, with what the stream or a terminal does not take as escapes: labels are a file's.

    Raises:
        OutputError: It cannot be written, as on a full disk.
        BrokenPipeError: What read it is gone.
    """
    if stream is None:
        return
    encoding = stream.encoding or "utf-8"
    shown = "".join(one if one.isprintable() or one in "\n\t" else _escaped(one) for one in piece)
    try:
        stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"Standard output cannot be written to: {error.strerror or error}.") from error


def _escaped(character: str) -> str:
    return character if unicodedata.category(character) in _HARMLESS else ascii(character)[1:-1]


def _stripped(lines: Iterable[str]) -> Iterator[str]:
    return (text for line in lines if (text := line.rstrip("\r\n")))


def _parameter(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator or not name.isidentifier():
        raise ArgumentError(f"-p {text} is not of the form NAME=VALUE.")
    parsed = json_or_none(value)
    return name, value if parsed is None and value != "null" else parsed


def _answer(
    model: Model, text: str, parameters: Mapping[str, Any], arguments: argparse.Namespace, write: Callable[[str], None]
) -> None:
    """Answer an input; a text that is generated is written as it comes."""
    one, options = _input(model, text, parameters, is_chat=arguments.chat)
    beams = options.get("num_beams", 1 if model.task == "text-generation" else None)
    if not arguments.json and model.task in _GENERATING and beams == 1:
        model(one, **options, streamer=write)
        write("\n")
        return
    answer = model(one, **options)
    if arguments.json:
        write(json.dumps({"input": one, "answer": _finite(answer)}, ensure_ascii=False, allow_nan=False) + "\n")
    else:
        write("".join(f"{line}\n" for line in _lines(answer)))


def _input(model: Model, text: str, parameters: Mapping[str, Any], *, is_chat: bool) -> tuple[Any, dict[str, Any]]:
    """Return an input as the task takes it, and the parameters of the call."""
    options, given = dict(parameters), json_or_none(text) if text.startswith("{") else None
    if is_chat:
        return [{"role": "user", "content": text}], options
    if model.task == "question-answering" and not isinstance(given, dict):
        return {"question": text, "context": options.pop("context", None)}, options
    if model.task == "sentence-similarity" and isinstance(given, dict):
        return given.get("source"), {**options, "sentences": given.get("sentences")}
    return given if isinstance(given, dict) else text, options


def _finite(answer: Any) -> Any:
    """Return an answer as JSON can hold it: null for what is no number."""
    if isinstance(answer, dict):
        return {key: _finite(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [_finite(value) for value in answer]
    return None if isinstance(answer, float) and not math.isfinite(answer) else answer


def _lines(answer: Any) -> Iterator[str]:
    """Yield the lines that show an answer to a person."""
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
"""The field of an answer that a person wants to see."""
