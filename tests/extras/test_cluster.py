"""Batches on a Dask cluster: a real scheduler and workers over TCP, and moto's server for S3 over HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from optimum_htp.errors import ArgumentError, ClusterError, JobLostError, JobTimeoutError, OutputError
from optimum_htp.extras.batch.cluster import ClusterExecutor
from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.batch.outputs import MARKER, Location, output_at
from optimum_htp.version import __version__
from tests.conftest import run
from tests.support.batches import CLI, batch
from tests.support.installed import Environment
from tests.support.s3 import SECRET, serving_bucket

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are killed by signals")


@pytest.fixture(scope="module")
def s3():
    with serving_bucket("exports"):
        yield "s3://exports/batch"


class Cluster:
    """A scheduler and its workers."""

    def __init__(self, folder: Path) -> None:
        self.file, self.processes = folder / "scheduler.json", []
        self.scheduler = self._start(
            sys.executable, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
            "--scheduler-file", self.file,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        self.address = json.loads(self.file.read_text())["address"]

    def worker(self, python: str | Path = sys.executable, **env: str) -> subprocess.Popen[bytes]:
        return self._start(
            python, "worker", self.address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "20",
            **env,
        )  # fmt: skip

    def _start(self, python: str | Path, *arguments: object, **env: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [str(python), "-m", "dask", *map(str, arguments)],
            cwd=self.file.parent,  # a worker uses installed packages, not the current folder
            env={**os.environ, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.end()


@contextmanager
def executor(cluster, workers, **limits):
    """Return an executor after the given number of workers has connected."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
    calls = ClusterExecutor(cluster.address, **limits)
    try:
        yield calls
    finally:
        calls.shutdown(wait=False, cancel_futures=True)


def s3_client():
    import boto3  # takes a second

    return boto3.client("s3")


def keys():
    found = s3_client().list_objects_v2(Bucket="exports").get("Contents", [])
    return {entry["Key"]: entry["Size"] for entry in found}


@pytest.mark.slow
def test_batch_on_a_cluster_survives_a_killed_worker_and_is_done_once(cluster, s3, published, tmp_path, empty_home):
    names = [published(name).repo_id for name in ("bert", "gpt2", "vit")]
    listed, out, kept = tmp_path / "models.txt", f"{s3}/killed", tmp_path / "kept.jsonl"
    listed.write_text("\n".join(names))
    homes = [{"HF_HOME": str(tmp_path / f"home-{index}")} for index in range(2)]
    workers = [cluster.worker(**home) for home in homes]
    with executor(cluster, 2):
        pass
    command = [CLI, "htp", "batch", listed, "-o", out, "--dask", cluster.address, "--journal", kept, "--json"]
    caller = subprocess.Popen(
        [str(part) for part in command], env={**os.environ, **empty_home}, stdout=subprocess.PIPE, text=True
    )
    _until(lambda: psutil.Process(workers[0].pid).children(recursive=True))
    children = psutil.Process(workers[0].pid).children(recursive=True)
    workers[0].kill()
    reported, _ = caller.communicate(timeout=300)
    assert caller.returncode == 0, reported
    states = {model["output"]: model["state"] for model in json.loads(reported)["models"]}
    assert states == dict.fromkeys(names, "done")
    stored = {key.removeprefix("batch/killed/"): size for key, size in keys().items() if "/killed/" in key}
    assert {f"{name}/model.onnx" for name in names} <= stored.keys()
    assert {f"{name}/{MARKER}" for name in names} <= stored.keys()
    _, gone = psutil.wait_procs(children, 20)
    assert all(child.status() == psutil.STATUS_ZOMBIE for child in gone), "the killed worker's export went on"
    for place in (kept.read_text(), reported):
        assert SECRET not in place

    again = batch(listed, "-o", out, "--dask", cluster.address, "--journal", tmp_path / "new.jsonl", **empty_home)
    assert {model["state"] for model in again.values()} == {"up_to_date"}  # from another machine, with another journal
    s3_client().delete_object(Bucket="exports", Key="batch/killed/tiny/gpt2/model.onnx")
    torn = batch(listed, "-o", out, "--dask", cluster.file, "--journal", kept, **empty_home)
    assert {name: model["state"] for name, model in torn.items()} == {
        **dict.fromkeys(names, "up_to_date"),
        "tiny/gpt2": "done",
    }


@pytest.mark.slow
def test_paths_of_a_batch_are_those_of_who_began_it(cluster, model_folder, tmp_path, empty_home):
    here = tmp_path / "here"
    shutil.copytree(model_folder("bert"), here / "my-model")
    (here / "models.txt").write_text("./my-model\n")
    cluster.worker(**empty_home)  # in another folder
    with executor(cluster, 1):
        pass
    command = (CLI, "htp", "batch", "models.txt", "-o", "out", "--dask", cluster.address, "--json")
    done = json.loads(run(*command, cwd=here, **empty_home).stdout)["models"]
    assert [model["state"] for model in done] == ["done"]
    assert (here / "out" / "my-model" / "model.onnx").is_file()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_lost_scheduler_is_reported_and_the_next_run_finishes(cluster, published, tmp_path, empty_home):
    listed, out = tmp_path / "models.txt", tmp_path / "out"
    listed.write_text(published("bert").repo_id)
    worker = cluster.worker(**empty_home)
    with executor(cluster, 1):
        pass
    command = [CLI, "htp", "batch", listed, "-o", out, "--dask", cluster.address]
    caller = subprocess.Popen(
        [str(part) for part in command], env={**os.environ, **empty_home}, stdout=subprocess.PIPE, text=True
    )
    _until(lambda: psutil.Process(worker.pid).children(recursive=True))
    cluster.scheduler.kill()
    reported, _ = caller.communicate(timeout=120)
    assert caller.returncode == 1
    assert "JobLostError" in reported
    assert "Run the batch again" in reported.replace("run the batch again", "Run the batch again")
    done = batch(listed, "-o", out, **empty_home)
    assert done["tiny/bert"]["state"] in ("done", "up_to_date")


