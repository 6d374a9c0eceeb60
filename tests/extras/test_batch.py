"""Batches: each model in a new process, each exported once, also after kills."""

from __future__ import annotations

import json
import multiprocessing.util
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnx
import psutil
import pytest
from filelock import FileLock

from optimum_htp import HFHubConfigLoader, HTPExporter
from optimum_htp.errors import OutputError
from optimum_htp.extras.batch.jobs import Job, State
from optimum_htp.extras.batch.outputs import Folder
from optimum_htp.extras.batch.processes import ProcessExecutor, call_in_child
from optimum_htp.extras.batch.runs import Batch
from optimum_htp.extras.batch.work import JobResult, written_names
from optimum_htp.hubs import HubAccess
from optimum_htp.stamping.manifests import WrittenFile
from optimum_htp.version import __version__
from tests.conftest import run
from tests.support.batches import CLI, batch, journal


@pytest.fixture
def models(published, hub):
    names = [published(name).repo_id for name in ("bert", "gpt2", "vit")]
    return names


def test_every_model_of_a_list_is_exported_and_a_second_run_does_nothing(models, hub, tmp_path, empty_home):
    listed = tmp_path / "models.txt"
    listed.write_text("# ours\n" + "\n".join(models[:2]) + f'\n{{"model": "{models[2]}", "output": "images"}}\n\n')
    first = batch(listed, "-o", tmp_path / "out", "--jobs", "2", **empty_home)
    assert {name: model["state"] for name, model in first.items()} == {
        "tiny/bert": "done",
        "tiny/gpt2": "done",
        "images": "done",
    }
    for name, model in first.items():
        for file in model["files"]:
            assert (tmp_path / "out" / name / file["name"]).stat().st_size == file["size"]
        assert (
            HFHubConfigLoader().extract_metadata(tmp_path / "out" / name / "model.onnx")["hf_hub_sha"]
            == model["commit"]
        )
        assert model["seconds"] > 0
        assert model["peak_memory"] > 1e8
    with hub.recorded() as requests:
        second = batch(listed, "-o", tmp_path / "out", **empty_home)
    assert {model["state"] for model in second.values()} == {"up_to_date"}
    assert len(requests) <= 2 * len(models)
    assert sum(entry["event"] == "end" for entry in journal(tmp_path / "out")) == 3


