"""All ways of loading give the same correct output, for each class and architecture and each place of the files.

The branch of the model's repo has changed, and the Hub is not reachable, or has only the repo of the load.
`WRITE_GUIDE=1` writes the table of the guide; otherwise it is checked.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest
import transformers

from optimum_htp.errors import OptimumHTPError
from optimum_htp.libraries.tasks import WITH_PAST
from optimum_htp.metadata import read_record
from tests.conftest import ROOT
from tests.support.layouts import LAYOUTS, NOT_THERE, REPOS, SAME, Place, Reference, onnx_files, ways
from tests.support.zoo import ZOO

QUICK = {"bert": ("file", "with configs", "repo of save_pretrained"), "bart": ("alone", "repo, in onnx/")}
GUIDE = ROOT / "docs" / "load.md"
BEGIN, END = "<!-- table of places: begin -->", "<!-- table of places: end -->"


@pytest.fixture
def row(zoo_export, made_once, hub, tmp_path):
    """Return the output of each way of loading in each place, as `{place: {way: output}}`."""

    def found(name, places):
        made = zoo_export(name)
        record = read_record(onnx_files(made.output)[0])
        task = str(record.task).removesuffix(WITH_PAST)
        reference = Reference(ZOO[name], made.model, record.preprocessors, task)
        answers = {}
        for index, layout in enumerate(places):
            kind, prefix, options = REPOS.get(layout, (layout, "", {}))
            folder = tmp_path / str(index)
            place = LAYOUTS[kind](made.output, ZOO[name], made.model, folder)
            if place is None:
                answers[layout] = None
                continue
            if layout in REPOS:
                files = {f"{prefix}{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}
                hub.add(f"shipped/{name}", files)
                place = Place(f"shipped/{name}", options)
            answers[layout] = _answers(place, reference, tmp_path / f"cache-{index}", hub, name, layout in REPOS)
            shutil.rmtree(folder)
        return answers

    return found


def _answers(place, reference, cache, hub, name, is_repo):
    before, status = hub.repos.pop(f"zoo/{name}"), hub.status
    hub.status = None if is_repo else 503
    answers = {}
    try:
        for way, check in ways(place, reference, cache):
            try:
                answers[way] = SAME if check() else "WRONG"
            except OptimumHTPError as error:
                answers[way] = type(error).__name__
            except Exception as error:  # noqa: BLE001 - the table has the kind of error
                answers[way] = f"UNTYPED {type(error).__name__}: {error}"
    finally:
        hub.repos[f"zoo/{name}"], hub.status = before, status
    return answers


def wrong(answers):
    return {
        (place, way): answer
        for place, ways in answers.items()
        for way, answer in (ways or {}).items()
        if answer == "WRONG" or answer.startswith("UNTYPED")
    }


@pytest.mark.parametrize("name", QUICK)
def test_some_places_match_pytorch(name, row):
    answers = row(name, QUICK[name])
    assert wrong(answers) == {}
    assert all(set(ways.values()) == {SAME} for ways in answers.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_all_places_match_pytorch(name, row, made_once):
    answers = row(name, [*LAYOUTS, *REPOS])
    assert wrong(answers) == {}

    def write(folder):
        folder.mkdir(parents=True)
        (folder / "row.json").write_text(json.dumps(answers))

    made_once(f"matrix/{name}", write)


@pytest.mark.slow
@pytest.mark.skipif(int(transformers.__version__.split(".")[0]) > 4, reason="the guide has what transformers 4 gives")
def test_guide_has_the_table(made_once):
    def missing(folder):
        pytest.skip("a row is missing: run the whole file")

    rows = {name: json.loads((made_once(f"matrix/{name}", missing) / "row.json").read_text()) for name in ZOO}
    before, _, rest = GUIDE.read_text().partition(BEGIN)
    written, _, after = rest.partition(END)
    table = "\n".join(_table(rows))
    if os.environ.get("WRITE_GUIDE"):
        GUIDE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")
    else:
        assert written.strip() == table


def _table(rows):
    places = [*LAYOUTS, *REPOS]
    yield f"| model, class | {' | '.join(places)} |"
    yield f"| --- |{' --- |' * len(places)}"
    for name, answers in rows.items():
        cells = [_cell(answers[place]) for place in places]
        yield f"| {name}, `{ZOO[name].ort_class.removeprefix('ORTModelFor')}` | {' | '.join(cells)} |"


def _cell(ways):
    if ways is None:
        return NOT_THERE
    others = sorted({f"`{answer}`" for answer in ways.values() if answer != SAME})
    return "; ".join(others) or SAME
