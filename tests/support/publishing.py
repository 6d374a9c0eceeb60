"""Processes that replace the model of an output folder, and the expected content."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from optimum_htp.onnxfile.replace_files import replacement_is_pending
from optimum_htp.onnxfile.staging import staging_folder
from tests.conftest import ROOT
from tests.support.publisher import PARTS

posix = pytest.mark.skipif(sys.platform == "win32", reason="kills and modes are POSIX's")
SWITCHED = sorted((*PARTS, "config.json"))
FIRST_OF_SWITCH = len(SWITCHED) + 2  # previous renames: one per staged file, and the one that begins the switch
RENAMES = FIRST_OF_SWITCH + len(SWITCHED) - 1


def publisher(*arguments):
    command = [sys.executable, "-m", "tests.support.publisher", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def listed(folder):
    return sorted(path.name for path in folder.iterdir())


def assert_tidy(output):
    assert listed(output.parent) == [output.name]
    assert listed(output) == sorted([*SWITCHED, "notes.txt"])
    assert (output / "notes.txt").read_text() == "mine"


def settle(output):
    """Clean up first, as the next run does."""
    with staging_folder(output):
        pass


def killed_switch(output, new):
    """An output folder after a kill of its publisher during the renames."""
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH + 2, "kill"))
    assert code == -signal.SIGKILL, errors
    assert replacement_is_pending(output)
