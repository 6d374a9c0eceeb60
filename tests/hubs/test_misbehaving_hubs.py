"""Hubs, mirrors and proxies that answer anything: what is of use is used, the rest is an error that says so."""

from __future__ import annotations

import contextlib
import gzip
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from huggingface_hub import constants

from optimum_htp import errors, is_hub_model
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.limits import retry_after
from optimum_htp.hubs.patience import Patience, side_by_side
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.plugins import hub as huggingface
from optimum_htp.stamping.new_record import export_record
from tests.conftest import run_python

pytestmark = pytest.mark.usefixtures("from_the_commit")

FILES = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n" * 50, "model.safetensors": b"weights" * 9}
OPTIONAL = (
    "id",
    "lastModified",
    "cardData",
    "pipeline_tag",
    "author",
    "downloads",
    "likes",
    "private",
    "gated",
    "tags",
    "library_name",
)
STRANGE = (
    None,
    True,
    17,
    -1,
    1.5,
    10**40,
    "",
    "text",
    "\ud800",
    "x" * 100_000,
    [],
    [1, None],
    ["\udfff"],
    {},
    {"a": {"b": [1]}},
    {"license": 3, "base_model": {"x": 1}, "language": False, "task_categories": 9},
)
_COUNT = iter(range(1000))


@pytest.fixture
def repo(hub):
    card = {"license": "mit", "base_model": ["org/one", "org/two"]}
    return hub.add(f"strange/model-{next(_COUNT)}", FILES, pipeline_tag="fill-mask", library_name="x", card=card)


@pytest.fixture
def access(tmp_path):
    return HubAccess(cache_dir=tmp_path / "cache")


@pytest.fixture
def answer(hub):
    """Change what the Hub says of a repo: a function of the answer's content, which returns another or bytes."""

    def with_info(change):
        def tamper(method, path, status, body, headers):
            if "/api/models/" in path and status == 200:
                changed = change(json.loads(body))
                body = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
            return status, body, headers

        hub.tamper = tamper

    return with_info


def ask(what, repo, access, name="config.json"):
    """Ask for a repo, or for one of its files."""
    if what == "info":
        return huggingface().info(repo.repo_id, None, access)
    return huggingface().snapshot(repo.repo_id, repo.refs["main"], [name], access)


@pytest.mark.parametrize("key", OPTIONAL)
def test_facts_of_another_type_are_left_out(answer, repo, access, key):
    for value in STRANGE:
        if key == "id" and value == "text":  # another name: so a renamed repo answers
            continue
        answer(lambda content, value=value: {**content, key: value})
        source = locate(repo.repo_id, None, access)
        assert source.info.commit == repo.refs["main"]
        assert source.info.files == tuple(sorted(FILES))
        checkpoint = fetch_checkpoint(source, access, None)
        record = export_record(checkpoint, task="fill-mask", library="transformers", model_class=None)
        properties = record.to_properties()
        assert all(text.encode() for text in properties.values())
        assert ExportMetadata.from_properties(properties).hub_sha == repo.refs["main"]
        assert is_hub_model(repo.repo_id, access=access)[1]["type"] == "hub"


@pytest.mark.parametrize("key", ["sha", "siblings"])
def test_without_commit_or_files_the_answer_is_an_error_and_the_cache_stands_in(answer, repo, access, key):
    for value in ("missing", *STRANGE):
        if key == "siblings" and isinstance(value, list):
            continue
        answer(lambda content, value=value: {k: v for k, v in {**content, key: value}.items() if v != "missing"})
        with pytest.raises(errors.HubServerError, match=repo.repo_id):
            huggingface().info(repo.repo_id, None, access)
        with pytest.raises(errors.HubServerError, match="cannot be told"):
            locate(repo.repo_id, None, access)
    huggingface().snapshot(repo.repo_id, repo.refs["main"], ["config.json"], access, ref="main")
    assert locate(repo.repo_id, None, access).commit == repo.refs["main"]


@pytest.mark.parametrize(
    "body",
    [b"{}", b"[]", b"17", b"null", b"", b"\xff\xfe", b"[" * 100_000, b'{"sha":' * 100_000, b"9" * 10_000],
    ids=lambda body: repr(body[:8]),
)
def test_answer_of_another_shape_is_typed_and_the_cache_stands_in(answer, repo, access, body):
    huggingface().snapshot(repo.repo_id, repo.refs["main"], ["config.json"], access, ref="main")
    answer(lambda content: body)
    with pytest.raises(errors.HubServerError, match=repo.repo_id):
        huggingface().info(repo.repo_id, None, access)
    assert locate(repo.repo_id, None, access).info is None
    assert is_hub_model(repo.repo_id, access=access)[0] is True


