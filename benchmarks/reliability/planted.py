"""Files that an attacker plants, and destructive outputs: existing files are kept, and no code runs.

The attacks are those of the tests; here each is tried with every function that could accept it. The tests are
imported after the start of the Hub, because huggingface_hub reads its address at import.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.pairs import empty_hub
from benchmarks.reliability.operations import REPO, places
from benchmarks.reliability.trials import Form, Trial, main
from tests.conftest import run
from tests.support import models
from tests.support.hub import LoopbackHub

CLI = Path(sys.executable).with_name("optimum-cli")
LIBRARIES = ("torch", "psutil", "onnx", "pickle", "threading", "multiprocessing", "transformers", "optimum_htp")


def attempt(what: str, call: Callable[[], object], lost: list[str]) -> bool:
    """Call a function; return whether it was refused. An error of another package is a loss."""
    from optimum_htp.errors import OptimumHTPError

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            call()
    except OptimumHTPError:
        return True
    except Exception as error:  # noqa: BLE001 - the kind of error is the result
        lost.append(f"{what}: {type(error).__name__}: {str(error)[:150]!r}")
    return False


def code_in_configs(hub: LoopbackHub, root: Path, quick: bool) -> Trial:
    """Embed configs that refer to code, and load the file in every way."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoConfig, AutoTokenizer

    from optimum_htp import verify_metadata
    from optimum_htp.extras.endpoint.folder import write_endpoint
    from optimum_htp.onnxfile import rewrite_model
    from tests.support.code_references import EVIL, REFUSED
    from tests.support.embedded import tampered

    mark = root / "mark"
    hub.add("evil/code", {"evil.py": f"open({str(mark)!r}, 'w')\n".encode()})
    lost: list[str] = []
    refused = times = 0
    attacks = {"two modules": ("modules.json", EVIL), **REFUSED}
    for case, (name, content) in list(attacks.items())[: 2 if quick else None]:
        folder = root / "code" / str(times)
        folder.mkdir(parents=True)
        path = Path(shutil.copy(root / "stamped" / "out" / "model.onnx", folder / "model.onnx"))
        config = {"model_type": "bert", "hidden_size": 32, **(content if name == "config.json" else {})}
        files = {"config.json": json.dumps(config).encode(), name: json.dumps(content).encode()}
        tampered(path, files=files if name != "config.json" else {name: files["config.json"]})
        library = "diffusers" if name == "model_index.json" else "sentence_transformers"
        rewrite_model(path, metadata={"hf_export_library": library, "hf_task": "feature-extraction"})
        calls: Mapping[str, Callable[[], object]] = {
            "config": lambda path=path: AutoConfig.from_pretrained(path),
            "tokenizer": lambda path=path: AutoTokenizer.from_pretrained(path),
            "model": lambda path=path: ORTModelForFeatureExtraction.from_pretrained(path),
            "sentences": lambda folder=folder: _sentence_transformer(folder),
            "endpoint": lambda path=path, folder=folder: write_endpoint(path, folder / "endpoint"),
            "verify": lambda path=path: verify_metadata(path),
        }
        for what, call in calls.items():
            times += 1
            refused += attempt(f"{what}, {case}", call, [])  # a library may refuse such a config with its own message
            if mark.exists() or "this" in sys.modules:
                lost.append(f"{what}, {case}: code ran")
                mark.unlink(missing_ok=True)
                sys.modules.pop("this", None)
    return Trial("configs that refer to code, embedded in a file", times, tuple(lost), f"{refused} typed errors")


def _sentence_transformer(folder: Path) -> object:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), backend="onnx")


