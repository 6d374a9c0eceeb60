"""The benchmarks run, and report slower results."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.results import Results, slower
from tests.conftest import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read as Linux reports it"),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    done = run(sys.executable, "-m", "benchmarks", "--quick", "--only", "remote", "modules", "--out", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_writes_figures_of_both_sides_and_plots(results):
    found = Results.read(results / "results.json")
    assert [section.name for section in found.sections] == ["remote", "modules"]
    assert all(row.ours > 0 and row.peer > 0 and row.low <= row.ratio <= row.high for row in found.rows().values())
    report = (results / "RESULTS.md").read_text(encoding="utf-8")
    assert all(row.name in report for row in found.rows().values())
    assert (results / "plots" / "ratios.svg").stat().st_size > 1000


def test_the_quick_form_judges_nothing(results):
    assert all(row.holds is None for row in Results.read(results / "results.json").rows().values())
    assert "targets hold" not in (results / "RESULTS.md").read_text(encoding="utf-8")


def test_slower_rows_are_named(results, tmp_path):
    content = json.loads((results / "results.json").read_text(encoding="utf-8"))
    worse = content["sections"][0]["rows"][0]
    worse |= dict.fromkeys(("ratio", "low", "high"), 3 * worse["high"])
    later = tmp_path / "later.json"
    later.write_text(json.dumps(content), encoding="utf-8")
    same = run(sys.executable, "-m", "benchmarks", "--compare", str(later), str(later))
    assert (same.returncode, same.stdout) == (0, "Nothing got slower.\n")
    done = run(sys.executable, "-m", "benchmarks", "--compare", str(results / "results.json"), str(later), check=False)
    assert done.returncode == 1
    assert [line.partition(" | ")[0] for line in done.stdout.splitlines()] == [worse["name"]]
    assert slower(Results.read(later), Results.read(results / "results.json")) == []


def test_a_failed_benchmark_reports_its_reason_and_the_others_continue(tmp_path):
    command = (sys.executable, "-m", "benchmarks", "--quick", "--only", "onnxfile", "modules", "--out", tmp_path)
    done = run(*command, check=False, PATH="")
    assert done.returncode == 1
    assert "No such file or directory: 'cp'" in done.stdout
    assert [section.name for section in Results.read(tmp_path / "results.json").sections] == ["modules"]
