"""A file is replaced whole, as the file that was read, and with what it had; nothing is left behind."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from optimum_htp.errors import FileChangedError, InvalidOnnxFileError, OnnxReadError, SharedFileError
from optimum_htp.onnxfile import (
    OpenModel,
    read_header,
    read_metadata,
    rename_model,
    replaced_atomically,
    rewrite_model,
)
from optimum_htp.onnxfile.folder_lock import folder_lock, locked_for_replacing
from optimum_htp.stamping.strip import strip_metadata
from optimum_htp.stamping.tag import tag_file
from tests.conftest import optimum_cli, run_python

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX's permissions, locks and signals")


def save(path, scopes=("a", "b"), megabytes=0.0, **properties):
    """Write a chain of nodes in these modules, and a weight of that size."""
    values = ["x", *(f"/{scope}/Relu_output_0" for scope in scopes)]
    nodes = [
        helper.make_node("Relu", [values[i]], [values[i + 1]], name=f"/{scope}/Relu") for i, scope in enumerate(scopes)
    ]
    weight = TensorProto(name="w", data_type=TensorProto.UINT8, dims=[int(megabytes * (1 << 20))])
    weight.raw_data = os.urandom(int(megabytes * (1 << 20)))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [value("x", 1, [1])], [value(values[-1], 1, [1])], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, properties)
    onnx.save(model, path)
    return path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path):
    return save(tmp_path / "model.onnx")


def test_file_that_was_replaced_while_it_was_read_is_not_written(file):
    other = save(file.with_name("other.onnx"), scopes=("c", "d", "e")).read_bytes()
    with OpenModel.at(file) as model:
        assert len(model.graph.nodes) == 2
        file.with_name("other.onnx").replace(file)
        with pytest.raises(FileChangedError, match=r"model\.onnx was replaced"):
            model.rewrite(metadata={"k": "v"})
    assert file.read_bytes() == other
    assert names_in(file.parent) == ["model.onnx"]


def test_file_that_is_replaced_in_the_middle_of_a_rewrite_stays_the_others(file):
    other = save(file.with_name("other.onnx"), scopes=("c",)).read_bytes()

    def visit(known):
        if (new := file.with_name("other.onnx")).exists():
            new.replace(file)
        return {**known, "k": "v"}

    with pytest.raises(FileChangedError):
        rewrite_model(file, nodes=visit)
    assert file.read_bytes() == other


@pytest.mark.parametrize("change", ["truncate", "append"])
def test_file_that_is_changed_in_place_while_it_is_read_is_refused(tmp_path, change):
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
    """Somebody keeps exchanging the file for one of other modules; each result is one or the other, tagged right."""
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
        rewrite_model(file, metadata={"k": "new"})  # the next run clears what the moment of the renaming left
        assert names_in(tmp_path) == ["model.onnx"]


@POSIX
def test_what_an_ended_process_left_is_cleared_and_what_a_living_one_writes_is_not(file):
    import fcntl

    left, written = (file.with_name(f".model.onnx.{digit * 12}.tmp") for digit in "ab")
    stranger = file.with_name(".model.onnx.tmp")
    for path in (left, written, stranger):
        path.write_bytes(b"half")
    with written.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        rewrite_model(file, metadata={"k": "v"})
    assert names_in(file.parent) == sorted([written.name, stranger.name, "model.onnx"])


def writers(calls):
    """Processes that each do one thing to every file that is named to them, and say whether it went well."""
    code = """
