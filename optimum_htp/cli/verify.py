"""`optimum-cli htp verify FILE...`: check records against the Hub, and with --weights the weights."""

from __future__ import annotations

import dataclasses
import sys
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.display import bar, cut, show
from optimum_htp.cli.files import FileResult, FilesCommand, add_files_arguments, expand, is_manifest
from optimum_htp.cli.options import MODEL, REVISION, add_hub_arguments, hub_access
from optimum_htp.report.texts import sentence

if TYPE_CHECKING:
    from optimum_htp.modules.prove import Proof
    from optimum_htp.stamping.manifests import ManifestModel, WrittenFile
    from optimum_htp.stamping.verify import Verdict

__all__ = ["VerifyCommand"]

_MISMATCH: Final = 3
_UNCHECKED: Final = 5
_SHOWN: Final = 20  # weights that are listed
_WORDS: Final = {"unchecked": "not checkable", "foreign": "not from this commit"}
"""Words for kinds of evidence; the others are their own names."""


class VerifyCommand(FilesCommand):
    """Checks records. Exit codes: 1 invalid, 3 mismatch, 4 Hub not reached, 5 unchecked."""

    examples = (
        "htp verify out/model.onnx",
        "htp verify --weights out/*.onnx --json",
    )
    exit_codes = (
        "0 valid, 1 invalid or an error, 2 wrong arguments, 3 the model does not match the graph, the repo's weight "
        "files have changed, or a weight is not from the commit, 4 the Hub cannot be reached, 5 a weight cannot be "
        "checked"
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._expected: dict[str, tuple[ManifestModel, WrittenFile]] = {}
        super().__init__(*args, **kwargs)

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        add_files_arguments(parser, "ONNX files, folders of them, globs, or manifests of batches.")
        parser.add_argument(
            "--weights",
            action="store_true",
            help="Check every weight against the tensors of the commit; downloads only the tensors it needs.",
        )
        parser.add_argument(
            "-m", "--model", help=f"{MODEL} Requires --weights, which then checks this model and not the record."
        )
        parser.add_argument("--revision", help=f"{REVISION} Requires --model.")
        add_hub_arguments(parser)

    def named_files(self) -> list[str]:
        """Return the files of the arguments; a manifest stands for all of its files."""
        manifests = [argument for argument in self.args.files if is_manifest(argument)]
        for argument in manifests:
            from optimum_htp.stamping.manifests import read_manifest

            self._expected |= {str(path): known for path, known in read_manifest(Path(argument)).files().items()}
        return [*expand([name for name in self.args.files if name not in manifests]), *self._expected]

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return the function that checks a file."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.stamping.manifests import verify_listed
        from optimum_htp.stamping.verify import verify_metadata

        args, access = self.args, hub_access(self.args)
        if not args.weights and (args.model or args.revision):
            raise ArgumentError("--model and --revision require --weights.")
        if args.revision and not args.model:
            raise ArgumentError("--revision requires --model: a file records its commit.")

        def prove(file: str) -> Proof:
            from optimum_htp.modules.prove import prove_weights

            with bar(f"Weights of {file}", "tensor", hidden=len(files) > 1) as progress:
                return prove_weights(file, args.model, revision=args.revision, access=access, progress=progress)

        def check(file: str) -> _Checked:
            verdict: Verdict | None = None
            if (listed := self._expected.get(file)) is not None:
                verdict = verify_listed(Path(file), *listed, access)
                if not file.endswith(".onnx"):
                    return _Checked(verdict)
            elif not args.model:
                verdict = verify_metadata(file, access)
            if not args.weights or (verdict is not None and verdict.status.value):
                return _Checked(verdict)
            return _Checked(verdict, prove(file))

        return check

    def show(self, outcome: FileResult, *, several: bool) -> None:
        """Print the verdict; a failed one on standard error."""
        checked: _Checked = outcome.value
        if (verdict := checked.verdict) is not None:
            stream = sys.stderr if verdict.status.value else None
            show(f"{outcome.file}: {verdict.status.name.lower()}: {sentence(verdict.reason)}", stream)
            for what, why in verdict.unchecked.items():
                show(cut(f"  not checked: {what}: {why}"))
        if (proof := checked.proof) is not None:
            for line in _lines(outcome.file, proof):
                show(cut(line), sys.stderr if proof.foreign else None)

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the verdict, for JSON."""
        checked: _Checked = outcome.value
        document: dict[str, Any] = {}
        if (verdict := checked.verdict) is not None:
            record = None if verdict.metadata is None else dataclasses.asdict(verdict.metadata)
            document = {
                "status": verdict.status.name.lower(),
                "reason": verdict.reason,
                "checked": list(verdict.checked),
                "unchecked": dict(verdict.unchecked),
                "record": record,
            }
        return document if checked.proof is None else {**document, "weights": checked.proof.as_dict()}

    def exit_code(self, outcomes: Iterable[FileResult]) -> int:
        """Return the common exit code of the files that fail, or 1 if they have different codes."""
        codes = {_code(outcome) for outcome in outcomes} - {0}
        return codes.pop() if len(codes) == 1 else int(bool(codes))


def _code(outcome: FileResult) -> int:
    """Return the exit code for the result of a file."""
    from optimum_htp.errors import DownloadError, HubUnreachableError
    from optimum_htp.stamping.verify import Status

    if outcome.error is None:
        return int(outcome.value.code)
    away = isinstance(outcome.error, (HubUnreachableError, DownloadError))
    return int(Status.UNREACHABLE.value if away else Status.INVALID.value)


@dataclass(frozen=True)
class _Checked:
    """Results of the checks of a file: record and weights."""

    verdict: Verdict | None
    proof: Proof | None = None

    @property
    def code(self) -> int:
        if self.verdict is not None and self.verdict.status.value:
            return int(self.verdict.status.value)
        if self.proof is None:
            return 0
        return _MISMATCH if self.proof.foreign else _UNCHECKED if self.proof.unchecked else 0


def _lines(file: str, proof: Proof) -> Iterable[str]:
    """Yield lines about the weights of a file: counts, modules, and foreign or unchecked weights."""
    from optimum_htp.report.outline import size_text

    counts = proof.counts
    words = {**_WORDS, "foreign": _WORDS["foreign"].upper()}
    summary = ", ".join(f"{count} {words.get(name, name)}" for name, count in counts.items() if count)
    yield f"{file}: weights: {summary} ({proof.source}; {size_text(proof.fetched)} downloaded)"
    if not proof.tagged:
        yield "  the file has no tags: tensors are matched by name, otherwise by value"
    for module, evidence in _outermost(proof):
        yield f"  {module or '(model)':<40} {_WORDS.get(evidence, evidence)}"
    shown = (*proof.foreign, *proof.unchecked)
    for finding in shown[:_SHOWN]:
        yield f"  {finding.name}: {finding.how}"
    if len(shown) > _SHOWN:
        yield f"  and {len(shown) - _SHOWN} more; --json lists all"


def _outermost(proof: Proof) -> Iterable[tuple[str, str]]:
    """Yield modules with their evidence; a module is expanded if its submodules have different evidence."""
    modules = proof.modules
    inside: dict[str, list[str]] = defaultdict(list)
    for module in filter(None, modules):
        inside[module.rpartition(".")[0]].append(module)
    waiting = [""] if "" in modules else []
    while waiting:
        module = waiting.pop()
        below = inside.get(module, [])
        known = {modules[child].value for child in below} - {"constant"}
        if len(known) > 1 or "foreign" in known:
            waiting += reversed([child for child in below if modules[child].value != "constant"])
        else:
            yield module, modules[module].value
