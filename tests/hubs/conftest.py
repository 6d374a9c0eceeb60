"""Shared fixtures."""

from __future__ import annotations

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from optimum_htp.extras.mirror.filling import mirror_model
from optimum_htp.metadata import read_record
from tests.support.asking import FILES

_COUNT = iter(range(1000))


@pytest.fixture
def bert(exported):
    return exported("bert") / "model.onnx"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mirror"


@pytest.fixture
def web(folder):
    """Serve the mirror's folder with Python's own web server; yield its URL."""
    folder.mkdir(exist_ok=True)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def mirrored(bert, folder, access, monkeypatch):
    """A folder that mirrors the commit of a file, with an unreachable Hub."""
    mirror_model(str(bert), folder.as_uri(), access)
    monkeypatch.setenv("OPTIMUM_HTP_MIRRORS", folder.as_uri())
    return folder / "tiny" / "bert" / read_record(bert).hub_sha


@pytest.fixture
def repo(hub):
    card = {"license": "mit", "base_model": ["org/one", "org/two"]}
    return hub.add(f"strange/model-{next(_COUNT)}", FILES, pipeline_tag="fill-mask", library_name="x", card=card)


@pytest.fixture
def answer(hub):
    """Change the Hub's facts about a repo, with a function of the response that returns another content or bytes."""

    def with_info(change):
        def tamper(method, path, status, body, headers):
            if "/api/models/" in path and status == 200:
                changed = change(json.loads(body))
                body = changed if isinstance(changed, bytes) else json.dumps(changed).encode()
            return status, body, headers

        hub.tamper = tamper

    return with_info
