"""Hubs that are slow, busy or cannot be reached: waits are bounded, and limits of the Hub are kept."""

from __future__ import annotations

import threading
import time

import pytest
from huggingface_hub import constants

from optimum_htp import errors
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import Deadline, in_parallel, retry_after
from optimum_htp.plugins import hub as huggingface
from tests.conftest import run_python
from tests.support.asking import FILES, ask

pytestmark = pytest.mark.usefixtures("from_the_commit")


@pytest.mark.parametrize("what", ["info", "file"])
def test_very_slow_response_is_given_up(hub, repo, access, monkeypatch, what):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.5")
    hub.drip = 0.2
    with pytest.raises(errors.HubTimeoutError, match="OPTIMUM_HTP_TIMEOUT"):
        ask(what, repo, access)


@pytest.mark.parametrize("what", ["info", "file"])
def test_all_tries_together_are_bounded(hub, repo, access, monkeypatch, what):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1.5")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    tries = []

    def late(method, path):
        tries.append(path)
        time.sleep(2)

    hub.before_answer = late
    with pytest.raises(errors.HubTimeoutError, match="OPTIMUM_HTP_TIMEOUT"):
        ask(what, repo, access)
    assert len(tries) <= 1.5 / 0.3


def test_uninterruptible_thread_is_abandoned():
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        list(in_parallel([gate.wait], Deadline(0.1), 1))
    gate.set()


def test_long_file_over_a_slow_line_is_waited_for():
    deadline = Deadline(0.2)
    for _ in range(4):
        time.sleep(0.1)
        deadline.arrived(1 << 13)
    deadline.check()


@pytest.mark.parametrize("variable", ["soon", "-1", "inf"])
def test_invalid_timeout_is_ignored(monkeypatch, variable):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", variable)
    assert Deadline().seconds == 60


def failing_first(statuses, headers=()):
    """Answer the first requests with these statuses."""
    left = list(statuses)

    def tamper(method, path, status, body, sent):
        return (left.pop(0), b"{}", dict(headers)) if left else (status, body, sent)

    return tamper


@pytest.mark.parametrize("statuses", [[429], [503], [429, 429]])
def test_request_to_a_busy_hub_is_repeated(hub, repo, access, statuses):
    hub.tamper = failing_first(statuses, {"Retry-After": "1"})
    assert huggingface().info(repo.repo_id, None, access).commit == repo.refs["main"]
    hub.tamper = failing_first(statuses, {"Retry-After": "1"})
    folder = huggingface().snapshot(repo.repo_id, repo.refs["main"], ["config.json", "vocab.txt"], access)
    assert (folder / "vocab.txt").read_bytes() == FILES["vocab.txt"]
    hub.tamper = failing_first(statuses, {"Retry-After": "1"})
    folder = huggingface().snapshot(repo.repo_id, repo.refs["main"], ["model.safetensors"], access)
    assert (folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]


def test_wait_that_the_hub_asks_for_is_read_from_its_rate_limit(hub, repo, access):
    hub.tamper = failing_first([429], {"RateLimit": '"api";r=0;t=2', "RateLimit-Policy": '"fixed window";"api";q=500'})
    began = time.monotonic()
    with hub.recorded() as requests:
        assert huggingface().info(repo.repo_id, None, access).commit == repo.refs["main"]
    assert [request.status for request in requests] == [429, 200]
    assert time.monotonic() - began > 2


@pytest.mark.parametrize("what", ["author", "collection", "push"])
def test_requested_wait_applies_to_huggingface_hub_too(hub, what):
    from optimum_htp.extras.push.writing import commit_files, look_at
    from optimum_htp.hubs.huggingface.listings import models_of_author, models_of_collection

    hub.add("strange/listed", {"a.json": b"{}"})
    hub.collections["strange/some"] = [("model", "strange/listed")]
    hub.writers = {"hf_writer": {"strange"}}
    hub.repos.pop("strange/new", None)
    asked = []

    def busy_each_first_time(method, path, status, body, headers):
        asked.append((method, path))
        return (status, body, headers) if asked.count((method, path)) > 1 else (429, b"{}", {"RateLimit": "x;r=0;t=1"})

    hub.tamper = busy_each_first_time
    if what == "author":
        assert "strange/listed" in models_of_author("strange", (), None, HubAccess())
    elif what == "collection":
        assert models_of_collection("strange/some", HubAccess()) == (["strange/listed"], 0)
    else:
        commit_files(look_at("strange/new", "hf_writer"), {"a.json": b"{}"}, message="m", token="hf_writer")
        assert hub.repos["strange/new"].commits[hub.repos["strange/new"].refs["main"]]["a.json"] == b"{}"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"RateLimit": '"api";r=0;t=43'}, 43),
        ({"RateLimit": '"a";r=9;t=200, "b";t=50;r=0'}, 50),
        ({"RateLimit": '"api"; r=0 ; t = 7'}, 7),
        ({"Retry-After": "5", "RateLimit": '"api";r=0;t=43'}, 5),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0),
        ({"RateLimit": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=99999999999999999999'}, None),
        ({}, None),
    ],
    ids=str,
)
def test_waits_are_read_from_headers(headers, seconds):
    assert retry_after(headers) == seconds


