"""Coverage-guided fuzzing of all readers of a file's bytes: `python tests/fuzz_onnxfile.py -max_total_time=60`.

Needs atheris (`pip install atheris`). Any other exception than a typed error is a finding. If onnx's own parser
accepts the bytes, the metadata must be equal.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["optimum_htp"]):
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import external_files, read_graph, read_header, rewrite_model
    from optimum_htp.onnxfile.reader import is_archive
    from optimum_htp.stamping.originals import strip_metadata

import onnx
from google.protobuf.message import DecodeError

FOLDER = tempfile.TemporaryDirectory()
PATH = Path(FOLDER.name) / "fuzzed.onnx"
os.fsync = lambda descriptor: None  # a fuzzer writes thousands of files a second


def one_input(data: bytes) -> None:
    PATH.write_bytes(data)
    metadata = None
    with contextlib.suppress(OptimumHTPError):
        metadata = read_header(PATH).metadata
        ExportMetadata.from_properties(metadata)
    for attempt in (
        read_graph,
        external_files,
        lambda path: rewrite_model(path, metadata={"k": "v"}, nodes=lambda known: {**known, "t": "v"}),
        strip_metadata,
    ):
        with contextlib.suppress(OptimumHTPError):
            attempt(PATH)
    if metadata is not None:
        with contextlib.suppress(DecodeError, UnicodeDecodeError):
            entries = onnx.ModelProto.FromString(data).metadata_props
            # Archives are read on demand only.
            assert metadata == {entry.key: entry.value for entry in entries if not is_archive(entry.key)}


if __name__ == "__main__":
    # New samples go into the first folder. The fuzzer ends the process, so no code can remove it.
    corpus = [tempfile.mkdtemp(prefix="fuzz-onnxfile-"), str(Path(__file__).parent / "vectors")]
    atheris.Setup([*sys.argv, *corpus], one_input)
    atheris.Fuzz()
