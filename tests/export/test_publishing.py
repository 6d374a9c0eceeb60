"""Replacement of the model in an output folder: kills, interrupts, refusals, and concurrent exports."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest

from optimum_htp.errors import ExportError, ModelBeingReplacedError
from optimum_htp.onnxfile.folder_lock import LOCK_FILE, file_lock, folder_lock
from optimum_htp.onnxfile.replace_files import read_whole, replacement_is_pending
from optimum_htp.onnxfile.staging import publish, staging_folder
from tests.conftest import run_python
from tests.support.publisher import PARTS, publish_copy, versions, write_model
from tests.support.publishing import (
    FIRST_OF_SWITCH,
    RENAMES,
    SWITCHED,
    assert_tidy,
    ended,
    listed,
    posix,
    publisher,
    settle,
)


@posix
def test_killed_at_any_rename_leaves_the_old_model_the_new_one_or_a_switch_that_the_next_run_finishes(old_and_new):
    output, new = old_and_new
    old, seen = write_model(output.parents[1] / "old", "old"), set()
    for rename in range(1, RENAMES + 1):
        publish_copy(old, output)
        code, errors = ended(publisher(new, output, "--at", rename, "kill"))
        assert code == -signal.SIGKILL, errors
        # Reading raises an exception for a missing file.
        there, switching = versions(output), replacement_is_pending(output)
        assert there in ({"old"}, {"new"}) or switching
        seen.add((*sorted(there), switching))
        settle(output)
        assert versions(output) == ({"new"} if switching else {"old"})
        assert_tidy(output)
    assert seen == {("old", False), ("old", True), ("new", "old", True)}


@posix
def test_output_is_complete_after_a_kill_and_the_next_run(old_and_new):
    output, new = old_and_new
    newer = write_model(output.parents[1] / "newer", "newer")
    chance = random.Random(0)
    for _ in range(8):
        crowd = [publisher(source, output, "--rounds", 1000) for source in (new, newer)]
        for process in crowd:
            assert process.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.0, 0.15))
        for process in crowd:
            process.kill()
            ended(process)
        assert len(versions(output)) == 1 or replacement_is_pending(output)
        settle(output)
        assert len(versions(output)) == 1
        assert_tidy(output)
    publish_copy(new, output)
    assert versions(output) == {"new"}
    assert_tidy(output)


def test_interrupted_replacement_is_completed_before_the_interrupt(old_and_new):
    output, new = old_and_new
    for rename, expected in ((2, "old"), (FIRST_OF_SWITCH - 1, "old"), (FIRST_OF_SWITCH + 1, "new")):
        code, errors = ended(publisher(new, output, "--at", rename, "interrupt"))
        assert code != 0
        assert "KeyboardInterrupt" in errors
        assert versions(output) == {expected}
        assert_tidy(output)


def test_nothing_changes_where_the_first_file_cannot_be_replaced(old_and_new):
    output, new = old_and_new
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH, "fail"))
    assert code == 1
    assert "Nothing was changed" in errors
    assert versions(output) == {"old"}
    assert_tidy(output)


def test_partial_failure_is_reported_and_completed_by_the_next_export(old_and_new):
    output, new = old_and_new
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH + 2, "fail"))
    assert code == 1
    assert "Some files" in errors
    assert "export again into this folder" in errors
    assert versions(output) == {"old", "new"}
    newer = write_model(output.parents[1] / "newer", "newer")
    publish_copy(newer, output)
    assert versions(output) == {"newer"}
    assert_tidy(output)


def test_obstacles_are_found_before_a_replacement(old_and_new):
    output, new = old_and_new
    (output / "config.json").unlink()
    (output / "config.json").mkdir()
    before = {name: (output / name).read_bytes() for name in PARTS}
    with pytest.raises(ExportError, match=r"config\.json is a folder.*Nothing was changed"):
        publish_copy(new, output)
    assert {name: (output / name).read_bytes() for name in PARTS} == before
    assert listed(output.parent) == ["out"]
    assert listed(output) == sorted([*SWITCHED, "notes.txt"])


def test_new_folder_appears_complete(tmp_path):
    new = write_model(tmp_path / "new", "new", ["unet/model.onnx", "vae/model.onnx"])
    publish_copy(new, tmp_path / "some" / "where" / "out")
    assert versions(tmp_path / "some" / "where" / "out", ["unet/model.onnx", "vae/model.onnx"]) == {"new"}
    assert listed(tmp_path / "some" / "where") == ["out"]


def test_model_in_subfolders_is_replaced_completely(tmp_path):
    names = ["unet/model.onnx", "vae/model.onnx"]
    output = write_model(tmp_path / "out", "old", names)
    publish_copy(write_model(tmp_path / "new", "new", names), output)
    assert versions(output, names) == {"new"}
    assert listed(output) == ["config.json", "unet", "vae"]


def test_parallel_exports_never_mix_and_readers_find_a_complete_model(old_and_new):
    output, _ = old_and_new
    crowd = [
        publisher(write_model(output.parents[1] / str(number), f"of {number}"), output, "--rounds", 6)
        for number in range(8)
    ]
    stop, faults, reads = threading.Event(), [], []

    def watch_names():
        while not stop.is_set():
            faults.extend(name for name in SWITCHED if not (output / name).is_file())

    def read():
        while not stop.is_set():
            try:
                found = read_whole(output, lambda watch: versions(output, watch=watch))
            except ModelBeingReplacedError:
                continue  # one after the other without a pause
            reads.append(found)

    readers = [threading.Thread(target=target) for target in (watch_names, read, read)]
    for thread in readers:
        thread.start()
    try:
        results = [ended(process) for process in crowd]
    finally:
        stop.set()
        for thread in readers:
            thread.join()
    assert [code for code, _ in results] == [0] * len(crowd), results
    assert faults == []
    assert len(reads) > 10
    assert all(len(found) == 1 for found in reads)
    assert len(versions(output)) == 1
    assert_tidy(output)


def test_parallel_exports_into_a_new_folder_do_not_mix(tmp_path):
    output = tmp_path / "work" / "out"
    crowd = [publisher(write_model(tmp_path / str(number), f"of {number}"), output) for number in range(6)]
    results = [ended(process) for process in crowd]
    assert [code for code, _ in results] == [0] * len(crowd), results
    assert len(versions(output)) == 1
    assert (listed(output.parent), listed(output)) == (["out"], SWITCHED)


@posix
def test_staging_folder_of_a_killed_process_is_cleared_and_one_in_use_is_not(old_and_new):
    output, new = old_and_new
    killed, living = publisher(new, output, "--hold"), publisher(new, output, "--hold")
    folder_of_killed, folder_of_living = (process.stdout.readline().strip() for process in (killed, living))
    killed.kill()
    ended(killed)
    assert {folder_of_killed, folder_of_living} <= {*listed(output.parent)}
    settle(output)
    assert listed(output.parent) == sorted([folder_of_living, "out"])
    assert ended(living) == (0, "")
    assert_tidy(output)


@posix
def test_files_get_the_mode_of_the_umask_which_is_not_touched(tmp_path):
    code = f"""
