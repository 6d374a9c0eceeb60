"""The test Hub, its models, and their exports. Each is made once, by the first test that needs it.

huggingface_hub reads its variables at import, so they are set before all other imports.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from tests.support import warm
from tests.support.environments import python_of_users
from tests.support.hub import LoopbackHub
from tests.support.selection import LONG, LONGEST, NO_UNIT, OF_NO_STACK, OF_THE_STACK, UNIT

if TYPE_CHECKING:
    from optimum_htp.hubs import HubAccess

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell script's background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # so that Ctrl-C stops the processes of tests
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
_HUB = LoopbackHub()
_HOME = tempfile.TemporaryDirectory(prefix="hf-home-")
_EMPTY_HOME = Path(_HOME.name, "empty")
for _name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "TRANSFORMERS_", "OPTIMUM_HTP"))]:
    del os.environ[_name]
os.environ.update(HF_ENDPOINT=_HUB.url, HF_HOME=_HOME.name, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1")

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Architecture:
    """A model on the loopback Hub, and Optimum's class for its export."""

    repo_id: str
    builder: str
    pipeline_tag: str
    ort_class: str


ARCHITECTURES = {
    "minilm": Architecture(
        "sentence-transformers/all-MiniLM-L6-v2", "minilm", "sentence-similarity", "ORTModelForFeatureExtraction"
    ),
    "bert": Architecture("tiny/bert", "bert", "text-classification", "ORTModelForSequenceClassification"),
    "gpt2": Architecture("tiny/gpt2", "gpt2", "text-generation", "ORTModelForCausalLM"),
    "t5": Architecture("tiny/t5", "t5", "text2text-generation", "ORTModelForSeq2SeqLM"),
    "vit": Architecture("tiny/vit", "vit", "image-classification", "ORTModelForImageClassification"),
    "wav2vec2": Architecture("tiny/wav2vec2", "wav2vec2", "automatic-speech-recognition", "ORTModelForCTC"),
}


def run(
    *command: str | Path, cwd: Path | None = None, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a new process, with additional environment variables."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd or ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=500,
    )
    return _checked(done, check)