import sys
from optimum_htp.errors import FileChangedError
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.stamping.strip import strip_metadata
from optimum_htp.stamping.tag import tag_file
print("ready", flush=True)
for line in sys.stdin:
    path = line.strip()
    try:
        CALL
        print("done", flush=True)
    except FileChangedError:
        print("changed", flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    return [subprocess.Popen([sys.executable, "-c", code.replace("CALL", call)], **pipes) for call in calls]


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


@POSIX
def test_writer_in_a_folder_that_it_may_write_to_and_not_list(tmp_path):
    file = save(tmp_path / "model.onnx")
    code = f"""
import os
from optimum_htp.onnxfile import read_metadata, rewrite_model
read_metadata({str(file)!r})
os.chmod({str(tmp_path)!r}, 0o300)
if os.geteuid() == 0:
    os.chown({str(tmp_path)!r}, 65534, 65534); os.chown({str(file)!r}, 65534, 65534); os.setuid(65534)
os.chdir({str(tmp_path)!r})
rewrite_model("model.onnx", metadata={{"k": "v"}})
print(read_metadata("model.onnx")["k"])
"""
    for folder in tmp_path.parents[:3]:
        if os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    assert run_python(code).stdout.strip() == "v"
    tmp_path.chmod(0o700)
    assert names_in(tmp_path) == ["model.onnx"]


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
    """A child that was forked while its parent held a lock lives on, and the lock is free for others."""
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


def test_names_of_any_length_that_a_filesystem_allows_are_rewritten(tmp_path):
    for name in ("模" * 79 + ".onnx", "x" * 250 + ".onnx", "é" * 125 + ".onnx"):
        file = save(tmp_path / name)
        rewrite_model(file, metadata={"k": "v"})
        assert read_metadata(file)["k"] == "v"
    assert len(names_in(tmp_path)) == 3


@POSIX
@pytest.mark.parametrize("nameless", [True, False])
def test_private_model_is_never_readable_for_others(tmp_path, nameless):
    """While it is written, with and without files that have no name (macOS and NFS have none)."""
    file = save(tmp_path / "model.onnx")
    file.chmod(0o600)
    code = f"""
import os
from pathlib import Path
if not {nameless} and hasattr(os, "O_TMPFILE"):
    del os.O_TMPFILE
os.umask(0o022)
from optimum_htp.onnxfile import replaced_atomically
file = Path({str(file)!r})
for target, like in ((file, None), (file.with_name("copy.onnx"), file), (file.with_name("new.onnx"), None)):
    with replaced_atomically(target, like=like) as stream:
        print(oct(os.fstat(stream.fileno()).st_mode & 0o777), end=" ")
    print(oct(target.stat().st_mode & 0o777), end=" ")
"""
    assert run_python(code).stdout.split() == ["0o600", "0o600", "0o600", "0o600", "0o644", "0o644"]


@POSIX
def test_umask_is_never_touched(tmp_path):
    code = f"""
import os, threading
from pathlib import Path
from optimum_htp.onnxfile import replaced_atomically
os.umask(0o027)
def write(number):
    for turn in range(60):
        with replaced_atomically(Path({str(tmp_path)!r}, f"{{number}}-{{turn}}")) as stream:
            stream.write(b"x")
threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
for one in threads: one.start()
seen = set()
while any(one.is_alive() for one in threads):
    seen |= {{line.split()[1] for line in open("/proc/self/status") if line.startswith("Umask")}}
print(sorted(seen), sorted({{oct(path.stat().st_mode & 0o777) for path in Path({str(tmp_path)!r}).iterdir()}}))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux to see the umask from outside")
    assert run_python(code).stdout.strip() == "['0027'] ['0o640']"


@POSIX
def test_owner_attributes_and_mode_stay(file, caplog):
    file.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(file, 1234, 2345)
    try:
        os.setxattr(file, "user.origin", b"a camera")
        has_attributes = True
    except (OSError, AttributeError):
        has_attributes = False
    rewrite_model(file, metadata={"k": "v"})
    status = file.stat()
    assert status.st_mode & 0o777 == 0o604
    if os.geteuid() == 0:
        assert (status.st_uid, status.st_gid) == (1234, 2345)
    if has_attributes:
        assert os.getxattr(file, "user.origin") == b"a camera"
    assert caplog.text == ""


@POSIX
def test_hard_links_that_are_split_are_told(file, caplog):
    os.link(file, file.with_name("second.onnx"))
    before = file.read_bytes()
    with caplog.at_level(logging.WARNING, "optimum_htp"):
        rewrite_model(file, metadata={"k": "v"})
    assert "1 other names (hard links)" in caplog.text
    assert file.with_name("second.onnx").read_bytes() == before


@POSIX
def test_file_that_may_not_be_read_is_said_so(file):
    file.chmod(0)
    code = f"""
import os
from optimum_htp.onnxfile import read_header
from optimum_htp.errors import OnnxReadError
if os.geteuid() == 0:
    os.setuid(65534)
try:
    read_header({str(file)!r})
except OnnxReadError as error:
    print(error)
"""
    for folder in (file.parent, *file.parents[:3]):
        if os.geteuid() == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    assert "model.onnx cannot be opened: Permission denied" in run_python(code).stdout


def test_name_that_no_file_can_have_is_an_error_of_ours(tmp_path):
    for name in ("x" * 300 + ".onnx", "null\0character.onnx"):
        with pytest.raises(OnnxReadError, match="cannot be opened"):
            read_header(tmp_path / name)
    assert optimum_cli("htp", "info", tmp_path / f"{'x' * 300}.onnx", check=False).returncode == 1


def test_tags_from_names_alone_are_the_same_in_every_process(tmp_path):
    """Scopes of second calls (`b_1`) come before or behind those of the first, by chance, in a set."""
    scopes = [f"{outer}/{inner}{call}" for outer in "abcdef" for inner in "xyz" for call in ("", "_1", "_2")]
    results = set()
    for seed in range(4):
        path = save(tmp_path / f"{seed}.onnx", scopes)
        code = f"from optimum_htp import tag_file; print(tag_file({str(path)!r}).modules)"
        results.add(run_python(code, PYTHONHASHSEED=str(seed)).stdout)
    assert len(results) == 1


LAYOUTS = [
    "hub",
    "folder of a digest",
    "blob",
    "copied links",
    "hub without links",
    "modelscope",
    "git-annex",
    "dvc",
    "read-only",
]


def cached(root, layout):
    """A model in a cache that others share; return the path that a user would name, and the file that others read."""
    digest, commit = "ab" * 32, "cd" * 20
    repo = root / "hub" / "models--org--name"
    link, real = {
        "hub": (repo / "snapshots" / commit / "onnx" / "model.onnx", repo / "blobs" / digest),
        "blob": (repo / "blobs" / digest, repo / "blobs" / digest),
        "copied links": (root / "mine" / "model.onnx", repo / "blobs" / digest),
        "hub without links": (repo / "snapshots" / commit / "model.onnx",) * 2,
        "modelscope": (root / "models" / "org--name" / "snapshots" / commit / "model.onnx",) * 2,
        "git-annex": (root / "work" / "model.onnx", root / "work/.git/annex/objects/X/y" / f"SHA256E-{digest}.onnx"),
        "dvc": (root / "work" / "model.onnx", root / "cache" / "files" / "md5" / "ab" / digest[:30]),
        "folder of a digest": (root / "work" / "model.onnx", root / "store" / digest / "model.onnx"),
        "read-only": (root / "work" / "model.onnx", root / "store" / "model.onnx"),
    }[layout]
    real.parent.mkdir(parents=True)
    save(real, hf_model_type="local")
    if link != real:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(real)
    if layout == "read-only":
        real.chmod(0o444)
    return link, real


@POSIX
@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_in_a_cache_that_others_share_is_not_changed(tmp_path, layout):
    link, real = cached(tmp_path, layout)
    own = save(tmp_path / "own.onnx", hf_model_type="local")
    before = real.read_bytes()
    writers_of_it = [
        lambda: rewrite_model(link, metadata={"k": "v"}),
        lambda: tag_file(link),
        lambda: strip_metadata(link),
        lambda: rewrite_model(own, metadata={"k": "v"}, output=link),
        lambda: strip_metadata(own, link),
        lambda: rename_model(link, link.with_name("other.onnx")),
    ]
    for write in writers_of_it:
        with pytest.raises(SharedFileError, match="--output"):
            write()
    assert real.read_bytes() == before
    rewrite_model(link, metadata={"k": "v"}, output=tmp_path / "mine.onnx")
    assert read_metadata(tmp_path / "mine.onnx") == {"hf_model_type": "local", "k": "v"}
    assert read_metadata(link) == {"hf_model_type": "local"}


@POSIX
def test_links_and_folders_of_the_users_own_are_written_through(tmp_path):
    for place in ("disk/model.onnx", "1/snapshots/1/model.onnx", "2/blobs/model.onnx", "a--b/snapshots/c/model.onnx"):
        real = tmp_path / place
        real.parent.mkdir(parents=True)
        save(real)
        link = tmp_path / "link.onnx"
        link.unlink(missing_ok=True)
        link.symlink_to(real)
        rewrite_model(link, metadata={"k": "v"})
        assert link.is_symlink()
        assert read_metadata(real) == {"k": "v"}
    read_only = save(tmp_path / "read-only.onnx")
    read_only.chmod(0o444)
    rewrite_model(read_only, metadata={"k": "v"})
    assert read_metadata(read_only) == {"k": "v"}
