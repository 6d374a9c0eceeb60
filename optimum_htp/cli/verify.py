"""`optimum-cli htp verify FILE...`: hold what files say against the Hub, and with --weights their weights too."""

from __future__ import annotations

import dataclasses
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.cli.display import cut, show
from optimum_htp.cli.files import (
    FileResult,
    FilesCommand,
    add_files_arguments,
    add_hub_arguments,
    expand,
    hub_access,
    is_manifest,
)
from optimum_htp.report.texts import sentence

if TYPE_CHECKING:
    from optimum_htp.modules.prove import Proof
    from optimum_htp.stamping.manifests import ManifestModel, WrittenFile
    from optimum_htp.stamping.verify import Verdict

__all__ = ["VerifyCommand"]

_MISFIT: Final = 3
_UNCHECKED: Final = 5
_SHOWN: Final = 20  # weights that are named


class VerifyCommand(FilesCommand):
    """Checks records; its exit code says what is wrong: 1 invalid, 3 does not fit, 4 not reached, 5 unchecked."""

    examples = (
        "htp verify out/model.onnx",
        "htp verify --weights out/*.onnx --json",
    )
    exit_codes = (
        "0 valid, 1 invalid or an error, 2 wrong arguments, 3 the model does not fit the graph or a weight is not "
        "from the commit, 4 the Hub cannot be reached, 5 a weight cannot be checked"
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
            help="Match every weight to a tensor of the commit's safetensors; fetches only the tensors it needs.",
        )
        parser.add_argument(
            "-m", "--model", help="With --weights: the model or folder to hold them against, not what the file says."
        )
        parser.add_argument("--revision", help="With --model: branch, tag, commit or refs/pr/N.")
        add_hub_arguments(parser)

    def named_files(self) -> list[str]:
        """Return the files that the arguments stand for: a manifest stands for all that it names."""
        manifests = [argument for argument in self.args.files if is_manifest(argument)]
        for argument in manifests:
            from optimum_htp.stamping.manifests import read_manifest

            self._expected |= {str(path): known for path, known in read_manifest(Path(argument)).files().items()}
        return [*expand([name for name in self.args.files if name not in manifests]), *self._expected]

    def prepare(self, files: Sequence[str]) -> Callable[[str], Any]:
        """Return what checks a file."""
        from optimum_htp.errors import ArgumentError
        from optimum_htp.stamping.manifests import verify_listed
        from optimum_htp.stamping.verify import verify_metadata

        args, access = self.args, hub_access(self.args)
        if not args.weights and (args.model or args.revision):
            raise ArgumentError("--model and --revision say what --weights are held against: give that too.")
        if args.revision and not args.model:
            raise ArgumentError("--revision is for --model: a file says its own commit.")

        def prove(file: str) -> Proof:
            from optimum_htp.cli.display import bar
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
        """Print the verdict, on standard error where something is wrong."""
        checked: _Checked = outcome.value
        if (verdict := checked.verdict) is not None:
            stream = sys.stderr if verdict.status.value else sys.stdout
            show(f"{outcome.file}: {verdict.status.name.lower()}: {sentence(verdict.reason)}", stream)
            for what, why in verdict.unchecked.items():
                show(cut(f"  not checked: {what}: {why}"))
        if (proof := checked.proof) is not None:
            for line in _lines(outcome.file, proof):
                show(cut(line), sys.stderr if proof.foreign else sys.stdout)

    def document(self, outcome: FileResult) -> dict[str, Any]:
        """Return the verdict for JSON."""
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
        """Return the code of what is wrong, 1 where different things are."""
        codes = {_code(outcome) for outcome in outcomes} - {0}
        return codes.pop() if len(codes) == 1 else int(bool(codes))


def _code(outcome: FileResult) -> int:
    """Return the exit code of what came of a file."""
    from optimum_htp.errors import DownloadError, HubUnreachableError
    from optimum_htp.stamping.verify import Status

    if outcome.error is None:
        return int(outcome.value.code)
    away = isinstance(outcome.error, (HubUnreachableError, DownloadError))
    return int(Status.UNREACHABLE.value if away else Status.INVALID.value)


@dataclass(frozen=True)
class _Checked:
    """What is known of a file: of its record, and of its weights."""

    verdict: Verdict | None
    proof: Proof | None = None

    @property
    def code(self) -> int:
        if self.verdict is not None and self.verdict.status.value:
            return int(self.verdict.status.value)
        if self.proof is None:
            return 0
        return _MISFIT if self.proof.foreign else _UNCHECKED if self.proof.unchecked else 0


def _lines(file: str, proof: Proof) -> Iterable[str]:
    """Yield what is said of a file's weights: the counts, the modules, and each weight that is foreign."""
    from optimum_htp.report.outline import size_text

    counts = proof.counts
    bad = {"unchecked": "not checkable", "foreign": "NOT FROM THIS COMMIT"}
    summary = ", ".join(f"{count} {bad.get(name, name)}" for name, count in counts.items() if count)
    yield f"{file}: weights: {summary} ({proof.source}; {size_text(proof.fetched)} fetched)"
    if not proof.tagged:
        yield "  the file has no tags: which tensor belongs where was told by names, else by value alone"
    for module, evidence in _outermost(proof):
        yield f"  {module or '(model)':<40} {_WORDS[evidence]}"
    shown = (*proof.foreign, *proof.unchecked)
    for finding in shown[:_SHOWN]:
        yield f"  {finding.name}: {finding.how}"
    if len(shown) > _SHOWN:
        yield f"  and {len(shown) - _SHOWN} more: --json has all"


_WORDS: Final = {
    "constant": "constant",
    "proven": "proven",
    "derived": "derived",
    "unchecked": "not checkable",
    "foreign": "not from this commit",
}


def _outermost(proof: Proof) -> Iterable[tuple[str, str]]:
    """Yield modules with what is known of them, and go into those alone in which it is not the same everywhere."""
    modules = proof.modules
    inside: dict[str, list[str]] = {}
    for module in modules:
        if module:
            holder = module.rpartition(".")[0]
            inside.setdefault(holder, []).append(module)
    waiting = [""] if "" in modules else []
    while waiting:
        module = waiting.pop()
        below = inside.get(module, [])
        known = {modules[child].value for child in below} - {"constant"}
        if len(known) > 1 or "foreign" in known:
            waiting += reversed([child for child in below if modules[child].value != "constant"])
        else:
            yield module, modules[module].value