def code_in_the_current_folder(root: Path, quick: bool) -> Trial:
    """Run commands in a folder with Python files that have the names of libraries."""
    folder, mark, lost = root / "current", root / "current-mark", []
    folder.mkdir()
    for name in LIBRARIES:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w')\nraise ImportError\n")
    (folder / "models.txt").write_text(f"{REPO}\n")
    commands = {
        "batch": ("htp", "batch", "models.txt", "-o", "out"),
        "export": ("export", "htp", "--model", REPO, "single"),
        "compare": ("htp", "compare", "single/model.onnx", "single/model.onnx"),
    }
    chosen = list(commands)[: 1 if quick else None]
    for name in chosen:
        done = run(CLI, *commands[name], cwd=folder, check=False)
        lost += [f"{name}: {done.stderr[-200:]}"] if done.returncode else []
        lost += [f"{name}: a file of the current folder ran"] if mark.exists() else []
        mark.unlink(missing_ok=True)
    return Trial(f"commands in a folder with {len(LIBRARIES)} files named like libraries", len(chosen), tuple(lost))


def planted_switches(root: Path) -> Trial:
    """Publish into folders with recovery state that another program wrote."""
    from tests.support.planted import PLANTS, contents
    from tests.support.publisher import publish_copy

    lost: list[str] = []
    for number, plant in enumerate(PLANTS):
        place = root / "switches" / str(number)
        for folder in ("out", "new", "elsewhere"):
            (place / folder).mkdir(parents=True)
        (place / "elsewhere" / "theirs").write_text("theirs")
        (place / "out" / "config.json").write_text("old")
        (place / "new" / "config.json").write_text("new")
        plant(place, place / "out")
        before = contents(place)
        what = plant.__name__.replace("_", " ")
        if not attempt(what, lambda place=place: publish_copy(place / "new", place / "out"), lost):
            lost.append(f"{what}: it was published")
        if contents(place) != before:
            lost.append(f"{what}: something was moved or deleted")
    return Trial("recovery state that another program wrote", len(PLANTS), tuple(lost))


def outputs_that_are_inputs(root: Path) -> Trial:
    """Name an input, or a file of another type, as the output of every function that writes one."""
    from optimum_htp import extract_module, strip_metadata
    from optimum_htp.extras.batch.journal import JOURNAL_FILE, Journal
    from optimum_htp.extras.bom.bill import BILL
    from optimum_htp.onnxfile.outputs import check_output
    from optimum_htp.report.write import write_report
    from optimum_htp.stamping.manifests import MANIFEST, Manifest
    from tests.support.planted import contents

    folder = root / "outputs"
    folder.mkdir()
    model = Path(shutil.copy(root / "stamped" / "out" / "model.onnx", folder / "a.onnx"))
    notes, link, other = folder / "notes.txt", folder / "link.onnx", folder / "model.json"
    notes.write_text("mine")
    link.symlink_to(model)
    os.link(model, other)
    before, lost, times = contents(folder), [], 0
    for target in (model, notes, link, other):
        calls: Mapping[str, Callable[[], object]] = {
            "bom": lambda target=target: check_output(target, BILL, inputs=[model]),
            "journal": lambda target=target: Journal(target),
            "manifest": lambda target=target: Manifest(folder, (), {}).write(target),
            "report": lambda target=target: write_report({"files": []}, target, inputs=[model]),
            "extract": lambda target=target: extract_module(model, "bert.pooler", target),
            "strip": lambda target=target: strip_metadata(model, target) if target in (notes, other) else _refuse(),
            "forced": lambda target=target: (
                check_output(target, MANIFEST, inputs=[model, notes], force=True),
                check_output(target, JOURNAL_FILE, inputs=[model, notes], force=True),
            ),
        }
        for what, call in calls.items():
            times += 1
            if not attempt(f"{what}, {target.name}", call, lost):
                lost.append(f"{what}, {target.name}: it was not refused")
    lost += [] if contents(folder) == before else ["a file was changed"]
    return Trial("outputs that are inputs, or files of another kind", times, tuple(lost))


def _refuse() -> None:
    """A case without an attack: a strip in place."""
    from optimum_htp.errors import ArgumentError

    raise ArgumentError("in place")


