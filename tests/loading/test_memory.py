"""In-memory caches: bounded, shared by threads, ignored with force_download, without shared objects."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from optimum_htp.caching import LRUCache
from optimum_htp.errors import OfflineError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.resolve.commit_files import resolve_configs, resolve_preprocessors
from optimum_htp.resolve.configs import load_config

pytestmark = pytest.mark.usefixtures("from_the_commit")


def test_least_recently_used_value_is_dropped_first():
    memory = LRUCache(2)
    for key in "aba":
        memory.get_or_make(key, lambda key=key: key)
    memory.get_or_make("c", lambda: "c")
    assert memory.get_or_make("a", lambda: "made again") == "a"
    assert memory.get_or_make("b", lambda: "made again") == "made again"
    assert len(memory) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("holder", ["another thread", "the thread that forks"])
def test_forked_child_creates_a_value_that_a_thread_of_its_parent_was_creating(holder):
    code = f"""
import os, threading
from optimum_htp.caching import LRUCache
memory, making, forked = LRUCache(4), threading.Event(), threading.Event()
memory.get_or_make("kept", lambda: "kept")
def child():
    print(memory.get_or_make("key", lambda: "child"), memory.get_or_make("kept", lambda: "again"), flush=True)
def make():
    making.set()
    if {holder == "another thread"}:
        forked.wait(20)
        return "parent"
    if not os.fork():
        return "child"
    os.wait()
    return "parent"
if {holder == "another thread"}:
    thread = threading.Thread(target=memory.get_or_make, args=("key", make))
    thread.start()
    making.wait()
    if not (pid := os.fork()):
        child()
        os._exit(0)
    os.waitpid(pid, 0)
    forked.set()
    thread.join()
else:
    memory.get_or_make("key", make)
print(memory.get_or_make("key", lambda: "again"), memory.get_or_make("other", lambda: "other"), flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    expected = ["child kept", "parent other"] if holder == "another thread" else ["child other", "parent other"]
    assert (done.stdout.splitlines(), done.stderr) == (expected, "")


def test_threads_with_the_same_key_wait_for_one():
    made, gate = [], threading.Event()

    def make():
        gate.wait(5)
        made.append(1)
        return object()

    memory = LRUCache(4)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(memory.get_or_make, "key", make) for _ in range(8)]
        gate.set()
    assert len(made) == 1
    assert len({id(one.result()) for one in results}) == 1


@pytest.mark.parametrize("fails_first", [False, True])
def test_value_is_created_by_one_thread_at_a_time_and_kept(fails_first):
    """Also for threads that come while it is stored, or after a failure."""
    memory, made, running, most, makers = LRUCache(4), [], [], [], set()

    def make():
        makers.add(threading.get_ident())
        running.append(1)
        most.append(len(running))
        time.sleep(0.001)
        running.pop()
        made.append(1)
        if fails_first and len(made) == 1:
            raise ZeroDivisionError
        return object()

    class Polite:
        """A lock that lets other threads run after the value is created."""

        def __init__(self):
            self._lock = threading.Lock()

        def __enter__(self):
            self._lock.acquire()

        def __exit__(self, *exc):
            self._lock.release()
            if threading.get_ident() in makers:
                time.sleep(0.03)

    memory._lock = Polite()

    def get(delay):
        time.sleep(delay)
        with suppress(ZeroDivisionError):
            memory.get_or_make("key", make)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(get, [number / 2000 for number in range(32)]))
    assert max(most) == 1
    assert len(made) == 1 + fails_first


def test_failure_is_raised_and_not_kept():
    memory = LRUCache(4)
    with pytest.raises(ZeroDivisionError):
        memory.get_or_make("key", lambda: 1 / 0)
    assert memory.get_or_make("key", lambda: 1) == 1
    assert not memory._making


@pytest.fixture
def record(hub):
    name = f"remembered/model-{len(hub.repos)}"
    repo = hub.add(name, {"config.json": json.dumps({"model_type": "bert", "hidden_size": 8}).encode()})
    return ExportMetadata(
        model_type="hub", hub_id=name, hub_sha=repo.refs["main"], config_files=("config.json",), export_library=None
    )


def test_configs_are_copies(record, tmp_path):
    source = resolve_configs(record, HubAccess(cache_dir=tmp_path))
    first = load_config(source, record)
    first.hidden_size = 99
    assert load_config(source, record).hidden_size == 8


def test_folder_is_kept_until_it_is_deleted(record, hub, tmp_path):
    access = HubAccess(cache_dir=tmp_path)
    folder = resolve_configs(record, access).folder
    with hub.recorded() as requests:
        assert resolve_configs(record, access).folder == folder
    assert requests == []
    shutil.rmtree(tmp_path)
    with hub.recorded() as requests:
        assert resolve_configs(record, access).folder == folder
    assert [request.method for request in requests] == ["GET"]


def test_force_download_ignores_kept_values(record, hub, tmp_path):
    source = resolve_configs(record, HubAccess(cache_dir=tmp_path))
    load_config(source, record)
    with hub.recorded() as requests:
        source = resolve_configs(record, HubAccess(cache_dir=tmp_path, force_download=True))
    assert [request.method for request in requests] == ["GET"]
    (source.folder / "config.json").unlink()
    (source.folder / "config.json").write_text('{"model_type": "bert", "hidden_size": 16}')
    assert load_config(source, record).hidden_size == 8
    assert load_config(source, record, anew=True).hidden_size == 16


def test_files_listed_by_one_model_do_not_limit_another(hub, tmp_path):
    """Another file can list fewer files than the commit has."""
    files = {"config.json": b'{"model_type": "bert"}', "tokenizer_config.json": b"{}"}
    repo = hub.add("remembered/lists", files)
    whole = ExportMetadata(model_type="hub", hub_id=repo.repo_id, hub_sha=repo.refs["main"], config_files=tuple(files))
    less = dataclasses.replace(whole, config_files=("config.json",))
    offline = HubAccess(cache_dir=tmp_path, local_files_only=True)
    resolve_preprocessors(less, HubAccess(cache_dir=tmp_path))
    assert resolve_preprocessors(less, offline).folder.is_dir()
    with pytest.raises(OfflineError):
        resolve_preprocessors(whole, offline)
    folder = resolve_preprocessors(whole, HubAccess(cache_dir=tmp_path)).folder
    assert {path.name for path in folder.iterdir()} == {*files}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_lock_of_another_thread_is_free_in_a_forked_child():
    code = """
import os, threading
from optimum_htp import plugins
from optimum_htp.export.engines.base import EXPORTING as _EXPORTING
held, forked = threading.Event(), threading.Event()
def hold():
    with plugins._LOADING.held(), _EXPORTING.held():
        held.set()
        forked.wait(20)
thread = threading.Thread(target=hold)
thread.start()
held.wait()
if not os.fork():
    with _EXPORTING.held():
        print(len(plugins.hubs()) > 0, flush=True)
    os._exit(0)
os.wait()
forked.set()
thread.join()
with _EXPORTING.held():
    if not os.fork():
        with _EXPORTING.held():
            print("forked while it was held", flush=True)
        os._exit(0)
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout.splitlines(), done.stderr) == (["True", "forked while it was held"], "")
