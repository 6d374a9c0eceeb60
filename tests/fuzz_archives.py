"""Coverage-guided fuzzing of embedded archives: `python tests/fuzz_archives.py -max_total_time=60`.

Needs atheris (`pip install atheris`). An archive gives exactly the listed files, or a typed error.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["optimum_htp", "zipfile"]):
    from optimum_htp.errors import EmbeddedFilesError
    from optimum_htp.resolve.archive import described, pack, unpack

FILES = {"config.json": b"{}", "vocab.txt": b"a\nb\n" * 40}
LISTED = described(FILES)
LIMIT = 1 << 20  # bytes


def one_input(data: bytes) -> None:
    """Unpack these bytes as a ZIP of two files; base64 would hide its structure from the fuzzer."""
    try:
        found = unpack(base64.b64encode(data), LISTED, LIMIT)
    except EmbeddedFilesError:
        return
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == {
        file.name: file.sha256 for file in LISTED
    }


if __name__ == "__main__":
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-archives-"))
    (corpus / "packed").write_bytes(base64.b64decode(pack(FILES)))
    atheris.Setup([*sys.argv, str(corpus)], one_input)
    atheris.Fuzz()
