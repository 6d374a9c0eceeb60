"""Coverage-guided fuzzing of remote reads: `python tests/fuzz_remote.py -max_total_time=60`.

Needs atheris (`pip install atheris`). The bytes are in fsspec's memory and in a file; both reads must give the same
result, or a typed error.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris
import fsspec

with atheris.instrument_imports(include=["optimum_htp"]):
    from optimum_htp.errors import OptimumHTPError
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import read_header
    from optimum_htp.resolve.remote_file import read_remote_header

FOLDER = tempfile.TemporaryDirectory()
PATH = Path(FOLDER.name) / "fuzzed.onnx"
MEMORY = fsspec.filesystem("memory")


def said(read: object, place: object) -> object:
    """Return the read content, or the type of the error."""
    try:
        header = read(place)  # type: ignore[operator]
        record = ExportMetadata.from_properties(header.metadata) if "hf_model_type" in header.metadata else None
    except OptimumHTPError as error:
        return type(error)
    return header.metadata, header.producer_name, record


def one_input(data: bytes) -> None:
    PATH.write_bytes(data)
    MEMORY.pipe("/fuzzed.onnx", data)
    assert said(read_remote_header, "memory://fuzzed.onnx") == said(read_header, PATH)


if __name__ == "__main__":
    corpus = [tempfile.mkdtemp(prefix="fuzz-remote-"), str(Path(__file__).parent / "vectors")]
    atheris.Setup([*sys.argv, *corpus], one_input)
    atheris.Fuzz()
