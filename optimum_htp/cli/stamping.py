"""The commands that change the metadata of ONNX files: `inject`, `embed`, `unembed`, `strip` and `tag`."""

from __future__ import annotations

import dataclasses
import functools
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum_htp.cli.display import amount, show, show_progress
from optimum_htp.cli.files import FileResult, FilesCommand
from optimum_htp.cli.options import (
    MODEL,
    REVISION,
    add_destinations,
    add_dry_run_argument,
    add_embed_argument,
    add_external_data_argument,
    add_hub_arguments,
    add_trust_remote_code_argument,
    hub_access,
    send,
)
from optimum_htp.cli.parser import path

if TYPE_CHECKING:
    from optimum_htp.metadata import EmbeddedFile, ExportMetadata
    from optimum_htp.onnxfile.unchanged import Check

__all__ = ["EmbedCommand", "InjectCommand", "StripCommand", "TagCommand", "UnembedCommand"]


class InjectCommand(FilesCommand):
    """Looks up the model once, and stamps each file that matches it."""

    examples = (
        "htp inject onnx/*.onnx --model org/model@v1.0",
        "htp inject model.onnx --model ./my-model --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("-m", "--model", required=True, help=MODEL)
        parser.add_argument("--revision", help=REVISION)
        parser.add_argument("--task", help="Optimum task (default: inferred from graph and model).")
        parser.add_argument("--force", action="store_true", help="Stamp files also if they do not match the model.")
        add_embed_argument(parser)
        add_external_data_argument(parser)
        add_dry_run_argument(parser)
        add_destinations(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Look up the model."""
        from optimum_htp.onnxfile.unchanged import check_of, checked_before_replacing
        from optimum_htp.stamping.inject import look_up, siblings_of

        access = hub_access(self.args)
        injection = look_up(
            self.args.model,
            self.args.revision,
            access,
            embed=self.args.embed,
            external_data=self.args.external_data,
        )
        siblings = siblings_of(map(Path, files))

        @functools.cache
        def examine(path: Path, task: str | None) -> tuple[Check, ExportMetadata]:
            return check_of(path), injection.record(path, siblings.get(path, ()), task=task, force=self.args.force)

        def work(file: str) -> Any:
            path, task = Path(file), self.args.task
            # All parts of a model must match it, and have the same task.
            tasks = {examine(path.with_name(name), task)[1].task for name in siblings.get(path, ())}
            if len(tasks) > 1:
                task = max(filter(None, tasks), key=len)
            check, mine = examine(path, task)
            if self.args.dry_run:
                return mine
            with checked_before_replacing(check):
                return injection.write(path, mine)

        return work

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the source and the task."""
        would = "would be " if self.args.dry_run else ""
        show(f"{outcome.file}: {would}stamped as {outcome.value.source} for {outcome.value.task}")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the record, for JSON."""
        return {"written": not self.args.dry_run, "record": dataclasses.asdict(outcome.value)}

    def finish(self, outcomes: Sequence[FileResult]) -> dict[str, Any]:
        """Send the files to the destinations, if each was stamped."""
        if not self.args.dry_run:
            send(self.args, [outcome.file for outcome in outcomes], self.partial)
        return self.partial


class EmbedCommand(FilesCommand):
    """Embeds the files of each model once per model."""

    examples = (
        "htp embed out/model.onnx",
        "htp embed out/*.onnx --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "--from",
            dest="source",
            type=path,
            metavar="FOLDER",
            help="Folder of the files to embed (default: the recorded commit, or the folder of a local model).",
        )
        add_external_data_argument(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that embeds the files of a model."""
        from optimum_htp.stamping.embed import embed_files, once_a_model

        access, moved = hub_access(self.args), self.args.external_data
        return once_a_model(lambda file: embed_files(file, self.args.source, access=access, external_data=moved))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how many files were embedded."""
        show(f"{outcome.file}: {_sizes(outcome.value)} embedded")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the embedded files, for JSON."""
        return {"embedded_files": [dataclasses.asdict(file) for file in outcome.value]}


class UnembedCommand(FilesCommand):
    """Removes the embedded files of each model, and extracts them to a folder."""

    examples = (
        "htp unembed out/model.onnx",
        "htp unembed out/*.onnx -o files/",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=path,
            metavar="FOLDER",
            help="Folder to extract the files to (default: the files are removed only).",
        )

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that removes the embedded files of a model."""
        from optimum_htp.stamping.embed import once_a_model, unembed_files

        return once_a_model(lambda file: unembed_files(file, self.args.output))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how many files were removed."""
        where = f", extracted to {self.args.output}" if self.args.output is not None and outcome.value else ""
        show(f"{outcome.file}: {_sizes(outcome.value)} removed{where}")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the removed files, for JSON."""
        return {"removed": [dataclasses.asdict(file) for file in outcome.value]}


class StripCommand(FilesCommand):
    """Removes our metadata keys from files and nodes, or the stack traces from nodes."""

    examples = (
        "htp strip out/model.onnx -o plain.onnx",
        "htp strip out/*.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument(
            "-o",
            "--output",
            type=path,
            metavar="PATH",
            help="File or folder to write to (default: change the files in place); for several files a folder.",
        )
        parser.add_argument(
            "--stack-traces",
            action="store_true",
            help="Remove the stack traces of PyTorch's dynamo exporter from the nodes, instead of our keys. They "
            "contain paths of the machine that exported the file.",
        )

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that strips a file."""
        from optimum_htp.errors import OnnxWriteError
        from optimum_htp.onnxfile.outputs import ONNX, check_output
        from optimum_htp.stamping.originals import strip_metadata, strip_stack_traces

        output: Path | None = self.args.output
        into = output is not None and (len(files) > 1 or output.is_dir() or output.suffix != ".onnx")
        names = [Path(file).name for file in files]
        if into and len(set(names)) < len(names):
            raise OnnxWriteError(
                f"Several files have the same name, so {output} cannot contain all. Strip them one by one."
            )
        if output is not None and into:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OnnxWriteError(
                    f"{output} cannot be created: {error.strerror or error}. Pass another folder with -o."
                ) from error

        def target_of(file: str) -> Path | None:
            return output / Path(file).name if output is not None and into else output

        for file in files:
            if (target := target_of(file)) is not None:
                check_output(target, ONNX, inputs=[other for other in files if other != file])

        remove = strip_stack_traces if self.args.stack_traces else strip_metadata
        return lambda file: remove(file, target_of(file))

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print how much was removed."""
        show(f"{outcome.file}: {outcome.value} {'stack traces' if self.args.stack_traces else 'keys'} removed")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return how much was removed, for JSON."""
        return {"removed": outcome.value}


class TagCommand(FilesCommand):
    """Tags files that have lost their tags, or come from another exporter."""

    examples = (
        "htp tag model.onnx --model org/model",
        "htp tag quantized.onnx --from out/model.onnx",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        FilesCommand.parse_args(parser)
        parser.add_argument("--from", dest="original", metavar="ORIGINAL", help="Tagged file that FILE was made from.")
        parser.add_argument("-m", "--model", help=MODEL)
        parser.add_argument("--revision", help=REVISION)
        add_trust_remote_code_argument(parser)
        parser.add_argument("-o", "--output", metavar="FILE", help="File to write (default: change FILE in place).")
        add_external_data_argument(parser)
        parser.add_argument(
            "--force",
            action="store_true",
            help="Tag files also if they do not match the model or ORIGINAL, and replace more exact tags.",
        )
        add_dry_run_argument(parser)
        add_hub_arguments(parser)

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that tags a file."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.onnxfile.outputs import ONNX, check_output
        from optimum_htp.stamping.tag import Tagger

        output = self.args.output
        if output is not None and len(files) > 1:
            raise ArgumentError(f"--output is one file, not {len(files)}. Omit it to change the files in place.")
        if output is not None and not self.args.dry_run:
            check_output(output, ONNX, inputs=filter(None, (self.args.original, self.args.model)))
        tagger = Tagger(
            self.args.original,
            self.args.model,
            revision=self.args.revision,
            access=hub_access(self.args),
            trust_remote_code=self.args.trust_remote_code,
            force=self.args.force,
            on_building=lambda model: show_progress(f"Building {model} in PyTorch, without weights ..."),
        )
        if self.args.dry_run:
            return tagger.assignment
        return lambda file: tagger.write(file, output, external_data=self.args.external_data)

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the number of nodes per rule."""
        would = "would be " if self.args.dry_run else ""
        counted = ", ".join(f"{rule} {count}" for rule, count in outcome.value.coverage.items())
        nodes, modules = len(outcome.value.modules), len(set(outcome.value.modules))
        show(f"{outcome.file}: {amount(nodes, 'node')} of {amount(modules, 'module')} {would}tagged ({counted})")
        if inexact := outcome.value.inexact:
            show(f"  {inexact} of them have the tag of an enclosing module, because their own module is unknown")
        if not any(outcome.value.tree.classes.values()):
            show("  the classes are unknown: pass --model to add them")

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the number of nodes per rule, for JSON."""
        assignment = outcome.value
        return {
            "written": not self.args.dry_run,
            "nodes": len(assignment.modules),
            "modules": len(set(assignment.modules)),
            "coverage": assignment.coverage,
            "inexact": assignment.inexact,
        }


def _sizes(files: Sequence[EmbeddedFile]) -> str:
    """Return the number of files and their total size."""
    from optimum_htp.report.outline import size_text

    return f"{amount(len(files), 'file')} ({size_text(sum(file.size for file in files))})"
