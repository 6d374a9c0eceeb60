"""URLs of web pages in place of ONNX files: the error says so, and has the right command."""

from __future__ import annotations

import pytest

from optimum_htp.errors import InvalidModelReferenceError
from optimum_htp.resolve.remote_file import read_remote_header
from tests.support.hub import LoopbackHub


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("org/onnx-only", "main/FILE.onnx"),
        ("org/onnx-only/tree/main", "main/FILE.onnx"),
        ("org/onnx-only/tree/refs%2Fpr%2F3/onnx?not-for-all-audiences=true", "refs%2Fpr%2F3/onnx/FILE.onnx"),
    ],
)
@pytest.mark.parametrize("ranges", [True, False])
def test_page_of_a_repo_is_distinguished_from_a_damaged_file(hub, page, file, ranges):
    hub.add("org/onnx-only", {"model.onnx": b""})
    hub.serve_ranges = ranges
    with pytest.raises(InvalidModelReferenceError, match="is a web page, not a file") as caught:
        read_remote_header(f"{hub.url}/{page}")
    assert f"{hub.url}/org/onnx-only/resolve/{file}, or hf://org/onnx-only@{file}" in str(caught.value)


def test_web_page_of_another_server_is_distinguished_from_a_damaged_file():
    with LoopbackHub() as other:
        other.add("org/there", {"model.onnx": b""})
        url = f"{other.url}/org/there/blob/main/model.onnx"
        with pytest.raises(InvalidModelReferenceError, match=f"{url} is a web page, not a file. Pass the address"):
            read_remote_header(url)
