"""Downloads of configs and tokenizers: one request each, through any proxy, and never with another content."""

from __future__ import annotations

import gzip

import pytest

from optimum_htp import errors, parsing
from optimum_htp.hubs.base import HubAccess
from optimum_htp.plugins import hub as huggingface
from tests.support.hub import LoopbackHub

FILES = {"config.json": b'{"model_type": "bert"}', "vocab.txt": b"[PAD]\n" * 500}
NAME = "org/small-files"


@pytest.fixture
def repo(hub):
    return hub.add(NAME, FILES)


@pytest.fixture
def fetch(repo, hub, tmp_path):
    """Download the files; return their folder and, by file, the methods of the requests."""

    def fetch(**options):
        with hub.recorded() as requests:
            folder = huggingface().snapshot(
                NAME, repo.refs["main"], list(FILES), HubAccess(cache_dir=tmp_path, **options)
            )
        methods = {}
        for request in requests:
            if NAME not in request.url:  # a thread of an earlier test, which was given up there
                continue
            methods.setdefault(request.path.rpartition("/")[2], []).append(request.method)
        return folder, methods

    return fetch


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def blobs(folder):
    return {path.name for path in (folder.parents[1] / "blobs").iterdir()}


def test_each_file_takes_one_request(fetch):
    folder, methods = fetch()
    assert methods == {name: ["GET"] for name in FILES}
    assert contents(folder) == FILES


def test_content_of_another_commit_is_not_fetched_twice(fetch, repo):
    first, _ = fetch()
    repo.commit({**FILES, "README.md": b"# changed"})
    second, methods = fetch()
    assert second != first
    assert methods == {name: ["GET"] for name in FILES}
    assert contents(second) == FILES
    assert all((first / name).resolve() == (second / name).resolve() for name in FILES)


def test_forced_download_replaces_damaged_files(fetch):
    folder, _ = fetch()
    (folder / "vocab.txt").resolve().write_bytes(b"damaged")
    folder, methods = fetch(force_download=True)
    assert methods == {name: ["GET"] for name in FILES}
    assert contents(folder) == FILES


@pytest.mark.parametrize("lost", ["X-Repo-Commit", "ETag"])
def test_proxy_with_headers_on_head_only_is_supported(fetch, hub, lost):
    def tamper(method, path, status, body, headers):
        return status, body, {name: value for name, value in headers.items() if name != lost or method == "HEAD"}

    hub.tamper = tamper
    folder, methods = fetch()
    assert methods == {name: ["GET", "HEAD", "GET"] for name in FILES}
    assert contents(folder) == FILES


def test_proxy_that_packs_and_renames_leaves_the_content_its_name(fetch, hub):
    plain, _ = fetch()
    names = blobs(plain)

    def tamper(method, path, status, body, headers):
        if method == "HEAD":
            return status, body, headers
        etag = headers["ETag"].strip('"')
        return status, gzip.compress(body), {**headers, "Content-Encoding": "gzip", "ETag": f'"{etag}-gzip"'}

    hub.tamper = tamper
    folder, _ = fetch(force_download=True)
    assert contents(folder) == FILES
    assert blobs(folder) == names


def test_response_for_another_commit_is_not_stored(fetch, hub, tmp_path):
    hub.tamper = lambda method, path, status, body, headers: (status, body, {**headers, "X-Repo-Commit": "0" * 40})
    with pytest.raises(errors.HubServerError, match="is for"):
        fetch()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_body_with_a_wrong_length_is_not_stored(fetch, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1")
    hub.tamper = lambda method, path, status, body, headers: (status, body[:-1], {**headers, "X-Linked-Size": "7"})
    with pytest.raises(errors.OptimumHTPError, match="announced"):
        fetch()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_file_on_a_storage_host_is_downloaded_without_the_token(fetch, repo, hub):
    with LoopbackHub() as storage:
        copy = storage.add(NAME, FILES)
        assert copy.refs == repo.refs

        def tamper(method, path, status, body, headers):
            place = {"Location": storage.url.replace("127.0.0.1", "localhost") + path}
            return 302, b"", {**headers, **place}

        hub.tamper = tamper
        start = len(hub.requests)
        folder, _ = fetch(token="hf_secret")
        asked = hub.requests[start:]
        assert contents(folder) == FILES
        assert [(request.method, request.token) for request in asked] == [("GET", "hf_secret")] * len(FILES)
        assert [request.token for request in storage.requests if not request.is_hop] == [None] * len(FILES)


def test_content_that_a_proxy_changed_is_fetched_as_huggingface_hub_does(fetch, hub):
    def tamper(method, path, status, body, headers):
        return status, body[:-1] + b"\0", headers  # of the right length: the Hub gives no other value

    hub.tamper = tamper
    folder, methods = fetch()
    assert methods == {name: ["GET", "HEAD", "GET"] for name in FILES}
    assert contents(folder) == {name: body[:-1] + b"\0" for name, body in FILES.items()}


def test_names_of_headers_match_in_any_case(fetch, hub):
    def tamper(method, path, status, body, headers):
        return status, body, {name.lower(): value for name, value in headers.items()}

    hub.tamper = tamper
    _, methods = fetch()
    assert methods == {name: ["GET"] for name in FILES}


@pytest.mark.parametrize("name", ["D:evil.json", "config.json:stream"])
def test_name_with_a_drive_is_refused_where_there_are_drives(repo, tmp_path, monkeypatch, name):
    access = HubAccess(cache_dir=tmp_path)
    monkeypatch.setattr(parsing, "_HAS_DRIVES", True)
    with pytest.raises(errors.HubServerError, match="is not a valid file name"):
        huggingface().snapshot(NAME, repo.refs["main"], [name], access)
