"""Downloads and uploads with hf_xet itself: correct, or an error within the time limit."""

from __future__ import annotations

import random
import sys
from threading import Event

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _xet

from optimum_htp import errors
from optimum_htp.extras.push.writing import commit_files, look_at
from optimum_htp.hubs.huggingface.transfers import Transfers
from optimum_htp.plugins import hub as huggingface
from tests.conftest import run, run_python
from tests.support.environments import python_of_users
from tests.support.hub.xet import XetStore, xet_server

pytest.importorskip("hf_xet")

WEIGHTS = random.Random(0).randbytes(512_000)  # that cannot be compressed
WRITER = "hf_writer"


@pytest.fixture
def stored(hub, monkeypatch):
    """Make the Hub and huggingface_hub use Xet; return the store."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    # huggingface_hub 2 remembers server URLs, and links files of other downloads.
    monkeypatch.setattr(_xet, "XET_CONNECTION_INFO_CACHE", {}, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SHARED_BLOBS", True, raising=False)
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "3")
    hub.xet = store = XetStore()
    hub.writers = {WRITER: {"me"}}
    yield store
    store.close()


@pytest.fixture
def fetch(hub, stored, access):
    repo = hub.add("org/xet", {"model.safetensors": WEIGHTS})
    return lambda: huggingface().snapshot(repo.repo_id, repo.refs["main"], ["model.safetensors"], access)


@pytest.fixture
def push(hub, stored, tmp_path):
    hub.repos.pop("me/xet", None)
    file = tmp_path / "model.onnx"
    file.write_bytes(WEIGHTS[::-1])
    return lambda: commit_files(look_at("me/xet", WRITER), {"model.onnx": file}, message="m", token=WRITER)


def test_weights_come_through_xet(hub, fetch):
    with hub.recorded() as requests:
        assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS
    assert {request.origin for request in requests} == {"hub"}


@pytest.mark.parametrize("content", [WEIGHTS[::-1], bytes(100) * 2000], ids=["random", "compressible"])
def test_files_are_pushed_through_xet(hub, push, content, tmp_path):
    hub.stored = {}
    (tmp_path / "model.onnx").write_bytes(content)
    push()
    repo = hub.repos["me/xet"]
    assert repo.commits[repo.refs["main"]]["model.onnx"] == content
    assert not hub.stored


@pytest.mark.parametrize("transfer", ["fetch", "push"])
def test_silent_server_is_given_up(request, stored, hub, transfer):
    call = request.getfixturevalue(transfer)
    hub.xet_hash(WEIGHTS)
    error = pytest.raises(errors.HubTimeoutError, match=r"through Xet.* HF_HUB_DISABLE_XET=1")
    with xet_server(None) as stored.url, error:
        call()
    if transfer == "push":
        assert "me/xet" not in hub.repos


@pytest.mark.parametrize("status", [0, 403, 500])
@pytest.mark.parametrize("transfer", ["fetch", "push"])
def test_failing_server_is_reported_in_words(request, stored, hub, transfer, status):
    call = request.getfixturevalue(transfer)
    hub.xet_hash(WEIGHTS)
    with xet_server(status) as address:
        stored.url = address if status else "http://127.0.0.1:1"
        with pytest.raises(errors.OptimumHTPError, match=r"through Xet.*HF_HUB_DISABLE_XET=1") as caught:
            call()
    assert not isinstance(caught.value, errors.DownloadError)
    verb = {"fetch": "downloaded through Xet", "push": "upload"}[transfer]
    assert verb in str(caught.value)
    if transfer == "push":
        assert "me/xet" not in hub.repos


def test_weights_are_downloaded_without_xet_if_disabled(stored, hub, fetch, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    stored.url = None
    assert (fetch() / "model.safetensors").read_bytes() == WEIGHTS


def test_files_are_pushed_without_xet_if_it_is_disabled(stored, hub, push, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    stored.url, hub.stored = None, {}
    push()
    repo = hub.repos["me/xet"]
    assert repo.commits[repo.refs["main"]]["model.onnx"] == WEIGHTS[::-1]
    assert [*hub.stored.values()] == [WEIGHTS[::-1]]


GIVEN_UP = """
from pathlib import Path
from optimum_htp.errors import HubTimeoutError
from optimum_htp.extras.push.writing import commit_files, look_at
try:
    commit_files(look_at("me/xet", "hf_writer"), {"model.onnx": Path("FILE")}, message="m", token="hf_writer")
except HubTimeoutError as error:
    print(error)
"""


def test_process_with_an_abandoned_upload_ends(push, stored, tmp_path):
    with xet_server(None) as stored.url:
        code = GIVEN_UP.replace("FILE", str(tmp_path / "model.onnx"))
        done = run_python(code, python=sys.executable, HF_HUB_DISABLE_XET="0", OPTIMUM_HTP_TIMEOUT="2")
    assert "HF_HUB_DISABLE_XET=1" in done.stdout


def test_command_with_an_abandoned_upload_ends_with_its_exit_code(push, stored, exported, tmp_path):
    with xet_server(None) as stored.url:
        done = run(  # a new process: a forked one ends differently
            *(python_of_users().with_name("optimum-cli"), "htp", "push", exported("bert"), "me/xet"),
            check=False,
            **{"HF_TOKEN": WRITER, "HF_HUB_DISABLE_XET": "0", "OPTIMUM_HTP_TIMEOUT": "2"},
        )
    assert (done.returncode, "HF_HUB_DISABLE_XET=1" in done.stderr) == (1, True), done.stderr


@pytest.mark.skipif(
    not hasattr(constants, "HF_HUB_ENABLE_HF_TRANSFER"), reason="huggingface_hub 1 knows no hf_transfer"
)
@pytest.mark.parametrize("is_silent", [False, True])
def test_hf_transfer_is_not_used_because_nothing_interrupts_it(hub, access, monkeypatch, is_silent):
    pytest.importorskip("hf_transfer")
    monkeypatch.setattr(constants, "HF_HUB_ENABLE_HF_TRANSFER", True)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "3")
    weights = WEIGHTS * 110  # huggingface_hub uses it for files above 50 MB
    repo = hub.add("org/transfer", {"model.safetensors": weights})

    def fetch():
        return huggingface().snapshot(repo.repo_id, repo.refs["main"], ["model.safetensors"], access)

    if is_silent:
        over, asked = Event(), []
        monkeypatch.setattr(
            hub, "before_answer", lambda method, path: method == "GET" and (asked.append(path), over.wait(30))
        )
        with pytest.raises(errors.HubTimeoutError, match="org/transfer"):
            fetch()
        over.set()
        assert 1 < len(asked) < 6  # huggingface_hub tries six times
    else:
        assert (fetch() / "model.safetensors").read_bytes() == weights


def test_progress_bars_are_restored_after_transfers():
    from huggingface_hub.utils import tqdm

    before = dict(vars(tqdm))
    first, second = Transfers(), Transfers()
    updates = []

    def transfer():
        updates.append(vars(tqdm).get("update"))
        return 1

    (one,) = first.run([lambda: list(second.run([transfer], 1))], 1)
    assert one == [1]
    assert updates[0] is not None
    assert dict(vars(tqdm)) == before
