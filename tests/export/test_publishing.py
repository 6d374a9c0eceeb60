"""An output folder while exports replace the model in it: killed, interrupted, refused, in a crowd, and being read."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from optimum_htp.errors import ExportError, MissingSiblingError, ModelBeingReplacedError, UnfinishedExportError
from optimum_htp.onnxfile.folder_lock import LOCK_FILE, file_lock, folder_lock
from optimum_htp.onnxfile.publication import SWITCH, Watch, read_whole, switch_is_on
from optimum_htp.onnxfile.staging import publish, staging_folder
from tests.conftest import ROOT, run_python
from tests.support.publisher import PARTS, publish_copy, versions, write_model

posix = pytest.mark.skipif(sys.platform == "win32", reason="kills and modes are POSIX's")
SWITCHED = sorted((*PARTS, "config.json"))
FIRST_OF_SWITCH = len(SWITCHED) + 2  # renames before: each staged file's, and the one that begins the switch
RENAMES = FIRST_OF_SWITCH + len(SWITCHED) - 1


@pytest.fixture
def old_and_new(tmp_path):
    """An output folder with an old model beside a file of somebody else, and a new model to publish there."""
    output = write_model(tmp_path / "work" / "out", "old")
    (output / "notes.txt").write_text("mine")
    return output, write_model(tmp_path / "new", "new")


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
    """What the next run does first, whatever becomes of it then."""
    with staging_folder(output):
        pass


@posix
def test_killed_at_any_rename_leaves_the_old_model_the_new_one_or_a_switch_that_the_next_run_finishes(old_and_new):
    output, new = old_and_new
    old, seen = write_model(output.parents[1] / "old", "old"), set()
    for rename in range(1, RENAMES + 1):
        publish_copy(old, output)
        code, errors = ended(publisher(new, output, "--at", rename, "kill"))
        assert code == -signal.SIGKILL, errors
        there, switching = versions(output), switch_is_on(output)  # reading raises where a file is missing
        assert there in ({"old"}, {"new"}) or switching
        seen.add((*sorted(there), switching))
        settle(output)
        assert versions(output) == ({"new"} if switching else {"old"})
        assert_tidy(output)
    assert seen == {("old", False), ("old", True), ("new", "old", True)}


@posix
def test_killed_at_random_moments_it_is_whole_after_the_next_run(old_and_new):
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
        assert len(versions(output)) == 1 or switch_is_on(output)
        settle(output)
        assert len(versions(output)) == 1
        assert_tidy(output)
    publish_copy(new, output)
    assert versions(output) == {"new"}
    assert_tidy(output)


def test_interrupted_switch_is_finished_before_the_interrupt_comes_through(old_and_new):
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
    assert "Nothing there was changed" in errors
    assert versions(output) == {"old"}
    assert_tidy(output)


def test_failure_in_the_middle_is_said_and_mended_by_the_next_export(old_and_new):
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


def test_what_would_stop_a_switch_is_found_before_it_begins(old_and_new):
    output, new = old_and_new
    (output / "config.json").unlink()
    (output / "config.json").mkdir()
    before = {name: (output / name).read_bytes() for name in PARTS}
    with pytest.raises(ExportError, match=r"config\.json is a folder.*Nothing there was changed"):
        publish_copy(new, output)
    assert {name: (output / name).read_bytes() for name in PARTS} == before
    assert listed(output.parent) == ["out"]
    assert listed(output) == sorted([*SWITCHED, "notes.txt"])


def test_folder_that_was_not_there_appears_whole(tmp_path):
    new = write_model(tmp_path / "new", "new", ["unet/model.onnx", "vae/model.onnx"])
    publish_copy(new, tmp_path / "some" / "where" / "out")
    assert versions(tmp_path / "some" / "where" / "out", ["unet/model.onnx", "vae/model.onnx"]) == {"new"}
    assert listed(tmp_path / "some" / "where") == ["out"]


def test_model_in_subfolders_is_replaced_whole(tmp_path):
    names = ["unet/model.onnx", "vae/model.onnx"]
    output = write_model(tmp_path / "out", "old", names)
    publish_copy(write_model(tmp_path / "new", "new", names), output)
    assert versions(output, names) == {"new"}
    assert listed(output) == ["config.json", "unet", "vae"]


def test_crowd_of_publishers_never_mixes_and_readers_always_find_a_whole_model(old_and_new):
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
                continue  # they follow one another without a pause here
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


def test_exports_that_all_begin_without_an_output_folder_do_not_mix(tmp_path):
    output = tmp_path / "work" / "out"
    crowd = [publisher(write_model(tmp_path / str(number), f"of {number}"), output) for number in range(6)]
    results = [ended(process) for process in crowd]
    assert [code for code, _ in results] == [0] * len(crowd), results
    assert len(versions(output)) == 1
    assert (listed(output.parent), listed(output)) == (["out"], SWITCHED)


@posix
def test_folder_of_a_half_replaced_model_is_not_taken_for_two_models(old_and_new):
    from optimum_htp.loading.stamped_files import stamped_file

    output, new = old_and_new
    for folder in (output, new):
        (folder / "config.json").unlink()
    assert stamped_file(output, {}) == output / PARTS[0]
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH, "kill"))
    assert code == -signal.SIGKILL, errors
    assert switch_is_on(output)
    with pytest.raises(ModelBeingReplacedError):
        stamped_file(output, {})
    settle(output)
    assert stamped_file(output, {}) == output / PARTS[0]


def test_reader_begins_again_when_a_whole_switch_passed_while_it_read(old_and_new):
    output, new = old_and_new
    rounds = []

    def read(watch):
        watch.see(output / PARTS[0])
        found = {(output / PARTS[0]).read_bytes()}
        if not rounds:
            publish_copy(new, output)
        rounds.append(found)
        return versions(output, watch=watch)

    assert read_whole(output, read) == {"new"}
    assert len(rounds) == 2


def test_reader_waits_for_the_end_of_a_switch(old_and_new):
    output, _ = old_and_new
    (output / SWITCH).mkdir()
    threading.Timer(0.3, (output / SWITCH).rmdir).start()
    started = time.monotonic()
    assert read_whole(output, lambda watch: versions(output, watch=watch)) == {"old"}
    assert time.monotonic() - started >= 0.25


def test_error_of_a_reader_counts_where_nothing_is_replaced(tmp_path):
    def read(watch: Watch) -> None:
        calls.append(watch)
        raise MissingSiblingError("encoder_model.onnx is missing")

    calls: list[Watch] = []
    with pytest.raises(MissingSiblingError, match="is missing"):
        read_whole(tmp_path, read)
    assert len(calls) == 1


@posix
def test_half_replaced_model_does_not_load_and_says_what_to_do(old_and_new):
    from optimum.onnxruntime import ORTModelForSeq2SeqLM
    from transformers import T5Config

    output, new = old_and_new
    ended(publisher(new, output, "--at", FIRST_OF_SWITCH + 2, "kill"))
    assert versions(output) == {"old", "new"}
    with pytest.raises(ModelBeingReplacedError, match=r"again in a moment.*export again into"):
        ORTModelForSeq2SeqLM.from_pretrained(output / "encoder_model.onnx", config=T5Config())
    settle(output)
    assert versions(output) == {"new"}


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


def test_link_that_looks_like_a_staging_folder_is_not_followed(old_and_new, tmp_path):
    output, _ = old_and_new
    (output.parent / ".optimum-htp-staging-abcdefgh").symlink_to(tmp_path / "new")
    settle(output)
    assert versions(tmp_path / "new") == {"new"}


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


def contents(folder):
    """Everything below a folder, links not followed."""
    return {
        path.relative_to(folder).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def killed_switch(output, new):
    """An output folder whose publisher was killed in the middle of its renames."""
    code, errors = ended(publisher(new, output, "--at", FIRST_OF_SWITCH + 2, "kill"))
    assert code == -signal.SIGKILL, errors
    assert switch_is_on(output)


def plant_old_form(root, output):
    """Names in the hidden folder say where to; one leads out of the folder through a link."""
    (output / "sub").symlink_to(root / "elsewhere", target_is_directory=True)
    (output / SWITCH / "sub").mkdir(parents=True)
    (output / SWITCH / "sub" / "theirs.new").write_text("planted")
    (output / SWITCH / "config.json.new").write_text("planted")


def plant_list(root, output, place="sub/theirs"):
    """A hidden folder as a publisher writes it, made by hand: the attacker knows everything but the change times."""
    (output / "sub").symlink_to(root / "elsewhere", target_is_directory=True)
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").write_text("planted")
    status = (output / SWITCH / "0.new").stat()
    identity = [status.st_ino, status.st_ctime_ns - 1, status.st_size]
    (output / SWITCH / "files.json").write_text(json.dumps({"0.new": {"name": place, "identity": identity}}))


def plant_known_list(root, output, place="sub/theirs"):
    """The same with the right change times: the link is what is left to refuse."""
    plant_list(root, output, place)
    text = (output / SWITCH / "files.json").read_text()
    status = (output / SWITCH / "0.new").stat()
    (output / SWITCH / "files.json").write_text(text.replace(str(status.st_ctime_ns - 1), str(status.st_ctime_ns)))


def plant_way_out(root, output):
    plant_known_list(root, output, "../../elsewhere/theirs")


def plant_linked_file(root, output):
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").symlink_to(root / "elsewhere" / "theirs")


def plant_hard_link(root, output):
    (output / SWITCH).mkdir()
    os.link(root / "elsewhere" / "theirs", output / SWITCH / "0.new")


def plant_linked_folder(root, output):
    (output / SWITCH).symlink_to(root / "elsewhere", target_is_directory=True)


def plant_deep_list(root, output):
    (output / SWITCH).mkdir()
    (output / SWITCH / "0.new").write_text("planted")
    (output / SWITCH / "files.json").write_text("[" * 100_000)


PLANTS = [
    plant_old_form,
    plant_list,
    plant_known_list,
    plant_way_out,
    plant_linked_file,
    plant_hard_link,
    plant_linked_folder,
    plant_deep_list,
]


@posix
@pytest.mark.parametrize("plant", PLANTS)
def test_planted_switch_moves_and_deletes_nothing(old_and_new, tmp_path, plant):
    output, new = old_and_new
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "theirs").write_text("theirs")
    plant(tmp_path, output)
    before = contents(tmp_path)
    with pytest.raises(ExportError, match=r"\.optimum-htp\.switch|through a link") as caught:
        publish_copy(new, output)
    assert contents(tmp_path) == before
    if plant is not plant_known_list:
        assert isinstance(caught.value, UnfinishedExportError)
        assert f"Delete {output / SWITCH}" in str(caught.value)


@posix
@pytest.mark.parametrize("how", ["copied", "archived", "cloned", "of another user"])
def test_switch_that_was_killed_elsewhere_is_not_finished(old_and_new, tmp_path, how):
    output, new = old_and_new
    killed_switch(output, new)
    if how == "copied":
        subprocess.run(["cp", "-a", output, tmp_path / "copy"], check=True)
    elif how == "archived":
        subprocess.run(f"tar -C {output.parent} -cf - out | tar -C {tmp_path} -xf -", shell=True, check=True)
        (tmp_path / "out").rename(tmp_path / "copy")
    elif how == "cloned":
        git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", output]
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "model"]):
            subprocess.run([*git, *command], check=True)
        subprocess.run(["git", "clone", "-q", output, tmp_path / "copy"], check=True)
    else:
        if os.geteuid() != 0:
            pytest.skip("only root may give files away")
        output.rename(tmp_path / "copy")
        os.chown(tmp_path / "copy" / SWITCH, 1234, 1234)
    copy = tmp_path / "copy"
    before = contents(copy)
    with pytest.raises(UnfinishedExportError, match="Delete"):
        settle(copy)
    assert contents(copy) == before
    shutil.rmtree(copy / SWITCH)
    publish_copy(new, copy)
    assert versions(copy) == {"new"}


def test_reader_of_a_folder_with_a_planted_switch_is_told_what_to_delete(old_and_new, tmp_path):
    output, _ = old_and_new
    plant_linked_file(tmp_path, output)
    started = time.monotonic()
    with pytest.raises(ModelBeingReplacedError, match=r"delete .*\.optimum-htp\.switch"):
        read_whole(output, lambda watch: versions(output, watch=watch))
    assert time.monotonic() - started < 10


@posix
@pytest.mark.parametrize("names", [["unet/model.onnx"], ["unet/model.onnx", "vae/model.onnx"]])
def test_link_that_leads_out_of_the_output_folder_is_not_written_through(tmp_path, names):
    new = write_model(tmp_path / "new", "new", names)
    if len(names) == 1:
        (new / "config.json").unlink()
    for target in ("elsewhere", "missing"):
        output = tmp_path / f"out to {target}"
        output.mkdir()
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (output / "unet").symlink_to(tmp_path / target, target_is_directory=True)
        before = contents(tmp_path)
        with pytest.raises(ExportError, match=r"unet leads out of .* through a link\. Nothing there was changed"):
            publish_copy(new, output)
        assert contents(tmp_path) == before
        assert listed(output) == ["unet"]


@posix
def test_links_inside_the_output_folder_and_to_it_are_followed(tmp_path):
    names = ["unet/model.onnx", "vae/model.onnx"]
    (tmp_path / "disk" / "parts").mkdir(parents=True)
    (tmp_path / "disk" / "unet").symlink_to("parts")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    publish_copy(write_model(tmp_path / "new", "new", names), tmp_path / "out")
    assert versions(tmp_path / "out", names) == {"new"}
    assert (tmp_path / "disk" / "parts" / "model.onnx").is_file()


@posix
def test_link_in_place_of_a_file_is_replaced_itself(old_and_new, tmp_path):
    output, new = old_and_new
    (tmp_path / "theirs").write_text("theirs")
    (output / "config.json").unlink()
    (output / "config.json").symlink_to(tmp_path / "theirs")
    publish_copy(new, output)
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert versions(output) == {"new"}


@posix
def test_link_in_place_of_the_lock_file_is_refused(tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="is a link"), file_lock(tmp_path / "out", timeout=1):
        pass
    assert (tmp_path / "theirs").read_text() == "theirs"


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
