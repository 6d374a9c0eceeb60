"""Metadata of remote files, by range requests."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import fsspec
import onnx
import pytest

from optimum_htp.errors import (
    AccessDeniedError,
    DamagedDownloadError,
    GatedModelError,
    HubServerError,
    HubTimeoutError,
    HubUnreachableError,
    InvalidModelReferenceError,
    InvalidOnnxFileError,
    ModelNotFoundError,
    OnnxFileNotFoundError,
    OptimumHTPError,
    RevisionNotFoundError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.onnxfile import read_header
from optimum_htp.resolve.remote_file import is_url, read_remote_header


@pytest.fixture(scope="module")
def files(exported):
    """A file of 80 MB with its parts in an unusual order."""
    path = exported("minilm") / "model.onnx"
    content = path.read_bytes()
    model = onnx.ModelProto.FromString(content)
    graph = onnx.ModelProto(graph=model.graph).SerializeToString()
    model.ClearField("graph")
    return {"onnx/model.onnx": content, "first.onnx": model.SerializeToString() + graph, "text.onnx": b"text" * 100}


@pytest.fixture
def repo(hub, files):
    repo = hub.add("org/onnx-only", files)
    repo.refs["v1"] = repo.refs["refs/pr/3"] = repo.refs["main"]
    return repo


@pytest.mark.parametrize("revision", ["", "@main", "@v1", "@refs/pr/3"])
def test_hub_file_is_read_by_two_ranges_at_its_storage(repo, hub, exported, revision):
    with hub.recorded() as requests:
        header = read_remote_header(f"hf://org/onnx-only{revision}/onnx/model.onnx")
    assert header == read_header(exported("minilm") / "model.onnx")
    assert [(request.method, request.status) for request in requests] == [("HEAD", 302), *[("GET", 206)] * 2]


@pytest.mark.parametrize("name", ["first.onnx", "onnx/model.onnx"])
@pytest.mark.parametrize("revision", ["", "@main", "@refs/pr/3"])
def test_old_repos_have_no_organization(repo, hub, exported, revision, name):
    flat = hub.add("gpt2-like", repo.commits[repo.refs["main"]])
    flat.refs["refs/pr/3"] = flat.refs["main"]
    assert read_remote_header(f"hf://gpt2-like{revision}/{name}") == read_header(exported("minilm") / "model.onnx")
    with pytest.raises(ModelNotFoundError):
        read_remote_header(f"hf://no-such-repo{revision}/{name}")


def test_metadata_before_the_graph_is_found_too(repo, hub, exported):
    with hub.recorded() as requests:
        header = read_remote_header("hf://org/onnx-only/first.onnx")
    assert header == read_header(exported("minilm") / "model.onnx")
    assert len(requests) == 4  # its place, the beginning, the part after that, and the part after the archive


def test_plain_http_is_read_by_ranges(repo, hub, exported):
    with hub.recorded() as requests:
        header = read_remote_header(f"{hub.url}/org/onnx-only/resolve/main/onnx/model.onnx")
    assert header.metadata["hf_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert len(requests) == 3
    assert {request.token for request in requests} == {None}


def test_page_of_a_file_stands_for_the_file(repo, hub):
    for query in ("", "?download=true"):
        header = read_remote_header(f"{hub.url}/org/onnx-only/blob/main/onnx/model.onnx{query}")
        assert header.metadata["hf_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"


def test_token_is_sent_to_the_hub_only(repo, hub):
    hub.tokens["hf_mine"] = {"org/onnx-only"}
    repo.private = True
    with pytest.raises(ModelNotFoundError):
        read_remote_header("hf://org/onnx-only/onnx/model.onnx")
    start = len(hub.requests)
    read_remote_header("hf://org/onnx-only/onnx/model.onnx", HubAccess(token="hf_mine"))
    assert {(request.origin, request.token) for request in hub.requests[start:]} == {("hub", "hf_mine"), ("cdn", None)}


@pytest.mark.parametrize("kind", ["blob", "resolve"])
def test_address_of_a_file_on_the_hub_is_read_with_the_token(repo, hub, kind):
    hub.tokens["hf_mine"] = {"org/onnx-only"}
    url = f"{hub.url}/org/onnx-only/{kind}/refs%2Fpr%2F3/onnx/model.onnx"
    repo.private = True
    with pytest.raises(ModelNotFoundError, match="has no model org/onnx-only,"):
        read_remote_header(url)
    start = len(hub.requests)
    read_remote_header(url, HubAccess(token="hf_mine"))
    assert {(request.origin, request.token) for request in hub.requests[start:]} == {("hub", "hf_mine"), ("cdn", None)}
    repo.private, repo.gated = False, True
    with pytest.raises(GatedModelError, match=rf"org/onnx-only at refs/pr/3 is gated.* \({hub.url}/org/onnx-only\)"):
        read_remote_header(url)


@pytest.mark.parametrize("property", ["private", "gated"])
def test_address_on_another_hub_gets_no_token(repo, hub, property):
    from tests.support.hub import LoopbackHub

    with LoopbackHub() as other:
        other.add("org/onnx-only", {"model.onnx": b""}, **{property: True})
        url = f"{other.url}/org/onnx-only/resolve/main/model.onnx"
        with pytest.raises(AccessDeniedError, match=f"The server responded with 401 for {url}"):
            read_remote_header(url, HubAccess(token="hf_mine"))
        assert {request.token for request in other.requests} == {None}


def test_redirect_to_another_host_does_not_take_the_token_along(repo, hub):
    from tests.support.hub import LoopbackHub

    hub.tokens["hf_mine"] = {"org/onnx-only"}
    with LoopbackHub() as storage:
        storage.add("org/onnx-only", repo.commits[repo.refs["main"]])
        hub.stored_elsewhere["org/onnx-only"] = storage.url.replace("127.0.0.1", "localhost")
        try:
            with hub.recorded() as asked:
                read_remote_header("hf://org/onnx-only/onnx/model.onnx", HubAccess(token="hf_mine"))
        finally:
            del hub.stored_elsewhere["org/onnx-only"]
        assert [request.status for request in asked] == [302]
        assert {request.token for request in storage.requests} == {None}
        assert [request.status for request in storage.requests if not request.is_hop] == [206] * 2


def test_other_places_are_read_through_fsspec(exported, tmp_path):
    path = exported("bert") / "model.onnx"
    with fsspec.open("memory://models/m.onnx", "wb") as stream:
        stream.write(path.read_bytes())
    assert read_remote_header("memory://models/m.onnx") == read_header(path)
    assert read_remote_header(f"file://{shutil.copy(path, tmp_path / 'm.onnx')}") == read_header(path)
    with pytest.raises(OnnxFileNotFoundError, match="memory://models/none"):
        read_remote_header("memory://models/none.onnx")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("hf://org/onnx-only", InvalidModelReferenceError),
        ("hf://org/onnx-only/none.onnx", OnnxFileNotFoundError),
        ("hf://org/none/model.onnx", ModelNotFoundError),
        ("hf://org/onnx-only@none/model.onnx", RevisionNotFoundError),
        ("hf://org/onnx-only/text.onnx", InvalidOnnxFileError),
        ("http://127.0.0.1:9/model.onnx", HubUnreachableError),
        ("zip://none.onnx::none.zip", OptimumHTPError),
    ],
)
def test_each_failure_is_its_own_error(repo, url, error):
    with pytest.raises(error):
        read_remote_header(url)


@pytest.fixture
def remote(repo, hub):
    """Return the function that opens the file of 80 MB, and its content."""
    from optimum_htp.hubs.huggingface.ranges import open_hub_file

    def opened(**access):
        return open_hub_file("org/onnx-only", "main", "onnx/model.onnx", HubAccess(**access), 100)

    return opened, repo.commits[repo.refs["main"]]["onnx/model.onnx"]


def test_expired_address_is_resolved_again(remote, hub):
    opened, content = remote
    file = opened()
    with hub.recorded() as requests:
        for start in (1000, 2000, 3000):
            if start != 3000:
                hub.expire_addresses()
            assert file.read(start, 10) == content[start : start + 10]
    assert [(request.method, request.status) for request in requests] == [
        *[("GET", 403), ("HEAD", 302), ("GET", 206)] * 2,
        ("GET", 206),
    ]


def test_threads_that_meet_an_expired_address_all_go_on(remote, hub):
    opened, content = remote
    file = opened()
    hub.expire_addresses()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda at: file.read(at, 9) == content[at : at + 9], range(1000, 1032)))


def test_storage_that_refuses_fresh_addresses_is_named(remote, hub):
    opened, _ = remote
    hub.tamper = lambda method, path, status, body, headers: (403 if status == 206 else status, body, headers)
    with pytest.raises(HubServerError, match=rf"its storage at {hub.cdn.removeprefix('http://')} responded with 403"):
        opened()


def test_file_that_changes_while_it_is_read_is_noticed(remote, repo, hub):
    opened, content = remote
    file = opened()
    repo.commit({"onnx/model.onnx": content[:-1] + b"!"})
    assert file.read(1000, 5) == content[1000:1005]  # of the commit, not of the branch now
    hub.expire_addresses()
    with pytest.raises(DamagedDownloadError, match="changed while it was read"):
        file.read(1000, 5)


@pytest.mark.parametrize("change", [{"ETag": '"other"'}, {"Content-Range": "bytes 1000-1009/1234"}], ids=str)
def test_file_that_another_server_changes_is_noticed(remote, hub, change):
    opened, _ = remote
    file = opened()
    hub.tamper = lambda method, path, status, body, headers: (status, body, {**headers, **change})
    with pytest.raises(DamagedDownloadError, match="changed while it was read"):
        file.read(1000, 10)


@pytest.mark.parametrize("status", [403, 405, 501])
def test_server_without_head_is_read_by_ranges(repo, hub, status):
    def tamper(method, path, was, body, headers):
        return (status, b"", {}) if method == "HEAD" else (was, body, headers)

    hub.tamper = tamper
    elsewhere = hub.url.replace("127.0.0.1", "localhost")  # another host than the Hub
    header = read_remote_header(f"{elsewhere}/org/onnx-only/resolve/main/onnx/model.onnx")
    assert header.metadata["hf_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://127.0.0.1:1/x.onnx", r"^https://127.0.0.1:1/x.onnx cannot be reached: .*refused"),
        ("http://no-such-host.invalid/x.onnx", r"^http://no-such-host.invalid/x.onnx cannot be reached"),
    ],
)
def test_server_that_cannot_be_reached_is_named(url, said):
    with pytest.raises(HubUnreachableError, match=said) as caught:
        read_remote_header(url)
    assert type(caught.value) is HubUnreachableError
    assert "Hub" not in str(caught.value)


def test_rejecting_server_is_not_called_a_hub(hub):
    hub.status = 500
    with pytest.raises(HubServerError, match=r"^The server responded with 500"):
        read_remote_header(f"{hub.url}/x.onnx")


@pytest.mark.parametrize("address", ["hf://org/onnx-only/onnx/model.onnx", "{url}/x.onnx"])
def test_proxy_that_wants_a_login_is_no_failing_server(repo, hub, address):
    hub.status = 407  # a proxy's response in place of a server on plain HTTP
    with pytest.raises(HubUnreachableError, match="cannot be reached: 407 Proxy Authentication Required"):
        read_remote_header(address.format(url=hub.url))


def test_server_without_ranges_is_hung_up_on(repo, hub):
    hub.serve_ranges = False
    with pytest.raises(HubUnreachableError, match="range requests"):
        read_remote_header("hf://org/onnx-only/onnx/model.onnx")


def test_paths_are_no_urls():
    assert is_url("hf://a/b/c.onnx")
    assert not is_url("C:\\models\\m.onnx")
    assert not is_url("out/model.onnx")


@pytest.mark.parametrize(
    "span",
    [
        None,
        "",
        "bytes */9",
        "bytes 0-5",
        "bytes 0-65535/*",
        "bytes 5-9/100",
        "bytes 0-9/5",
        "bytes 9-0/100",
        "items 0-1/2",
    ],
)
def test_unrequested_range_is_a_typed_error(repo, hub, span):
    def tamper(method, path, status, body, headers):
        headers = {name: value for name, value in headers.items() if name != "Content-Range"}
        return status, body, headers if span is None else {**headers, "Content-Range": span}

    hub.tamper = tamper
    with pytest.raises(HubServerError):
        read_remote_header("hf://org/onnx-only/onnx/model.onnx")


@pytest.mark.parametrize(
    "address", ["hf://org/onnx-only/onnx/model.onnx", "{url}/org/onnx-only/resolve/main/first.onnx"]
)
def test_reading_that_stalls_or_is_cut_off_is_typed(repo, hub, monkeypatch, address):
    address = address.format(url=hub.url)
    hub.cut_bodies = True
    with pytest.raises(DamagedDownloadError):
        read_remote_header(address)
    hub.cut_bodies = False
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "0.5")
    hub.drip = 0.1
    with pytest.raises(HubTimeoutError):
        read_remote_header(address)
    hub.drip, hub.latency = 0.0, 2.0
    with pytest.raises(HubTimeoutError):
        read_remote_header(address)


@pytest.mark.parametrize("status", [401, 403, 416, 429, 500, 503])
def test_rejection_by_any_server_is_a_typed_error(repo, hub, status, monkeypatch):
    monkeypatch.setenv("OPTIMUM_HTP_TIMEOUT", "1")
    hub.status = status
    for address in ("hf://org/onnx-only/onnx/model.onnx", f"{hub.url}/some/where.onnx"):
        with pytest.raises(OptimumHTPError) as caught:
            read_remote_header(address)
        assert type(caught.value) is not OptimumHTPError