@pytest.mark.parametrize("name", ["../../evil.json", "/etc/passwd", "a/../../b.json", "c:\\x", "", "\ud800.json", 5])
def test_files_that_lead_out_of_the_repo_are_not_listed(answer, repo, access, name):
    answer(lambda content: {**content, "siblings": [*content["siblings"], {"rfilename": name}, "x", None]})
    assert huggingface().info(repo.repo_id, None, access).files == tuple(sorted(FILES))


def test_answer_about_another_commit_is_refused(answer, repo, access):
    answer(lambda content: {**content, "sha": "0" * 40})
    with pytest.raises(errors.HubServerError, match="another commit"):
        huggingface().info(repo.repo_id, repo.refs["main"], access)


def test_packed_answer_that_unpacks_without_end_is_refused(hub, repo, access, tmp_path):
    bomb = gzip.compress(bytes(1 << 29))

    def tamper(method, path, status, body, headers):
        if method == "HEAD":
            return status, body, headers
        return 200, bomb, {**headers, "Content-Encoding": "gzip"}

    hub.tamper = tamper
    with pytest.raises(errors.HubServerError, match="bytes"):
        huggingface().info(repo.repo_id, None, access)
    with pytest.raises(errors.HubServerError, match="bytes"):
        huggingface().snapshot(repo.repo_id, repo.refs["main"], ["config.json"], access)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_packed_file_is_unpacked(hub, repo, access):
    def tamper(method, path, status, body, headers):
        return (
            (status, gzip.compress(body), {**headers, "Content-Encoding": "gzip"})
            if method == "GET"
            else (
                status,
                body,
                headers,
            )
        )

    hub.tamper = tamper
    folder = huggingface().snapshot(repo.repo_id, repo.refs["main"], ["config.json", "vocab.txt"], access)
    assert (folder / "vocab.txt").read_bytes() == FILES["vocab.txt"]


@pytest.mark.parametrize("what", ["info", "file"])
def test_dripping_answer_is_given_up(hub, repo, access, monkeypatch, what):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.5")
    hub.drip = 0.2
    began = time.monotonic()
    with pytest.raises(errors.HubTimeoutError, match="OPTIMUM_HTP_TIMEOUT"):
        ask(what, repo, access)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("what", ["info", "file"])
def test_all_tries_together_are_bounded(hub, repo, access, monkeypatch, what):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1.5")
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    hub.latency = 2.0
    began = time.monotonic()
    with pytest.raises(errors.HubTimeoutError, match="OPTIMUM_HTP_TIMEOUT"):
        ask(what, repo, access)
    assert time.monotonic() - began < 4


def test_what_cannot_be_interrupted_is_left_behind():
    gate = threading.Event()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        list(side_by_side([gate.wait], Patience(0.1), 1))
    assert time.monotonic() - began < 3
    gate.set()


def test_long_file_over_a_slow_line_is_waited_for():
    patience = Patience(0.2)
    for _ in range(4):
        time.sleep(0.1)
        patience.arrived(1 << 13)
    patience.check()


@pytest.mark.parametrize("variable", ["soon", "-1", "inf"])
def test_timeout_that_is_none_is_not_taken(monkeypatch, variable):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", variable)
    assert Patience().seconds == 60


def failing_first(statuses, headers=()):
    """Answer these statuses first."""
    left = list(statuses)

    def tamper(method, path, status, body, sent):
        return (left.pop(0), b"{}", dict(headers)) if left else (status, body, sent)

    return tamper


@pytest.mark.parametrize("statuses", [[429], [503], [429, 429]])
def test_busy_hub_is_asked_again(hub, repo, access, statuses):
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
def test_wait_that_the_hub_asks_for_is_kept_where_huggingface_hub_asks(hub, what):
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


def test_longer_wait_is_an_error_with_its_seconds_and_nobody_asks_meanwhile(hub, repo, access):
    hub.status, hub.wait = 429, 200
    with hub.recorded() as requests:
        for kind in ("info", "info"):
            with pytest.raises(errors.RateLimitedError, match=r"Try again in (200|199) seconds") as caught:
                ask(kind, repo, access)
    assert 190 < caught.value.retry_after <= 200
    assert len(requests) == 1
    hub.status = None
    assert ask("file", repo, access)  # files are counted apart from the API


