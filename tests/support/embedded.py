"""The list of embedded files in a file, and archives with other content."""

from __future__ import annotations

import hashlib
import json

import onnx

from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import rewrite_model
from optimum_htp.resolve.archive import pack

KEYS = {"hf_embedded_files", "hf_embedded_in", "hf_embedded_zip"}


def properties(path):
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}


def tampered(path, files=None, listed=None, text=None):
    """Write other embedded files into an ONNX file than the listed ones, or another list."""
    record = read_record(path)
    contents = {"config.json": b"{}"} if files is None else files
    if listed is None:
        listed = [
            {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        ]
    archive = pack(contents) if text is None else text
    rewrite_model(path, metadata={"hf_embedded_files": json.dumps(listed), "hf_embedded_zip": archive})
    return record