def test_longer_wait_is_an_error_and_stops_all_requests(hub, repo, access):
    hub.status, hub.wait = 429, 200
    with hub.recorded() as requests:
        for kind in ("info", "info"):
            with pytest.raises(errors.RateLimitedError, match=r"Try again in (200|199) seconds") as caught:
                ask(kind, repo, access)
    assert 190 < caught.value.retry_after <= 200
    assert len(requests) == 1
    hub.status = None
    assert ask("file", repo, access)  # files are counted separately from the API


def test_many_files_wait_for_one_limit_together(hub, access):
    files = {f"{number}.json": b"%d" % number for number in range(40)}
    repo = hub.add("strange/limited", files)
    hub.quota = (30, 2.0)
    with hub.recorded() as requests:
        folder = huggingface().snapshot(repo.repo_id, repo.refs["main"], list(files), access)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert sum(request.status == 429 for request in requests) <= 3 * 8


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "The Hub at http://127.0.0.1:1, contacted for "),
        ({"HF_ENDPOINT": "https://no-such-host.invalid"}, "The Hub at https://no-such-host.invalid, contacted for "),
        (
            {"HF_ENDPOINT": "http://a.invalid", "HTTP_PROXY": "http://me:secret@127.0.0.1:1", "NO_PROXY": ""},
            "through the proxy 127.0.0.1:1",
        ),
    ],
    ids=["refused", "unknown", "proxy"],
)
def test_hub_that_cannot_be_reached_is_reported(variables, said, tmp_path):
    """For look-ups, small and large files, and lists, which huggingface_hub requests."""
    code = """
from optimum_htp import plugins
from optimum_htp.errors import HubUnreachableError
from optimum_htp.hubs import HubAccess
from optimum_htp.hubs.huggingface.listings import models_of_author
from optimum_htp.extras.push.writing import look_at
hub, access = plugins.hub(), HubAccess()
calls = [
    lambda: hub.info("org/x", None, access),
    lambda: hub.snapshot("org/x", "0" * 40, ["config.json"], access),
    lambda: hub.snapshot("org/x", "0" * 40, ["model.safetensors"], access),
    lambda: models_of_author("org/x", (), None, access),
    lambda: look_at("org/x", None),
]
for call in calls:
    try:
        call()
    except HubUnreachableError as error:
        print(type(error).__name__, error)
"""
    done = run_python(code, forked=True, HF_HOME=str(tmp_path), **variables)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("HubUnreachableError ") and said in line for line in lines), lines
    hint = "Check the network, HTTP_PROXY and HF_ENDPOINT."
    assert all((hint in line) == ("HTTP_PROXY" in variables) for line in lines)
    assert "secret" not in done.stdout
    assert "Retrying" not in done.stderr


@pytest.mark.slow
def test_stalled_download_of_weights_is_given_up(hub, tmp_path):
    """huggingface_hub tries six times, however long that takes; the time limit here is shorter than four tries."""
    hub.add("strange/stalls", {"config.json": b"{}", "model.safetensors": b"0" * 1000})
    code = """
import logging
from optimum_htp import plugins
from optimum_htp.errors import HubTimeoutError
from optimum_htp.hubs import HubAccess
hub, access = plugins.hub(), HubAccess()
commit = hub.info("strange/stalls", None, access).commit
try:
    hub.snapshot("strange/stalls", commit, ["model.safetensors"], access)
except HubTimeoutError as error:
    print(error, len(logging.getLogger("huggingface_hub.file_download").handlers))
"""
    hub.before_answer = lambda method, path: setattr(hub, "drip", 60.0 if "safetensors" in path else 0.0)
    short = {"OPTIMUM_HTP_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    with hub.recorded() as requests:
        output = run_python(code, forked=True, HF_HOME=str(tmp_path / "home"), **short).stdout
    assert "OPTIMUM_HTP_TIMEOUT" in output
    assert output.endswith(" 0\n")  # its logger has no handlers of this package
    asked = [request for request in requests if request.method == "GET" and "safetensors" in request.path]
    assert 1 < len(asked) < 6