def test_many_files_wait_for_one_limit_together(hub, access):
    files = {f"{number}.json": b"%d" % number for number in range(40)}
    repo = hub.add("strange/limited", files)
    hub.quota = (30, 2.0)
    with hub.recorded() as requests:
        folder = huggingface().snapshot(repo.repo_id, repo.refs["main"], list(files), access)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert sum(request.status == 429 for request in requests) <= 3 * 8


@pytest.mark.parametrize(
    ("status", "kind"), [(429, errors.RateLimitedError), (503, errors.HubServerError), (500, errors.HubServerError)]
)
def test_look_ups_keep_the_kind_of_error(hub, repo, access, monkeypatch, status, kind):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.4")
    hub.status = status
    with pytest.raises(kind) as caught:
        locate(repo.repo_id, None, access)
    assert type(caught.value) is kind
    if status == 429:
        assert caught.value.retry_after == 7


def test_page_of_a_proxy_is_not_kept_as_a_file(hub, repo, access, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.4")

    def tamper(method, path, status, body, headers):
        return (status, b"<html>Please log in</html>", headers) if method == "GET" else (status, body, headers)

    hub.tamper = tamper
    with pytest.raises(errors.DamagedDownloadError, match="announced"):
        huggingface().snapshot(repo.repo_id, repo.refs["main"], ["vocab.txt"], access)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "name",
    ["\0", "a\ud800/b", "org/model@\ud800", "org/model@\0", "org/model@..", "x" * 10_000, "a@" + "b" * 10_000, b"a/b"],
)
def test_no_name_makes_it_raise(hub, access, name):
    hub.add("org/model", FILES)
    found, said = is_hub_model(name, access=access)
    assert not found
    assert said["type"] in ("invalid", "not_found", "local")


def test_refused_look_up_is_unverified(hub, repo, access):
    hub.status = 403
    found, said = is_hub_model(repo.repo_id, access=access)
    assert (found, said["type"]) == (True, "hub_unverified")
    assert "403" in said["error"]


