"""Replacement of a file: complete, only of the file that was read, with its attributes, and without remains."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time

import onnx
import pytest

from optimum_htp.errors import FileChangedError, InvalidOnnxFileError
from optimum_htp.onnxfile import (
    OpenModel,
    read_metadata,
    replaced_atomically,
    rewrite_model,
)
from optimum_htp.stamping.tag import tag_file
from tests.conftest import run_python
from tests.support.replacing import POSIX, names_in, save


def test_file_that_was_replaced_while_it_was_read_is_not_written(file):
    other = save(file.with_name("other.onnx"), scopes=("c", "d", "e")).read_bytes()
    with OpenModel.at(file) as model:
        assert len(model.graph.nodes) == 2
        file.with_name("other.onnx").replace(file)
        with pytest.raises(FileChangedError, match=r"replaced or changed .*model\.onnx"):
            model.rewrite(metadata={"k": "v"})
    assert file.read_bytes() == other
    assert names_in(file.parent) == ["model.onnx"]


def test_file_replaced_during_a_rewrite_is_kept(file):
    other = save(file.with_name("other.onnx"), scopes=("c",)).read_bytes()

    def visit(known):
        if (new := file.with_name("other.onnx")).exists():
            new.replace(file)
        return {**known, "k": "v"}

    with pytest.raises(FileChangedError):
        rewrite_model(file, nodes=visit)
    assert file.read_bytes() == other


@pytest.mark.parametrize("change", ["truncate", "append"])
def test_file_changed_in_place_during_reading_is_rejected(tmp_path, change):
    file = save(tmp_path / "model.onnx", scopes=[f"m{i}" for i in range(20_000)])
    turns = iter(range(10**6))

    def visit(known):
        if next(turns) == 3:
            if change == "truncate":
                os.truncate(file, 5000)
            else:
                with file.open("ab") as stream:
                    stream.write(b"\0" * 100)
        return {**known, "k": "v"}

    with pytest.raises((FileChangedError, InvalidOnnxFileError), match=r"model\.onnx"):
        rewrite_model(file, nodes=visit)


def test_tags_are_those_of_the_file_that_was_read(tmp_path):
    """Another thread keeps replacing the file by one with other modules; each result has the tags of one of both."""
    scopes = {"one": ["a", "b"], "two": ["c", "d", "e"]}
    sources = {name: save(tmp_path / f"{name}.onnx", scopes[name]).read_bytes() for name in scopes}
    path, stop = tmp_path / "model.onnx", threading.Event()
    path.write_bytes(sources["one"])

    def exchange():
        while not stop.is_set():
            with replaced_atomically(path) as stream:
                stream.write(random.choice(list(sources.values())))

    thread = threading.Thread(target=exchange)
    thread.start()
    tagged = 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            assignment = tag_file(path, output=tmp_path / "out.onnx")
            tag_file(path)
        except FileChangedError:
            continue
        finally:
            nodes = onnx.load(path).graph.node
            for node in nodes:
                known = {entry.key: entry.value for entry in node.metadata_props}
                assert known.get("htp.module") in (None, node.name.split("/")[1])
        assert sorted(assignment.modules) in scopes.values()
        tagged += 1
    stop.set()
    thread.join()


@POSIX
def test_killed_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    file = save(tmp_path / "model.onnx", megabytes=48, k="old")
    before = file.read_bytes()
    code = f"""
import sys
from optimum_htp.onnxfile import rewrite_model
print("ready", flush=True)
while True:
    rewrite_model({str(file)!r}, metadata={{"k": "new"}})
"""
    for attempt in range(8):
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(random.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert read_metadata(file)["k"] in ("old", "new"), attempt
        assert file.stat().st_size == len(before)
        rewrite_model(file, metadata={"k": "new"})  # the next run removes files that a kill during the renaming left
        assert names_in(tmp_path) == ["model.onnx"]


@POSIX
def test_leftovers_of_ended_processes_only_are_removed(file):
    import fcntl

    left, written = (file.with_name(f".model.onnx.{digit * 12}.tmp") for digit in "ab")
    foreign = file.with_name(".model.onnx.tmp")
    for path in (left, written, foreign):
        path.write_bytes(b"half")
    with written.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        rewrite_model(file, metadata={"k": "v"})
    assert names_in(file.parent) == sorted([written.name, foreign.name, "model.onnx"])


def test_names_of_any_length_that_a_filesystem_allows_are_rewritten(tmp_path):
    for name in ("模" * 79 + ".onnx", "x" * 250 + ".onnx", "é" * 125 + ".onnx"):
        file = save(tmp_path / name)
        rewrite_model(file, metadata={"k": "v"})
        assert read_metadata(file)["k"] == "v"
    assert len(names_in(tmp_path)) == 3


def test_tags_from_names_are_equal_in_every_process(tmp_path):
    """Scopes of second calls (`b_1`) come before or after those of the first in a set, at random."""
    scopes = [f"{outer}/{inner}{call}" for outer in "abcdef" for inner in "xyz" for call in ("", "_1", "_2")]
    results = set()
    for seed in range(4):
        path = save(tmp_path / f"{seed}.onnx", scopes)
        code = f"from optimum_htp import tag_file; print(tag_file({str(path)!r}).modules)"
        results.add(run_python(code, PYTHONHASHSEED=str(seed)).stdout)
    assert len(results) == 1