def shared_caches(root: Path) -> Trial:
    """Change a file in place that a cache shares."""
    from optimum_htp import embed_files, strip_metadata, tag_file, unembed_files
    from optimum_htp.onnxfile import rewrite_model
    from tests.support.replacing import LAYOUTS, cached

    lost, times = [], 0
    stamped = (root / "stamped" / "out" / "model.onnx").read_bytes()
    for layout in LAYOUTS:
        link, real = cached(root / "caches" / layout.replace(" ", "-"), layout)
        real.chmod(0o644)
        real.write_bytes(stamped)
        real.chmod(0o444 if layout == "read-only" else 0o644)
        calls: Mapping[str, Callable[[], object]] = {
            "write": lambda link=link: rewrite_model(link, metadata={"k": "v"}),
            "tag": lambda link=link: tag_file(link),
            "strip": lambda link=link: strip_metadata(link),
            "unembed": lambda link=link: unembed_files(link),
            "embed": lambda link=link: embed_files(link),
        }
        for what, call in calls.items():
            times += 1
            attempt(f"{what}, {layout}", call, lost)
            if real.read_bytes() != stamped:
                lost.append(f"{what}, {layout}: the shared file was changed")
    return Trial(f"{len(LAYOUTS)} kinds of shared caches, five commands in place", times, tuple(lost))


def names_of_snapshots(hub: LoopbackHub, root: Path) -> Trial:
    """Give a folder the name of a commit, in every place except the cache in use."""
    from optimum_htp.hubs.base import HubAccess
    from optimum_htp.origin.source import LocalSource, locate

    commit = hub.repos[REPO].refs["main"]
    lost, times = [], 0
    org_name = REPO.replace("/", "--")
    for access in (HubAccess(), HubAccess(local_files_only=True), HubAccess(cache_dir=root / "own-cache")):
        for place in ("copy", "other-cache/hub", "own-cache-not"):
            for name in (f"models--{org_name}", f"models/{org_name}"):
                times += 1
                folder = root / "named" / place / name / "snapshots" / commit
                if not folder.exists():
                    shutil.copytree(root / "source", folder)
                if not isinstance(locate(folder, None, access), LocalSource):
                    lost.append(f"{folder} was taken for a commit")
    return Trial("folders with the name of a snapshot", times, tuple(lost))


def two_writers(root: Path, rounds: int) -> Trial:
    """Two processes set a key each: if both report success, the file has both keys."""
    from optimum_htp.onnxfile import read_metadata
    from tests.support.replacing import writers

    lost, both, folder = [], 0, root / "writers"
    folder.mkdir()
    crowd = writers([f"rewrite_model(path, metadata={{{key!r}: '1'}})" for key in "ab"])
    for process in crowd:
        process.stdout.readline()
    for number in range(rounds):
        path = Path(shutil.copy(root / "stamped" / "out" / "model.onnx", folder / f"{number}.onnx"))
        for process in crowd:
            process.stdin.write(f"{path}\n")
        results = [process.stdout.readline() for process in crowd]
        if results == ["done\n", "done\n"]:
            both += 1
            missing = {"a", "b"} - read_metadata(path).keys()
            lost += [f"round {number}: {missing} is missing"] if missing else []
        path.unlink()
    for process in crowd:
        process.communicate()
    return Trial("two processes that change one file", rounds, tuple(lost), f"both reported success {both} times")


def exported_once(output: Path) -> None:
    """Export the model for the trials."""
    from optimum_htp import HTPExporter

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        HTPExporter().export(REPO, output, task="text-classification")


def trials(form: Form) -> Iterator[Trial]:
    quick = form is Form.QUICK
    os.environ["OMP_NUM_THREADS"] = "1"
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory(dir=next(places())) as name:
        root = Path(name)
        models.bert(root / "source")
        hub.add(REPO, root / "source", pipeline_tag="text-classification", library_name="transformers")
        exported_once(root / "stamped" / "out")
        yield code_in_configs(hub, root, quick)
        yield code_in_the_current_folder(root, quick)
        yield planted_switches(root)
        yield outputs_that_are_inputs(root)
        yield shared_caches(root)
        yield names_of_snapshots(hub, root)
        yield two_writers(root, 20 if quick else 400)


if __name__ == "__main__":
    main(__doc__, trials)