@pytest.mark.parametrize("target", ["{path}", "file:///etc/passwd", "ftp://127.0.0.1/x", "//["])
@pytest.mark.parametrize(("what", "name"), [("file", "config.json"), ("file", "model.safetensors"), ("info", None)])
def test_redirects_that_lead_nowhere_are_typed(hub, repo, access, target, what, name):
    def tamper(method, path, status, body, headers):
        return 307, b"", {**headers, "Location": target.format(path=path)}

    hub.tamper = tamper
    with pytest.raises(errors.OptimumHTPError):
        ask(what, repo, access, name)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    "header",
    [
        {"X-Linked-ETag": '"../../../outside"'},
        {"X-Linked-ETag": '"{tmp}/outside"'},
        {"X-Linked-ETag": '""'},
        {"X-Linked-ETag": '"..\\\\outside"'},
        {"X-Repo-Commit": "../../../outside"},
        {"X-Repo-Commit": "0" * 40},
    ],
    ids=str,
)
def test_headers_become_no_paths(hub, repo, tmp_path, name, header):
    commit = repo.refs["main"]

    def tamper(method, path, status, body, headers):
        extra = {key: value.format(tmp=tmp_path) for key, value in header.items()}
        return status, body, {**headers, **extra}

    hub.tamper = tamper
    with pytest.raises(errors.HubServerError):
        huggingface().snapshot(repo.repo_id, commit, [name], HubAccess(cache_dir=tmp_path / "a" / "b"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_missing_file_of_another_commit_is_noted_nowhere(hub, repo, tmp_path):
    def tamper(method, path, status, body, headers):
        return status, body, {**headers, "X-Repo-Commit": "../../../outside"}

    hub.tamper = tamper
    for name in ("none.json", "none.bin"):
        with contextlib.suppress(errors.HubServerError):
            ask("file", repo, HubAccess(cache_dir=tmp_path / "a" / "b"), name)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_listed_file_that_has_vanished_is_typed(answer, repo, access, name):
    answer(lambda content: content)
    info = huggingface().info(repo.repo_id, None, access)
    source = locate(repo.repo_id, None, access)
    repo.commits[info.commit] = {key: body for key, body in FILES.items() if key != name}
    with pytest.raises(errors.DownloadError, match=f"lists {name}"):
        fetch_checkpoint(source, access, None)


def test_ref_is_written_once_and_an_empty_one_is_none(repo, access):
    commit = repo.refs["main"]
    folder = huggingface().snapshot(repo.repo_id, commit, ["config.json"], access, ref="main")
    ref = folder.parents[1] / "refs" / "main"
    before = ref.stat()
    huggingface().snapshot(repo.repo_id, commit, ["config.json"], access, ref="main")
    after = ref.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert huggingface().cached_commit(repo.repo_id, None, access) == commit
    ref.write_bytes(b"")
    assert huggingface().cached_commit(repo.repo_id, None, access) is None
    huggingface().snapshot(repo.repo_id, commit, ["config.json"], access, ref="main")
    assert ref.read_text() == commit


def test_cache_is_huggingface_hubs_own(repo, access):
    from huggingface_hub import scan_cache_dir, try_to_load_from_cache

    commit = repo.refs["main"]
    huggingface().snapshot(repo.repo_id, commit, [*FILES, "none.json"], access, ref="main")
    found = scan_cache_dir(access.cache_dir)
    assert not found.warnings
    (cached,) = found.repos
    assert (cached.repo_id, {file.file_name for file in next(iter(cached.revisions)).files}) == (
        repo.repo_id,
        set(FILES),
    )
    for name, body in FILES.items():
        path = try_to_load_from_cache(repo.repo_id, name, cache_dir=access.cache_dir, revision="main")
        assert open(path, "rb").read() == body  # noqa: PTH123, SIM115


def test_sessions_of_others_are_left_as_they_are(repo, access):
    """The session of huggingface_hub is looked at while a thread of ours fetches weights, and no longer."""
    from huggingface_hub.utils import get_session

    def hooks():
        session = get_session()
        return list(session.hooks["response"]) if hasattr(session, "hooks") else None

    huggingface().snapshot(repo.repo_id, repo.refs["main"], list(FILES), access)
    with ThreadPoolExecutor(12) as pool:  # some threads get the number, and with it the session, of one of ours
        assert {str(found) for found in pool.map(lambda _: time.sleep(0.01) or hooks(), range(12))} <= {"[]", "None"}


def test_token_is_not_shown():
    assert "hf_secret" not in repr(HubAccess(token="hf_secret"))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"HF_ENDPOINT": "http://127.0.0.1:1"}, "The Hub at http://127.0.0.1:1, asked for "),
        ({"HF_ENDPOINT": "https://no-such-host.invalid"}, "The Hub at https://no-such-host.invalid, asked for "),
        (
            {"HF_ENDPOINT": "http://a.invalid", "HTTP_PROXY": "http://me:secret@127.0.0.1:1", "NO_PROXY": ""},
            "through the proxy 127.0.0.1:1",
        ),
    ],
    ids=["refused", "unknown", "proxy"],
)
def test_hub_that_cannot_be_reached_is_reported_at_once(variables, said, tmp_path):
    """For look-ups, small and large files, and lists, which huggingface_hub asks for."""
    code = """
import time
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
    lambda: look_at("org/x"),
]
for call in calls:
    began = time.monotonic()
    try:
        call()
    except HubUnreachableError as error:
        print(type(error).__name__, time.monotonic() - began < 5, error)
"""
    done = run_python(code, forked=True, HF_HOME=str(tmp_path), **variables)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert all(line.startswith("HubUnreachableError True") and said in line for line in lines), lines
    hint = "Check the network, HTTP_PROXY and HF_ENDPOINT."
    assert all((hint in line) == ("HTTP_PROXY" in variables) for line in lines)
    assert "secret" not in done.stdout
    assert "Retrying" not in done.stderr


@pytest.mark.slow
def test_download_of_weights_that_stalls_is_given_up_in_time(hub, tmp_path):
    """huggingface_hub asks six times, whatever that takes; the time that we give it is shorter than four."""
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
        told = run_python(code, forked=True, HF_HOME=str(tmp_path / "home"), **short).stdout
    assert "OPTIMUM_HTP_TIMEOUT" in told
    assert told.endswith(" 0\n")  # nothing of ours is left in its logger
    asked = [request for request in requests if request.method == "GET" and "safetensors" in request.path]
    assert 1 < len(asked) < 6