def _checked(done: subprocess.CompletedProcess[str], check: bool) -> subprocess.CompletedProcess[str]:
    if check and done.returncode:
        raise AssertionError(f"{done.args} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def run_python(
    code: str, *, check: bool = True, forked: bool = False, python: str | Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a new process, with a given Python or one with a user's packages.

    A forked process has PyTorch imported (see tests.support.warm).
    """
    if forked and warm.can_run(env):
        return _checked(warm.python(code, ROOT, {**os.environ, **env}), check)
    return run(python or python_of_users(), "-c", code, check=check, **env)


def optimum_cli(*arguments: str | Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the real optimum-cli of this environment in a new process; see tests.support.warm."""
    if not warm.can_run(env):
        return run(python_of_users().with_name("optimum-cli"), *arguments, check=check, **env)
    return _checked(warm.optimum_cli([str(part) for part in arguments], ROOT, {**os.environ, **env}), check)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--made-once", type=Path, metavar="DIR", help="keep the models and exports that tests share here between runs"
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Use more workers than cores: a test that waits for a process or a Hub leaves its core to others."""
    cores = os.cpu_count() or 1
    return cores + cores // 2


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False  # xdist would begin with the files that have most tests


def is_unit(item: pytest.Item) -> bool:
    """Whether a test needs no model and no process: tests of files, records, Hubs and resolving."""
    if item.path.parent.name not in UNIT or item.path.stem.removeprefix("test_") in NO_UNIT:
        return False
    return item.get_closest_marker("slow") is None and "made_once" not in getattr(item, "fixturenames", ())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        name = item.path.stem.removeprefix("test_")
        for marker, names in (("long", LONG), ("stack", OF_THE_STACK), ("no_stack", OF_NO_STACK)):
            if name in names:
                item.add_marker(marker)
        if is_unit(item):
            item.add_marker("unit")
    places = {f"test_{name}": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def _serving() -> Iterator[None]:
    with _HUB:
        yield
    _HOME.cleanup()


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """Return the Hub; restore its behavior afterwards."""
    with _HUB.given_back():
        yield _HUB


@pytest.fixture(autouse=True)
def _remembering_nothing() -> Iterator[None]:
    """Clear the caches of this process before each test."""
    yield
    if (memory := sys.modules.get("optimum_htp.caching")) is not None:
        memory.forget()
    if (deadline := sys.modules.get("optimum_htp.hubs.deadline")) is not None:
        deadline.forget_waits()


@pytest.fixture(scope="session")
def made_once(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a folder by its name; the first worker that requests it creates its content."""
    base = tmp_path_factory.getbasetemp()
    kept: Path | None = pytestconfig.getoption("--made-once")
    root = kept or (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "made-once"

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        place, done = root / name, root / f"{name}.done"
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not done.exists():
                make(place)
                done.touch()
        return place

    return folder


@pytest.fixture(scope="session")
def model_folder(made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """Return the folder of a model, built on first use."""
    from tests.support import models

    def build(name: str) -> Path:
        return models.minilm() if name == "minilm" else made_once(f"models/{name}", getattr(models, name))

    return build


@pytest.fixture(scope="session")
def published(model_folder: Callable[[str], Path]) -> Callable[[str], Architecture]:
    """Put a model on the Hub at its first use."""

    def publish(name: str) -> Architecture:
        architecture = ARCHITECTURES[name]
        if architecture.repo_id not in _HUB.repos:
            _HUB.add(
                architecture.repo_id,
                model_folder(name),
                pipeline_tag=architecture.pipeline_tag,
                library_name="transformers",
                card={"license": "mit", "language": "en"},
            )
        return architecture

    return publish


@pytest.fixture(scope="session")
def exported(published: Callable[[str], Architecture], made_once: Callable[..., Path]) -> Callable[[str], Path]:
    """Return the output folder of `optimum-cli export htp` for a model, which runs at the first use."""

    def export(name: str) -> Path:
        repo_id = published(name).repo_id
        return made_once(f"exports/{name}", lambda folder: optimum_cli("export", "htp", "--model", repo_id, folder))

    return export


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel of this package."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


@dataclass(frozen=True)
class ZooExport:
    """A model of the zoo, and the output of its export."""

    model: Path
    output: Path


@pytest.fixture(scope="session")
def zoo_export(made_once: Callable[..., Path]) -> Callable[[str], ZooExport]:
    """Return a model of the zoo and its export, made at its first use."""
    from optimum_htp import HTPExporter
    from tests.support.zoo import ZOO

    def export(name: str) -> ZooExport:
        model = made_once(f"zoo/{name}", ZOO[name].save)
        if f"zoo/{name}" not in _HUB.repos:
            _HUB.add(f"zoo/{name}", model)
        output = made_once(
            f"zoo-exports/{name}", lambda folder: HTPExporter().export(f"zoo/{name}", folder, task=ZOO[name].task)
        )
        return ZooExport(model, output)

    return export


@dataclass(frozen=True)
class TracedExport:
    """A model of one layer, and its export by transformers' own exporters, made at its first use."""

    model: Path
    export: Callable[[], Path]

    @property
    def output(self) -> Path:
        return self.export()


@pytest.fixture(scope="session")
def traced(made_once: Callable[..., Path]) -> Callable[[str], TracedExport]:
    """Return a model of one layer on the Hub, and its export."""
    from tests.support import traced

    def model(name: str) -> TracedExport:
        repo_id = f"small/{name}"
        folder = made_once(repo_id, traced.MODELS[name].save)
        if repo_id not in _HUB.repos:
            _HUB.add(repo_id, folder, pipeline_tag=traced.MODELS[name].pipeline_tag, library_name="transformers")
        make = functools.partial(traced.export, name, repo_id)
        return TracedExport(folder, lambda: made_once(f"traced/{name}", make))

    return model


@pytest.fixture
def traced_bert(traced: Callable[[str], TracedExport]) -> Path:
    """Return the folder of a classifier that transformers' own exporters wrote: one file only."""
    return traced("bert").output


@pytest.fixture
def traced_gpt2(traced: Callable[[str], TracedExport]) -> Path:
    """Return the folder of a decoder that transformers' own exporters wrote."""
    return traced("gpt2").output


@pytest.fixture(scope="session")
def plain(
    model_folder: Callable[[str], Path], published: Callable[[str], Architecture], made_once: Callable[..., Path]
) -> Callable[..., Path]:
    """Return the folder of an export by Optimum alone: its files have no record."""

    def export(name: str, **options: object) -> Path:
        from optimum.exporters.onnx import main_export

        def make(folder: Path) -> None:
            main_export(str(model_folder(name)), folder, do_validation=False, **options)
            for path in folder.iterdir():
                if path.suffix != ".onnx":
                    path.unlink()

        published(name)
        return made_once("plain/" + "-".join([name, *map(str, options.values())]), make)

    return export


@pytest.fixture
def plain_bert(plain: Callable[..., Path], tmp_path: Path) -> Path:
    """Return a copy of a file without a record, for changes."""
    return Path(shutil.copy(plain("bert", task="text-classification") / "model.onnx", tmp_path / "bert.onnx"))


@pytest.fixture
def access(tmp_path: Path) -> HubAccess:
    """An empty cache."""
    from optimum_htp.hubs import HubAccess

    return HubAccess(cache_dir=tmp_path / "cache")


@pytest.fixture
def empty_home() -> dict[str, str]:
    """Environment variables of a new user, with the same folder each time (see tests.support.warm)."""
    shutil.rmtree(_EMPTY_HOME, ignore_errors=True)
    return {"HF_HOME": str(_EMPTY_HOME)}


@pytest.fixture
def from_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore embedded files, for tests of downloads."""
    monkeypatch.setenv("OPTIMUM_HTP_RESOLVE", "adjacent,cache,mirror,hub")