import os, threading
from pathlib import Path
from tests.support.publisher import publish_copy, write_model

os.umask(0o027)
set_umask, touched = os.umask, []
os.umask = lambda mask: touched.append(mask) or set_umask(mask)
root = Path({str(tmp_path)!r})
new = write_model(root / "new", "new")
(new / "config.json").chmod(0o600)
workers = [threading.Thread(target=publish_copy, args=(new, root / str(one % 4))) for one in range(12)]
for one in workers: one.start()
for one in workers: one.join()
modes = {{oct(path.stat().st_mode & 0o777) for one in range(4) for path in (root / str(one)).iterdir()}}
print(modes, oct((root / "0").stat().st_mode & 0o777), touched, oct(set_umask(0)))
"""
    assert run_python(code).stdout.strip() == "{'0o640'} 0o750 [] 0o27"


@pytest.mark.parametrize("lock", [folder_lock, file_lock])
def test_lock_is_held_by_one_thread_at_a_time(tmp_path, lock):
    inside, most = [], []

    def work():
        for _ in range(5):
            with lock(tmp_path, timeout=30):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert most == [1] * 20
    with lock(tmp_path, timeout=0), pytest.raises(TimeoutError, match="another process"), lock(tmp_path, timeout=0):
        pass
    assert {*listed(tmp_path)} <= {LOCK_FILE}


def test_lock_follows_a_folder_that_is_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with folder_lock(tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "before")
        (tmp_path / "out").mkdir()
        with folder_lock(tmp_path / "out", timeout=0):
            pass


@posix
def test_folders_with_similar_names_are_not_taken_for_staging_folders(old_and_new):
    output, _ = old_and_new
    names = [".optimum-htp-settings", ".optimum-htp-staging-mine", ".optimum-htp-staging-abcdefgh.old"]
    for name in names:
        (output.parent / name).mkdir()
    settle(output)
    assert listed(output.parent) == sorted([*names, "out"])


def test_longest_names_that_a_filesystem_allows_are_published(tmp_path):
    names = ["模" * 83 + ".onnx", "x" * 250 + ".onnx"]
    publish_copy(write_model(tmp_path / "new", "new", names), write_model(tmp_path / "out", "old", names))
    assert versions(tmp_path / "out", names) == {"new"}


def test_two_names_of_which_one_is_the_other_with_a_suffix(tmp_path):
    (tmp_path / "out").mkdir()
    with staging_folder(tmp_path / "out") as staging:
        (staging / "output").mkdir()
        (staging / "output" / "a").write_text("1")
        (staging / "output" / "a.new").write_text("2")
        publish(staging / "output", tmp_path / "out")
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {"a": "1", "a.new": "2"}
