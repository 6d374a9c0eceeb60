"""Ctrl-C and kills: nothing is replaced afterwards, finished work is reported, and no temporary files remain."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from optimum_htp.onnxfile import read_metadata
from tests.conftest import run_python
from tests.support.environments import python_of_users
from tests.support.hub.xet import XetStore, xet_server
from tests.support.marks import slowly
from tests.vectors import make

CLI = python_of_users().with_name("optimum-cli")
FILES = 60
WEIGHTS = 8 << 20  # bytes; stripping a file takes some milliseconds
TIME_LIMIT = 120  # seconds, for a busy machine; a command that waits for a server does not end at all


@pytest.fixture
def folder(tmp_path):
    """Return many large stamped files."""
    import onnx
    from onnx import TensorProto, helper

    model = make.model(make.HUB)
    model.graph.initializer.append(
        helper.make_tensor("w", TensorProto.UINT8, [WEIGHTS], os.urandom(WEIGHTS), raw=True)
    )
    content = model.SerializeToString()
    assert onnx.load_from_string(content)
    (tmp_path / "files").mkdir()
    for index in range(FILES):
        (tmp_path / "files" / f"m{index:02}.onnx").write_bytes(content)
    return tmp_path / "files"


def stripped(folder):
    return {path.name for path in folder.glob("*.onnx") if "hf_hub_id" not in read_metadata(path)}


def interrupted(process, kind=signal.SIGINT):
    """Send a signal to a process; return its exit code and outputs when it has ended."""
    process.send_signal(kind)
    try:
        stdout, stderr = process.communicate(timeout=TIME_LIMIT)
    finally:
        process.kill()
    return process.returncode, stdout, stderr


def interrupted_after_the_first(command, kind, folder):
    """Run a command that strips files, and send a signal after the first one."""
    before = {path.name: path.stat().st_ino for path in folder.glob("*.onnx")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if hasattr(os, "setpriority"):  # the signal arrives before the end, also on a busy machine
        os.setpriority(os.PRIO_PROCESS, process.pid, 19)
    deadline = time.monotonic() + 60
    while all(path.stat().st_ino == before[path.name] for path in folder.glob("*.onnx")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return interrupted(process, kind)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_no_file_is_replaced_after_a_signal_and_earlier_results_are_reported(kind, folder):
    code, stdout, stderr = interrupted_after_the_first([CLI, "htp", "strip", folder], kind, folder)
    assert code == 128 + kind
    reported = {Path(line.partition(": ")[0]).name for line in stdout.splitlines()}
    assert reported == stripped(folder)
    assert 1 <= len(reported) < FILES
    assert stderr.splitlines() == ["interrupted"]
    assert len(list(folder.iterdir())) == FILES  # and no temporary files


def test_json_reports_results_before_a_signal(folder):
    code, stdout, stderr = interrupted_after_the_first(
        [CLI, "htp", "strip", folder, "--json", "--jobs", "1"], signal.SIGINT, folder
    )
    document = json.loads(stdout)
    assert code == 130
    assert document["interrupted"] is True
    assert {Path(one["file"]).name for one in document["files"]} == stripped(folder)
    assert stderr.splitlines() == ["interrupted"]


_HANGING = """
import sys, threading, time
from pathlib import Path
from optimum_htp.cli.interrupts import Stop
from optimum_htp.cli.files import Workers
from optimum_htp.onnxfile import replaced_atomically

def work(file):
    with replaced_atomically(Path(file)) as stream:
        stream.write(b"new")
        Path(sys.argv[1], "begun").touch()
        while True:
            time.sleep(0.01)

stop = Stop()
with stop.listening():
    workers = Workers([str(Path(sys.argv[1], "a"))], work, 1, stop)
    workers.run()
    print(workers.outcomes, stop.code, stop.left_threads)
"""


def test_long_write_is_given_up_and_cleaned_up(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    process = subprocess.Popen([sys.executable, "-c", _HANGING, tmp_path], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    _, stdout, _ = interrupted(process)
    assert stdout.split() == ["[]", "130", "False"]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "begun"]


@pytest.mark.parametrize(
    "command", [["inject", "--model", "tiny/bert"], ["verify"]]
)  # one question for all files, or one for each
def test_hub_that_does_not_answer_does_not_hold_the_command(command, folder, hub, published, empty_home):
    published("bert")
    asked, ended = threading.Event(), threading.Event()

    def never(method, path):
        asked.set()
        ended.wait()

    hub.before_answer = never
    command = [CLI, "htp", *command, folder]
    process = subprocess.Popen(command, env={**os.environ, **empty_home}, stderr=subprocess.PIPE, text=True)
    try:
        assert asked.wait(timeout=TIME_LIMIT)
        code, _, stderr = interrupted(process)
    finally:
        ended.set()
    assert code == 130
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "interrupted"
    assert {read_metadata(path)["hf_hub_id"] for path in folder.iterdir()} == {make.HUB["hf_hub_id"]}


IN_PYTHON = """
import sys
try:
    {}
except KeyboardInterrupt:
    sys.exit(130)
