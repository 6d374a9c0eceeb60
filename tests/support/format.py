"""The JSON Schema of the format and METADATA.md's table of keys, generated from the keys.

python -m tests.support.format
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import optimum_htp
from optimum_htp.metadata.kinds import FILE_KEYS, PREFIX, Key
from optimum_htp.metadata.record import KEYS

_PACKAGE = Path(optimum_htp.__file__).parent
SCHEMA = _PACKAGE / "schema" / "hub_metadata.schema.json"
PROPOSAL = _PACKAGE / "METADATA.md"
_TABLE = re.compile(r"(?<=\n)\| key \| type \| written .*?(?=\n\n)", re.DOTALL)


def schema() -> str:
    """Return the schema's text; the parts besides its properties are fixed text."""
    content = json.loads(SCHEMA.read_text(encoding="utf-8"))
    content["properties"] = {PREFIX + key.name: _schema_of(key) for key in (*KEYS.values(), *FILE_KEYS)}
    return json.dumps(content, indent=2) + "\n"


def _schema_of(key: Key) -> dict[str, Any]:
    return {"type": "string", **key.kind.schema, "description": key.meaning[:1].upper() + key.meaning[1:] + "."}


def proposal() -> str:
    """Return the text of METADATA.md."""
    rows = [
        f"| `{PREFIX}{key.name}` | {key.kind.name} | {key.written} | {key.read_by} | {key.meaning} |"
        for key in (*KEYS.values(), *FILE_KEYS)
    ]
    table = "\n".join(["| key | type | written | read by | meaning |", "| --- | --- | --- | --- | --- |", *rows])
    return _TABLE.sub(lambda _: table, PROPOSAL.read_text(encoding="utf-8"))


if __name__ == "__main__":
    SCHEMA.write_text(schema(), encoding="utf-8")
    PROPOSAL.write_text(proposal(), encoding="utf-8")
