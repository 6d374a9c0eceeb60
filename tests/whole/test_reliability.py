"""A short form of each row of `make reliability`: nothing is lost."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks.reliability.__main__ import KINDS, known_sections
from benchmarks.reliability.trials import Trial, table
from tests.conftest import run

posix = pytest.mark.skipif(sys.platform == "win32", reason="processes are forked and killed by signals")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(kind):
    done = run(sys.executable, "-m", f"benchmarks.reliability.{kind}", "--quick", "--json")
    trials = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert trials
    assert [loss for trial in trials for loss in trial["lost"]] == []


def test_reliability_report_lists_losses_and_skipped_trials():
    lines = table([Trial("a", 3000, ("it is gone",)), Trial("b", 0, note="needs a disk")])
    assert lines[2:4] == ["| a | 3,000 | 1 |  |", "| b | not here |  | needs a disk |"]
    assert lines[-1] == "- it is gone"


def test_sections_of_a_report_are_found_again():
    assert known_sections("# Head\n\nText.\n\n## One\n\na\nb\n\n## Two\n\nc\n") == {"One": "a\nb", "Two": "c"}