@pytest.mark.slow
def test_limits_and_errors_of_calls_come_back(cluster):
    cluster.worker()
    with executor(cluster, 1, timeout=1) as calls:
        assert calls.slots == 1
        with pytest.raises(JobTimeoutError, match="--timeout"):
            calls.submit(time.sleep, 60).result(120)
    with executor(cluster, 1) as calls:
        futures = [calls.submit(*call) for call in ((int, "x"), (os.path.basename, "a/b"), (_killed,))]
        with pytest.raises(ValueError, match="invalid literal"):
            futures[0].result(120)
        assert futures[1].result(120) == "b"
        with pytest.raises(JobLostError, match="ended by SIGKILL"):
            futures[2].result(120)


def _killed():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_workers_without_the_package_or_with_another_version_are_named(cluster, wheel, tmp_path):
    bare = Environment(tmp_path / "bare")
    other = Environment(tmp_path / "other")
    other.install(wheel)
    installed = next(other.site_packages.glob("optimum_htp-*.dist-info/METADATA"))
    installed.write_text(re.sub(r"(?m)^Version: .*$", "Version: 0.0.1", installed.read_text()))
    module = other.site_packages / "optimum_htp" / "version.py"  # earlier Dask versions call the module
    module.write_text(module.read_text().replace(__version__, "0.0.1"))
    for environment, reported in ((bare, "has no optimum-htp"), (other, "has optimum-htp 0.0.1")):
        worker = cluster.worker(environment.python)
        with pytest.raises(ClusterError, match=reported) as caught, executor(cluster, 1):
            pass
        assert f"pip install optimum-htp=={__version__}" in str(caught.value)
        worker.terminate()  # it signs off; the scheduler may notice a killed worker too late
        worker.wait()


@pytest.mark.slow
def test_unreachable_cluster_is_named(tmp_path):
    (tmp_path / "models.txt").write_text("tiny/bert")
    done = run(
        *(CLI, "htp", "batch", tmp_path / "models.txt", "-o", tmp_path / "out", "--dask", "tcp://127.0.0.1:9"),
        check=False,
    )
    assert done.returncode == 1
    assert "No Dask scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_location_lists_complete_exports(s3, tmp_path):
    place, job = output_at(f"{s3}/unit"), Job("org/name", "org/name")
    assert isinstance(place, Location)
    (tmp_path / "sub").mkdir()
    (tmp_path / "model.onnx").write_bytes(b"abc")
    (tmp_path / "sub" / "config.json").write_bytes(b"{}")
    entry = {"state": "done", "commit": "1" * 40, "files": [{"name": "model.onnx", "size": 3, "sha256": "x"}]}
    assert place.standing(job, entry) is None
    place.publish(job, tmp_path, entry)
    assert place.standing(job, {}) == entry
    assert not place.is_unchanged(job, entry)
    digest = hashlib.sha256(b"abc").hexdigest()
    assert place.is_unchanged(job, {"files": [{"name": "model.onnx", "size": 3, "sha256": digest}]})
    client = s3_client()
    client.put_object(Bucket="exports", Key="batch/unit/org/name/model.onnx", Body=b"abcd")
    assert place.standing(job, entry) is None
    client.put_object(Bucket="exports", Key=f"batch/unit/org/name/{MARKER}", Body=b"[" * 9000)
    assert place.standing(job, entry) is None


def test_invalid_outputs_are_rejected(s3, tmp_path):
    with pytest.raises(ArgumentError, match="lost when the process ends"):
        output_at("memory://x")
    with pytest.raises(OutputError, match="no-such-protocol"):
        output_at("no-such-protocol://x")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.onnx").write_bytes(b"abc")
    with pytest.raises(OutputError, match="s3://none"):
        output_at("s3://none/x").publish(Job("a", "a"), tmp_path / "export", {})
    assert output_at(f"file://{tmp_path}").root == tmp_path
    (tmp_path / "models.txt").write_text("tiny/bert")
    done = run(
        *(CLI, "htp", "batch", tmp_path / "models.txt", "-o", f"{s3}/x", "--manifest", tmp_path / "m.json"),
        check=False,
    )
    assert "--manifest requires a local output folder" in done.stderr


def _until(there):
    deadline = time.monotonic() + 120
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "address",
    ["localhost:1", "127.0.0.1:1", "missing.json", "tcp://10.255.255.1:8786", "tcp://no-port", "bad.json"],
)
def test_wrong_address_of_a_scheduler_is_an_error(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.json").write_text('{"address": ')
    with pytest.raises(ClusterError, match="No Dask scheduler answers at"):
        ClusterExecutor(address)
