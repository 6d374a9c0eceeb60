"""Hubs and proxies with any response: useful responses are used, others cause an error with the reason."""

from __future__ import annotations

import gzip

import pytest

from optimum_htp import errors, is_hub_model
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.plugins import hub as huggingface
from optimum_htp.stamping.stamp import export_record
from tests.support.asking import FILES, ask

pytestmark = pytest.mark.usefixtures("from_the_commit")

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


@pytest.mark.parametrize("key", OPTIONAL)
def test_facts_of_another_type_are_left_out(answer, repo, access, key):
    for value in STRANGE:
        if key == "id" and value == "text":  # another name, as a renamed repo answers
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
        with pytest.raises(errors.HubServerError, match="cannot be checked"):
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


def test_response_for_another_commit_is_rejected(answer, repo, access):
    answer(lambda content: {**content, "sha": "0" * 40})
    with pytest.raises(errors.HubServerError, match="another commit"):
        huggingface().info(repo.repo_id, repo.refs["main"], access)


def test_response_that_unpacks_endlessly_is_rejected(hub, repo, access, tmp_path):
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


@pytest.mark.parametrize(
    "name",
    ["\0", "a\ud800/b", "org/model@\ud800", "org/model@\0", "org/model@..", "x" * 10_000, "a@" + "b" * 10_000, b"a/b"],
)
def test_no_name_makes_it_raise(hub, access, name):
    hub.add("org/model", FILES)
    found, said = is_hub_model(name, access=access)
    assert not found
    assert said["type"] in ("invalid", "not_found", "local")


def test_denied_lookup_is_unverified(hub, repo, access):
    hub.status = 403
    found, said = is_hub_model(repo.repo_id, access=access)
    assert (found, said["type"]) == (True, "hub_unverified")
    assert "403" in said["error"]


@pytest.mark.parametrize("target", ["{path}", "file:///etc/passwd", "ftp://127.0.0.1/x", "//["])
@pytest.mark.parametrize(("what", "name"), [("file", "config.json"), ("file", "model.safetensors"), ("info", None)])
def test_invalid_redirects_are_typed_errors(hub, repo, access, target, what, name):
    def tamper(method, path, status, body, headers):
        return 307, b"", {**headers, "Location": target.format(path=path)}

    hub.tamper = tamper
    with pytest.raises(errors.OptimumHTPError):
        ask(what, repo, access, name)


def test_token_is_not_shown():
    assert "hf_secret" not in repr(HubAccess(token="hf_secret"))
