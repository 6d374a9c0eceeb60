"""Outputs never replace inputs, ONNX files that were not named, or files of other types."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from optimum_htp import HTPExporter
from optimum_htp.errors import ArgumentError, ProtectedFileError
from optimum_htp.extras.batch.jobs import Job
from optimum_htp.extras.batch.journal import JOURNAL_FILE, Journal
from optimum_htp.extras.batch.outputs import Folder
from optimum_htp.extras.batch.runs import Batch
from optimum_htp.extras.bom.bill import BILL
from optimum_htp.hubs import HubAccess
from optimum_htp.onnxfile.outputs import ONNX, check_output, refuse_same_outputs
from optimum_htp.report.write import check_report_path, write_report
from optimum_htp.stamping.manifests import MANIFEST, Manifest
from optimum_htp.stamping.originals import strip_metadata
from tests.conftest import optimum_cli


@pytest.fixture
def model(exported, tmp_path):
    """A copy of an export."""
    return shutil.copy(exported("bert") / "model.onnx", tmp_path / "a.onnx")


def refused(*arguments, keeps):
    """Run a command that must fail with one line, before any work and without a change of files."""
    before = {path: path.read_bytes() for path in keeps}
    done = optimum_cli(*arguments, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "bug" not in done.stderr
    assert {path: path.read_bytes() for path in keeps} == before
    return done.stderr


@pytest.mark.parametrize("way", ["itself", "hard link", "symlink", "spelling", "other model", "other name"])
def test_bill_does_not_replace_a_model(way, model, tmp_path):
    target = tmp_path / "target.json"
    if way == "itself":
        target = model
    elif way == "hard link":
        os.link(model, target)
    elif way == "symlink":
        target.symlink_to(model)
    elif way == "spelling":
        target = tmp_path / "." / ".." / tmp_path.name / "a.onnx"
    elif way == "other model":
        target.write_bytes(onnx.load(model).SerializeToString())
    else:
        target = tmp_path / "new.ONNX"
    keeps = [model, *([target] if target.exists() else [])]
    for force in ([], ["--force"]):
        refused("htp", "bom", model, "-o", target, *force, keeps=keeps)
    assert target.exists() == (way != "other name")


def test_documents_replace_their_own_kind_alone(model, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"bomFormat": "CycloneDX", "mine": true}')
    refused("htp", "bom", model, "-o", other, keeps=[other])
    optimum_cli("htp", "bom", model, "-o", other, "--force")
    optimum_cli("htp", "bom", model, "-o", other)
    for suffix in ("json", "md", "html"):
        target = tmp_path / f"report.{suffix}"
        target.write_text(f"# Notes\n\nThese are mine, {suffix}.\n")
        refused("htp", "report", model, "-o", target, keeps=[target])
        optimum_cli("htp", "report", model, "-o", target, "--force")
        optimum_cli("htp", "report", model, "-o", target)
        with target.open("a") as file:
            file.write("\nMy own words.\n" if suffix == "md" else "")
    refused("htp", "report", model, "-o", tmp_path / "report.md", keeps=[tmp_path / "report.md"])
    refused("htp", "bom", model, "-o", tmp_path / "report.json", keeps=[tmp_path / "report.json"])


def test_other_commands_check_before_they_work(model, tmp_path):
    notes, arrays = tmp_path / "notes.md", tmp_path / "in.npz"
    notes.write_text("mine")
    np.savez(arrays, x=np.zeros(1))
    page = tmp_path / "in.html"
    os.link(arrays, page)
    refused("htp", "compare", model, model, "-o", notes, keeps=[notes])
    refused("htp", "compare", model, model, "--inputs", arrays, "-o", page, "--force", keeps=[arrays])
    refused("htp", "profile", model, "-o", notes, keeps=[notes])
    refused("export", "htp", "--model", "tiny/bert", tmp_path / "out", "--report", notes, keeps=[notes])
    assert not (tmp_path / "out").exists()


def test_commands_that_write_onnx_replace_only_onnx(model, tmp_path):
    notes, link = tmp_path / "notes.onnx", tmp_path / "link.onnx"
    notes.write_text("not ONNX, and mine")
    os.link(model, link)
    keeps = [notes, model]
    for target in (notes, model, link):
        refused("htp", "extract", model, "--module", "bert.pooler", "-o", target, keeps=keeps)
    refused("htp", "strip", model, "--output", notes, keeps=keeps)
    refused("htp", "strip", model, "--output", link, keeps=keeps)
    refused("htp", "tag", model, "--from", link, "-o", link, keeps=keeps)
    refused("export", "htp", "--model", "tiny/bert", notes, keeps=keeps)
    optimum_cli("htp", "extract", model, "--module", "bert.pooler", "-o", tmp_path / "pooler.onnx")
    optimum_cli("htp", "extract", model, "--module", "bert.pooler", "-o", tmp_path / "pooler.onnx")
    assert strip_metadata(model, model)  # in place, as without an output


@pytest.mark.parametrize("option", ["--journal", "--manifest"])
@pytest.mark.parametrize("target", ["list", "model", "notes", "local config", "old export", "other output", "folder"])
def test_batch_does_not_destroy_anything(option, target, model, model_folder, tmp_path):
    local = shutil.copytree(model_folder("bert"), tmp_path / "local")
    names, out, notes = tmp_path / "list.txt", tmp_path / "out", tmp_path / "notes.txt"
    names.write_text(f"{local}\n")
    notes.write_text("mine\n")
    (out / "local").mkdir(parents=True)
    old = shutil.copy(model, out / "local" / "model.onnx")
    places = {
        "list": names,
        "model": model,
        "notes": notes,
        "local config": local / "config.json",
        "old export": old,
        "other output": out / "local" / "new.json",
        "folder": out,
    }
    keeps = [names, model, notes, local / "config.json", old]
    refused("htp", "batch", names, "-o", out, option, places[target], keeps=keeps)
    assert not (out / "batch.jsonl").exists()


def test_manifest_and_journal_continue_their_own_kind(exported, tmp_path):
    journal, manifest = tmp_path / "j.jsonl", tmp_path / "m.json"
    names = tmp_path / "list.txt"
    names.write_text("no/such-model\n")
    arguments = ("htp", "batch", names, "-o", tmp_path / "out", "--journal", journal, "--manifest", manifest)
    for _ in range(2):
        done = optimum_cli(*arguments, check=False)
        assert done.returncode == 1
        assert "no/such-model" in done.stdout
        assert json.loads(manifest.read_text())["models"] == []
    refused(*arguments[:5], "--manifest", journal, "--journal", tmp_path / "k.jsonl", keeps=[journal])
    refused(*arguments[:5], "--manifest", tmp_path / "x", "--journal", tmp_path / "x", keeps=[])
    refused(*arguments[:5], "--journal", manifest, keeps=[manifest])
    refused(
        "htp", "batch", "--from-manifest", manifest, "-o", tmp_path / "out", "--manifest", manifest, keeps=[manifest]
    )


def test_functions_have_the_same_protection(model, tmp_path):
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    manifest = Manifest(tmp_path, (), {})
    for call in (
        lambda: manifest.write(notes),
        lambda: manifest.write(model),
        lambda: Journal(notes),
        lambda: write_report({"files": []}, notes),
        lambda: check_report_path(notes),
        lambda: strip_metadata(model, notes),
        lambda: check_output("/dev/null", BILL),
        lambda: check_output(tmp_path, MANIFEST),
        lambda: refuse_same_outputs(tmp_path / "new.json", tmp_path / "NEW.json"),
    ):
        with pytest.raises(ProtectedFileError):
            call()
    assert issubclass(ProtectedFileError, ArgumentError)
    assert notes.read_text() == "mine"
    manifest.write(notes, force=True)
    manifest.write(notes)
    with pytest.raises(ProtectedFileError):
        check_output(notes, JOURNAL_FILE)


def test_external_data_of_an_input_is_an_input(model, tmp_path):
    onnx.save(onnx.load(model), tmp_path / "b.onnx", save_as_external_data=True, location="b.json", size_threshold=0)
    for force in (False, True):
        with pytest.raises(ProtectedFileError):
            check_output(tmp_path / "b.json", BILL, inputs=[tmp_path / "b.onnx"], force=force)
    with pytest.raises(ProtectedFileError):
        check_output(tmp_path / "b.json", ONNX, inputs=[tmp_path / "b.onnx"])
    shutil.copy(model, tmp_path / "b.json")  # external data too may be an ONNX file
    with pytest.raises(ProtectedFileError):
        strip_metadata(tmp_path / "b.onnx", tmp_path / "b.json")


@pytest.mark.parametrize("name", ["batch.jsonl", ".batch.jsonl.lock"])
def test_links_in_the_folder_of_a_batch_are_not_written_through(name, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProtectedFileError, match="through a link"):
        Batch(
            Folder(tmp_path / "out"),
            tmp_path / "out" / "batch.jsonl",
            access=HubAccess(),
            exports=ThreadPoolExecutor(1),
            downloads=ThreadPoolExecutor(1),
            ahead=1,
            export=HTPExporter().export,
        ).run([Job("tiny/bert", "bert")])
    assert (tmp_path / "elsewhere").read_text() == ""
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
