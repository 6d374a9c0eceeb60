"""Cached responses of a Hub: files and references of huggingface_hub's cache, and no others."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from optimum_htp import errors
from optimum_htp.hubs.base import HubAccess
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.plugins import hub as huggingface
from tests.support.asking import FILES, ask

pytestmark = pytest.mark.usefixtures("from_the_commit")


def test_page_of_a_proxy_is_not_stored_as_a_file(hub, repo, access, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.4")

    def tamper(method, path, status, body, headers):
        return (status, b"<html>Please log in</html>", headers) if method == "GET" else (status, body, headers)

    hub.tamper = tamper
    with pytest.raises(errors.DamagedDownloadError, match="announced"):
        huggingface().snapshot(repo.repo_id, repo.refs["main"], ["vocab.txt"], access)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


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


def test_ref_is_written_once_and_an_empty_one_is_ignored(repo, access):
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


def test_cache_has_the_layout_of_huggingface_hub(repo, access):
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


def test_sessions_of_other_code_are_unchanged(repo, access):
    """The session of huggingface_hub is observed only while a thread of this package downloads weights."""
    from huggingface_hub.utils import get_session

    def hooks():
        session = get_session()
        return list(session.hooks["response"]) if hasattr(session, "hooks") else None

    huggingface().snapshot(repo.repo_id, repo.refs["main"], list(FILES), access)
    with ThreadPoolExecutor(12) as pool:  # some threads get the id of one of our threads, and with it the session
        assert {str(found) for found in pool.map(lambda _: time.sleep(0.01) or hooks(), range(12))} <= {"[]", "None"}