"""


def name_of(command):
    return (
        " ".join(command[:2]) if command[0] != "-c" else "python " + command[1].rpartition("; ")[2].partition("(")[0]
    )


@pytest.fixture
def transfers():
    """Set an event when a transfer begins."""
    return threading.Event()


@pytest.fixture
def files(exported, hub, published, tmp_path):
    """Return the values of the variables in commands. The Hub has the model and a user with write access."""
    published("bert")
    (tmp_path / "list.txt").write_text("tiny/bert\n")
    file = shutil.copy(exported("bert") / "model.onnx", tmp_path / "model.onnx")
    hub.tokens, hub.writers = {"hf_writer": set()}, {"hf_writer": {"me"}}
    return {"OUT": str(tmp_path / "out"), "LIST": str(tmp_path / "list.txt"), "FILE": str(file)}


def interrupted_in_a_transfer(command, files, transfers, env):
    """Run a command, and send SIGINT during a transfer."""
    program = [sys.executable] if command[0] == "-c" else [CLI]
    arguments = [functools.reduce(lambda text, name: text.replace(name, files[name]), files, one) for one in command]
    env = {**env, "HF_TOKEN": "hf_writer"}
    process = subprocess.Popen([*program, *arguments], env=env, stderr=subprocess.PIPE, text=True)
    assert transfers.wait(timeout=TIME_LIMIT)
    time.sleep(0.5)
    code, _, stderr = interrupted(process)
    return code, stderr


@pytest.mark.parametrize(
    "command",
    [
        ("export", "htp", "--model", "tiny/bert", "OUT"),
        ("htp", "batch", "LIST", "-o", "OUT"),
        ("htp", "verify", "--weights", "FILE"),
        ("htp", "mirror", "tiny/bert", "--weights", "-o", "OUT"),
        ("htp", "push", "FILE", "me/pushed"),
        *slowly(("-c", IN_PYTHON.format("from optimum_htp import HTPExporter as E; E().export('tiny/bert', 'OUT')"))),
    ],
    ids=name_of,
)
def test_transfer_of_weights_does_not_hold_the_command(command, files, hub, transfers, empty_home):
    ended = threading.Event()

    def never(method, path):
        if (method == "GET" and path.endswith("model.safetensors")) or method == "PUT":
            transfers.set()
            ended.wait()

    hub.before_answer = never
    try:
        code, stderr = interrupted_in_a_transfer(command, files, transfers, {**os.environ, **empty_home})
    finally:
        ended.set()
    assert code == 130, stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "command",
    [
        ("export", "htp", "--model", "tiny/bert", "OUT"),
        ("htp", "verify", "--weights", "FILE"),
        ("htp", "mirror", "tiny/bert", "--weights", "-o", "OUT"),
        ("htp", "push", "FILE", "me/pushed"),
        *slowly(("-c", IN_PYTHON.format("from optimum_htp import HTPExporter as E; E().export('tiny/bert', 'OUT')"))),
        *slowly(
            (
                "-c",
                IN_PYTHON.format("from optimum_htp.extras.push.pushing import push as p; p(['FILE'], 'me/x')"),
            )
        ),
    ],
    ids=name_of,
)
def test_silent_xet_server_does_not_hold_the_command(command, files, hub, transfers, empty_home):
    pytest.importorskip("hf_xet")
    hub.xet = XetStore()
    hub.serve_ranges = False  # `verify` must download it
    env = {**os.environ, **empty_home, "HF_HUB_DISABLE_XET": "0"}
    with xet_server(None, transfers.set) as hub.xet.url:
        code, stderr = interrupted_in_a_transfer(command, files, transfers, env)
    hub.xet.close()
    assert code == 130, stderr
    assert "Traceback" not in stderr
    assert not [path for path in Path(files["OUT"]).rglob("*") if path.is_file()]
    assert "me/pushed" not in hub.repos


_AT_A_MOMENT = """
import os, signal, sys, threading, time

def interrupt():
    while not hasattr(sys.modules.get("optimum_htp.cli.base"), "Command"):
        time.sleep(0.001)
    time.sleep(float(wait))
    os.kill(os.getpid(), signal.SIGINT)

wait, *sys.argv[1:] = sys.argv[1:]
threading.Thread(target=interrupt, daemon=True).start()
from optimum.commands.optimum_cli import main
main()
"""


@pytest.mark.parametrize("wait", [0.001, 0.02, 0.1, 0.3, 0.6, 1.0])
def test_signal_at_any_moment_is_one_line(wait, tmp_path):
    model = make.model(make.HUB)
    model.ir_version = 10
    model.metadata_props.add(key="htp.modules", value='{"": "Model"}')
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    command = ["htp", "profile", tmp_path / "m.onnx", "--runs", "100000"]
    done = subprocess.run(
        [sys.executable, "-c", _AT_A_MOMENT, str(wait), *command], capture_output=True, text=True, timeout=60
    )
    assert done.stderr.splitlines() == ["interrupted"]
    assert done.returncode in (130, -signal.SIGINT)  # Python's own code for Ctrl-C is negative; a shell shows 130
    assert done.stdout == ""


_BEFORE_A_COMMAND = """
import os, signal, sys, time
sys.argv = ["optimum-cli", "htp", "info"]
import optimum_htp.cli.base

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

Finalized()
time.sleep(600)
"""


def test_signal_in_a_finalizer_before_a_command_runs_is_one_line():
    code = [sys.executable, "-c", _BEFORE_A_COMMAND]
    done = subprocess.run(code, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.stderr.splitlines() == ["interrupted"]
    assert done.returncode in (130, -signal.SIGINT)


_IN_A_FINALIZER = """
import os, signal, sys, time
from optimum_htp.cli.interrupts import Stop

class Finalized:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

hook = sys.unraisablehook
try:
    with Stop().listening():
        Finalized()
        time.sleep(600)
except KeyboardInterrupt:
    print(sys.unraisablehook is hook)
"""


def test_signal_in_a_finalizer_is_not_lost():
    done = run_python(_IN_A_FINALIZER)
    assert done.stdout.split() == ["True"]
    assert done.stderr == ""