@pytest.fixture
def named_like_libraries(tmp_path):
    """A folder of modules with names of libraries, and the mark that each writes at its import."""
    folder, mark = tmp_path / "here", tmp_path / "mark"
    folder.mkdir()
    for name in ("torch", "psutil", "threading", "pickle", "socket", "struct", "multiprocessing", "transformers"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\nraise ImportError\n")
    return folder, mark


def test_files_in_the_current_folder_are_not_imported(models, named_like_libraries, tmp_path, empty_home):
    folder, mark = named_like_libraries
    (folder / "models.txt").write_text(models[0])
    done = run(CLI, "htp", "batch", "models.txt", "-o", "out", "--json", cwd=folder, **empty_home)
    assert [model["state"] for model in json.loads(done.stdout)["models"]] == ["done"]
    run(CLI, "export", "htp", "--model", models[0], "single", cwd=folder, **empty_home)
    assert (folder / "single" / "model.onnx").is_file()
    assert not mark.exists()


def test_calls_of_a_worker_import_nothing_from_its_folder(named_like_libraries, monkeypatch):
    folder, mark = named_like_libraries
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = {"PYTHONPATH": "/somewhere", "PYTHONSAFEPATH": None}
    for name, value in environment.items():
        assert call_in_child(os.getenv, (name,), __version__, 60, None) == (value, None)
    assert call_in_child(os.getcwd, (), __version__, 60, None) == (str(folder), None)
    with ProcessExecutor(1) as processes:
        assert processes.submit(os.getcwd).result() == str(folder)
    assert multiprocessing.util._args_from_interpreter_flags is subprocess._args_from_interpreter_flags
    assert not mark.exists()


@pytest.mark.slow
def test_model_that_fails_stops_no_other_and_is_tried_again_when_asked(models, hub, tmp_path, empty_home):
    listed = tmp_path / "models.txt"
    listed.write_text("tiny/missing\ntiny/bert\n")
    first = batch(listed, "-o", tmp_path / "out", check=False, **empty_home)
    assert first["tiny/bert"]["state"] == "done"
    assert first["tiny/missing"]["error"] == "ModelNotFoundError"
    hub.add("tiny/missing", {"config.json": b"{}"})
    again = batch(listed, "-o", tmp_path / "out", check=False, **empty_home)
    assert "--retry-failed" in again["tiny/missing"]["message"]
    tried = batch(listed, "-o", tmp_path / "out", "--retry-failed", check=False, **empty_home)
    assert tried["tiny/missing"]["state"] == "failed"
    assert tried["tiny/missing"]["error"] != "ModelNotFoundError"
    assert tried["tiny/bert"]["state"] == "up_to_date"


@pytest.mark.slow
def test_limits_end_an_export_and_say_how_to_raise_them(models, tmp_path, empty_home):
    listed = tmp_path / "models.txt"
    listed.write_text("tiny/bert\n")
    slow = batch(listed, "-o", tmp_path / "out", "--timeout", "0.05", check=False, **empty_home)
    assert slow["tiny/bert"]["error"] == "JobTimeoutError"
    assert "--timeout" in slow["tiny/bert"]["message"]
    large = batch(listed, "-o", tmp_path / "out", "--memory", "50MB", "--retry-failed", check=False, **empty_home)
    assert large["tiny/bert"]["error"] == "JobMemoryError"
    assert "--memory" in large["tiny/bert"]["message"]
    assert not list((tmp_path / "out").rglob("*.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "child"])
def test_killed_batch_is_finished_by_the_next(models, tmp_path, empty_home, victim):
    listed, out = tmp_path / "models.txt", tmp_path / "out"
    listed.write_text("\n".join(models))
    process = subprocess.Popen(
        [CLI, "htp", "batch", listed, "-o", out, "--jobs", "1"],
        env={**os.environ, **empty_home},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    children = _wait_for_export(process, out)
    if victim == "parent":
        process.kill()
    else:
        for child in children:
            child.kill()
    process.wait(300)
    psutil.wait_procs(children, 10)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    done = batch(listed, "-o", out, **empty_home)
    assert {model["state"] for model in done.values()} <= {"done", "up_to_date"}
    ends = [entry["output"] for entry in journal(out) if entry.get("state") == "done"]
    assert sorted(ends) == sorted(models)
    for name in models:
        assert HFHubConfigLoader().extract_metadata(out / name / "model.onnx")["hf_hub_id"] == name
    assert not list(out.rglob(".optimum-htp-*"))


def _wait_for_export(process, out):
    """Wait until an export runs; return its processes."""
    server = psutil.Process(process.pid)
    for _ in range(1200):
        if (out / "batch.jsonl").exists() and list(out.rglob(".optimum-htp-*")):
            return [child for child in server.children(recursive=True) if _exports(child)]
        time.sleep(0.05)
    raise AssertionError("no export was begun")


def _exports(process):
    """Whether a process is not a server: servers have children, or track resources."""
    return not process.children() and "resource_tracker" not in " ".join(process.cmdline())


@pytest.mark.slow
def test_model_that_cannot_be_looked_up_keeps_its_export(models, hub, tmp_path, empty_home):
    listed, out = tmp_path / "models.txt", tmp_path / "out"
    listed.write_text("tiny/bert\n")
    batch(listed, "-o", out, **empty_home)
    hub.repos["tiny/bert"].private = True  # as with an expired token
    away = batch(listed, "-o", out, check=False, **empty_home)
    assert away["tiny/bert"]["state"] == "failed"
    assert "of an earlier run is unchanged" in away["tiny/bert"]["message"]
    hub.repos["tiny/bert"].private = False
    assert batch(listed, "-o", out, **empty_home)["tiny/bert"]["state"] == "up_to_date"


@pytest.mark.slow
def test_parts_of_a_pipeline_are_recorded_with_their_folders(hub, model_folder, tmp_path, empty_home):
    pytest.importorskip("diffusers")
    cli = Path(sys.executable).with_name("optimum-cli")  # which has that
    hub.add("tiny/diffusion", model_folder("stable_diffusion"), pipeline_tag="text-to-image", library_name="diffusers")
    (tmp_path / "models.txt").write_text("tiny/diffusion\n")
    done = batch(tmp_path / "models.txt", "-o", tmp_path / "out", cli=cli, **empty_home)["tiny/diffusion"]
    assert done["state"] == "done"
    parts = ("text_encoder", "unet", "vae_decoder", "vae_encoder")
    assert [file["name"] for file in done["files"]] == [f"{part}/model.onnx" for part in parts]
    again = batch(tmp_path / "models.txt", "-o", tmp_path / "out", cli=cli, **empty_home)["tiny/diffusion"]
    assert (again["state"], again["files"]) == ("up_to_date", done["files"])


def test_data_of_a_part_is_recorded_relative_to_the_export(exported, tmp_path):
    part = tmp_path / "unet" / "model.onnx"
    part.parent.mkdir()
    model = onnx.load(exported("bert") / "model.onnx")
    onnx.save(model, part, save_as_external_data=True, location="model.onnx_data")
    assert list(written_names(tmp_path, [part])) == ["unet/model.onnx", "unet/model.onnx_data"]


def test_output_that_would_shadow_a_model_name_is_rejected(models, tmp_path, empty_home):
    for name, out in (("tiny/bert", "."), ("tiny", "tiny"), ("tiny/bert", "../here")):
        (tmp_path / "here").mkdir(exist_ok=True)
        (tmp_path / "here" / "models.txt").write_text(name)
        done = run(CLI, "htp", "batch", "models.txt", "-o", out, check=False, cwd=tmp_path / "here", **empty_home)
        assert done.returncode == 1
        assert f"the next run would use it as the model {name!r}" in done.stderr
        assert [path.name for path in (tmp_path / "here").iterdir()] == ["models.txt"]


def test_export_that_another_disk_has_is_no_success(tmp_path):
    class OtherDisk(ThreadPoolExecutor):
        """Export to a place that this machine does not read."""

        def submit(self, fn, job, output, access, export):
            return super().submit(
                JobResult, state=State.DONE, commit="1" * 40, files=(WrittenFile("model.onnx", 1, "0"),)
            )

    with OtherDisk(1) as exports, ThreadPoolExecutor(1) as downloads:
        outcomes = Batch(
            Folder(tmp_path / "out"),
            tmp_path / "out" / "batch.jsonl",
            access=HubAccess(),
            exports=exports,
            downloads=downloads,
            ahead=1,
            export=HTPExporter().export,
            fetch=lambda job, access, exported: JobResult(state=State.FOUND, commit="1" * 40),
        ).run([Job("org/name", "org/name")])
    assert outcomes["org/name"].error == "OutputError"
    assert str(tmp_path / "out" / "org" / "name" / "model.onnx") in outcomes["org/name"].message


@pytest.mark.skipif(os.name == "nt", reason="Windows permits no links by default")
@pytest.mark.parametrize("link", ["org", "org/model"])
def test_link_that_leads_out_of_a_batchs_folder_is_not_written_through(tmp_path, link):
    (tmp_path / "elsewhere").mkdir()
    place = tmp_path / "out" / link
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with (
        pytest.raises(OutputError, match="leads out of"),
        Folder(tmp_path / "out").being_filled(Job("org/model", "org/model")),
    ):
        pass
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_batch_slows_down_where_the_hub_limits_it(hub, tmp_path, monkeypatch):
    """Each single model would fail: its wait is longer than its time limit."""
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1.5")
    names = [f"limited/model-{number}" for number in range(20)]
    for name in names:
        hub.add(name, {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights"})

    class Exports(ThreadPoolExecutor):
        def submit(self, fn, job, output, access, export):
            return super().submit(JobResult, state=State.FAILED, error="not exported")

    hub.quota = (30, 4.0)
    with Exports(1) as exports, ThreadPoolExecutor(4) as downloads:
        outcomes = Batch(
            Folder(tmp_path / "out"),
            tmp_path / "out" / "batch.jsonl",
            access=HubAccess(cache_dir=tmp_path / "cache"),
            exports=exports,
            downloads=downloads,
            ahead=4,
            export=HTPExporter().export,
        ).run([Job(name, name) for name in names])
    assert {outcome.error for outcome in outcomes.values()} == {"not exported"}


@pytest.mark.parametrize("source", [("--author", "listed"), ("--collection", "listed/both")], ids=" ".join)
def test_batch_waits_for_its_list_where_the_hub_limits_it(hub, tmp_path, empty_home, source):
    for name in ("listed/one", "listed/two"):
        hub.add(name, {"README.md": b"no model"})
    hub.collections["listed/both"] = [("model", "listed/one"), ("model", "listed/two")]
    asked = []

    def busy_at_first(method, path, status, body, headers):
        if path.startswith(("/api/models?", "/api/collections/")):
            asked.append(path)
            if len(asked) == 1:
                return 429, b"{}", {"RateLimit": '"api";r=0;t=4'}
        return status, body, headers

    hub.tamper = busy_at_first
    reported = batch(*source, "-o", tmp_path / "out", check=False, OPTIMUM_HTP_TIMEOUT="2", **empty_home)
    assert {*reported} == {"listed/one", "listed/two"}
    assert len(asked) == 2


def test_two_batches_do_not_write_to_one_folder(models, tmp_path, empty_home):
    listed, out = tmp_path / "models.txt", tmp_path / "out"
    listed.write_text("tiny/bert\n")
    out.mkdir()
    with FileLock(out / ".batch.jsonl.lock"):
        done = run(CLI, "htp", "batch", listed, "-o", out, check=False, **empty_home)
    assert done.returncode == 1
    assert done.stderr.startswith("error: Another batch writes")


@pytest.mark.slow
def test_interrupted_batch_reports_finished_models(models, tmp_path, empty_home):
    listed, out = tmp_path / "models.txt", tmp_path / "out"
    listed.write_text("\n".join(models))
    process = subprocess.Popen(
        [CLI, "htp", "batch", listed, "-o", out, "--jobs", "1", "--json"],
        env={**os.environ, **empty_home},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for _ in range(1200):
        if (out / "batch.jsonl").exists() and any(entry.get("state") == "done" for entry in journal(out)):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    document = json.loads(process.communicate(timeout=120)[0])
    assert process.returncode == 130
    assert document["interrupted"] is True
    assert 1 <= len(document["models"]) < len(models)
    assert document["models"][0]["state"] == "done"
