"""Concurrent writers of one file: threads, processes and forked children lose nothing, and no lock remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from optimum_htp.errors import FileChangedError
from optimum_htp.onnxfile import (
    read_metadata,
    rewrite_model,
)
from optimum_htp.onnxfile.folder_lock import folder_lock, locked_for_replacing
from tests.conftest import run_python
from tests.support.replacing import names_in, save, writers


@pytest.mark.parametrize(
    ("calls", "keys"),
    [
        (["rewrite_model(path, metadata={'a': '1'})", "rewrite_model(path, metadata={'b': '1'})"], ["a", "b"]),
        (["tag_file(path)", "rewrite_model(path, metadata={'b': '1'})"], ["htp.modules", "b"]),
        (["strip_metadata(path)", "rewrite_model(path, metadata={'b': '1'})"], ["b"]),
    ],
    ids=["keys", "tags", "strip"],
)
def test_of_two_writers_that_read_the_same_file_only_one_reports_success(tmp_path, calls, keys):
    crowd = writers(calls)
    assert [process.stdout.readline() for process in crowd] == ["ready\n"] * 2
    both = lost = 0
    for number in range(80):
        path = save(tmp_path / f"{number}.onnx", hf_model_type="local")
        for process in crowd:
            process.stdin.write(f"{path}\n")
        results = [process.stdout.readline() for process in crowd]
        assert {*results} <= {"done\n", "changed\n"}
        if results == ["done\n", "done\n"]:
            both += 1
            lost += not read_metadata(path).keys() >= {*keys}
    for process in crowd:
        process.communicate()
    assert (lost, both < 80) == (0, True)
    assert names_in(tmp_path) == sorted(f"{number}.onnx" for number in range(80))


def test_threads_that_write_one_file_lose_nothing(file):
    done = []

    def write(number):
        for turn in range(10):
            with suppress(FileChangedError):
                rewrite_model(file, metadata={f"{number}.{turn}": "v"})
                done.append(f"{number}.{turn}")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_metadata(file).keys() == {*done}


FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@FORK
@pytest.mark.parametrize(
    "locked",
    [
        "folder_lock(folder)",
        "locked_for_replacing(folder / 'model.onnx')",
        "replaced_atomically(folder / 'model.onnx')",
    ],
)
@pytest.mark.parametrize("end", ["left", "killed"])
def test_forked_child_does_not_keep_a_lock(file, locked, end):
    """A child that was forked while its parent held a lock continues, and the lock is free for others."""
    code = f"""
import os, signal, threading, time
from pathlib import Path
from optimum_htp.onnxfile import replaced_atomically
from optimum_htp.onnxfile.folder_lock import folder_lock, locked_for_replacing
folder = Path({str(file.parent)!r})
def fork():
    if not os.fork():
        time.sleep(60)
        os._exit(0)
with {locked}:
    thread = threading.Thread(target=fork); thread.start(); thread.join()
    if {end == "killed"}:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        process.wait(30)
        with folder_lock(file.parent, timeout=3), locked_for_replacing(file, timeout=3):
            pass
    finally:
        os.killpg(process.pid, signal.SIGKILL)


@FORK
def test_forked_child_that_leaves_the_block_does_not_release_its_parents_lock(tmp_path):
    code = f"""
import os
from pathlib import Path
from optimum_htp.onnxfile.folder_lock import folder_lock
folder = Path({str(tmp_path)!r})
with folder_lock(folder):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        try:
            with folder_lock(folder, timeout=0): print("free", flush=True)
        except TimeoutError:
            print("held", flush=True)
"""
    assert run_python(code).stdout == "held\n"
