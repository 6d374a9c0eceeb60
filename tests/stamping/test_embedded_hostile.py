"""Damaged or hostile archives in ONNX files leave no files on disk."""

from __future__ import annotations

import base64
import hashlib
import io
import struct
import zipfile

import pytest
from transformers import AutoConfig

from optimum_htp import embed_files, unembed_files, verify_metadata
from optimum_htp.caching import forget
from optimum_htp.errors import (
    ArgumentError,
    EmbeddedFilesError,
)
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.resolve.embedded import embedded_in
from optimum_htp.stamping.verify import Status
from tests.support.embedded import KEYS, properties, tampered


def zipped(**changes):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in changes.pop("entries", [("config.json", b"{}")]):
            archive.writestr(name, content)
        archive.comment = changes.pop("comment", b"")
    return base64.b64encode(changes.pop("before", b"") + packed.getvalue() + changes.pop("after", b"")).decode()


def far_away():
    """Return an archive whose only entry has an offset beyond the file, in ZIP64's form."""
    packed = base64.b64decode(zipped())
    directory, end = packed.index(b"PK\x01\x02"), packed.index(b"PK\x05\x06")
    entry, last = bytearray(packed[directory:end]), bytearray(packed[end:])
    extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    struct.pack_into("<H", entry, 30, len(extra))
    struct.pack_into("<L", entry, 42, 0xFFFFFFFF)
    struct.pack_into("<L", last, 12, len(entry) + len(extra))
    return base64.b64encode(packed[:directory] + entry + extra + last).decode()


LISTED = [{"name": "config.json", "size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}]
HOSTILE = {
    "path out": {"files": {"../config.json": b"{}"}},
    "absolute path": {"files": {"/etc/config.json": b"{}"}},
    "backslash": {"files": {"config.json": b"{}", "a\\vocab.model": b"{}"}},
    "code": {"files": {"config.json": b"{}", "modeling.py": b"import os"}},
    "pickle": {"files": {"config.json": b"{}", "pytorch_model.bin": b"x"}},
    "code in a folder": {"files": {"config.json": b"{}", "qformer_tokenizer/run.py": b"x"}},
    "twice": {"listed": [*LISTED, {**LISTED[0], "name": "CONFIG.json"}]},
    "other content": {"listed": [{**LISTED[0], "sha256": "0" * 64}]},
    "longer": {"listed": [{**LISTED[0], "size": 1}]},
    "shorter": {"listed": [{**LISTED[0], "size": 3}]},
    "not listed": {"listed": LISTED, "text": zipped(entries=[("config.json", b"{}"), ("vocab.txt", b"x")])},
    "not there": {"listed": [*LISTED, {**LISTED[0], "name": "vocab.txt"}]},
    "entry twice": {"listed": LISTED, "text": zipped(entries=[("config.json", b"{}"), ("config.json", b"{}")])},
    "no base64": {"listed": LISTED, "text": "%%%"},
    "no zip": {"listed": LISTED, "text": base64.b64encode(b"x" * 100).decode()},
    "nothing": {"listed": LISTED, "text": ""},
    "comment": {"listed": LISTED, "text": zipped(comment=b"x")},
    "something behind": {"listed": LISTED, "text": zipped(after=b"x" * 50)},
    "offset beyond all": {"listed": LISTED, "text": far_away()},
    "too large": {"listed": [{**LISTED[0], "size": 10**8}]},
    "bomb": {"files": {"config.json": b" " * 20_000_000}},
    "too many": {"files": {f"{index}.model": b"x" for index in range(513)}},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_untrusted_file_writes_nothing_to_disk(what, bert, home, tmp_path):
    tampered(bert, **HOSTILE[what])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"model\.onnx") as caught:
        AutoConfig.from_pretrained(bert)
    assert getattr(caught.value, "key", None) in KEYS
    with pytest.raises(ValueError, match=r"model\.onnx"):
        embedded_in(bert, read_record(bert)).folder()
    assert verify_metadata(bert).status is Status.INVALID
    with pytest.raises(ValueError, match=r"model\.onnx"):
        unembed_files(bert, tmp_path / "out")
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in (home, *home.parents)] == before
    unembed_files(bert)
    assert not KEYS & properties(bert).keys()


def test_damaged_archives_never_raise_anything_else(bert, home):
    good = base64.b64decode(properties(bert)["hf_embedded_zip"])
    for at in range(0, len(good), 29):
        bad = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
        rewrite_model(bert, metadata={"hf_embedded_zip": base64.b64encode(bad).decode()})
        forget()
        try:
            AutoConfig.from_pretrained(bert)  # content other than the config may be damaged without an effect
        except EmbeddedFilesError as error:
            assert str(bert) in str(error)  # noqa: PT017


def test_limit_is_the_users(bert, home, monkeypatch, tmp_path):
    monkeypatch.setenv("OPTIMUM_HTP_EMBEDDED_LIMIT", "0")
    with pytest.raises(EmbeddedFilesError, match="OPTIMUM_HTP_EMBEDDED_LIMIT"):
        AutoConfig.from_pretrained(bert)
    with pytest.raises(EmbeddedFilesError, match="OPTIMUM_HTP_EMBEDDED_LIMIT"):
        embed_files(bert)
    monkeypatch.setenv("OPTIMUM_HTP_EMBEDDED_LIMIT", "many")
    with pytest.raises(ArgumentError, match="many"):
        AutoConfig.from_pretrained(bert)
