"""A key of the format is one line: the kind of its values, when it is written, who reads it, and its meaning.

The fields of `ExportMetadata` are the keys of the record. `FILE_KEYS` are the keys about the file. The JSON Schema
and the table of METADATA.md are generated from both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from optimum_htp.errors import MetadataError
from optimum_htp.metadata import kinds
from optimum_htp.metadata.kinds import Kind

__all__ = ["EMBEDDED_ZIP", "FILE_KEYS", "OLD_KEYS", "ORIGINAL", "PREFIX", "STANDARD_KEYS", "Key", "key", "keys_of"]

PREFIX: Final = "hf_"
_SHOWN: Final = 80  # Characters of a value in a message.


@dataclass(frozen=True)
class Key:
    """A key of the format, without its prefix.

    Attributes:
        name: Name of the field.
        kind: Kind of its values.
        written: When a writer writes it, in a word or two.
        read_by: Who reads it: `loaders`, `verify`, `people`.
        meaning: Its meaning.
        is_needed: Whether a record without its value is useless, so that no record is written.
    """

    name: str
    kind: Kind
    written: str
    read_by: str
    meaning: str
    is_needed: bool = False

    def decode(self, text: str) -> Any:
        """Return the field's value for a property's text.

        Raises:
            MetadataError: The key does not allow the value.
        """
        try:
            text.encode()  # Lone surrogates cannot be written to a file.
            return self.kind.decode(text)
        except ValueError as error:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            name = PREFIX + self.name
            raise MetadataError(f"{name} is {shown!r}: {error}.", name) from error


def key(kind: Kind, written: str, read_by: str, meaning: str, *, default: Any = None, is_needed: bool = False) -> Any:
    """Return the field of a record for a key."""
    return field(default=default, metadata=described(kind, written, read_by, meaning, is_needed=is_needed))


def described(kind: Kind, written: str, read_by: str, meaning: str, *, is_needed: bool = False) -> Mapping[str, Any]:
    """Return the description of a field of a record without a default."""
    return {
        "kind": kind,
        "written": written,
        "read_by": read_by,
        "meaning": meaning,
        "is_needed": is_needed,
    }


def keys_of(record: type) -> dict[str, Key]:
    """Return the keys for the fields of a record, by name."""
    return {one.name: Key(one.name, **one.metadata) for one in fields(record)}


FILE_KEYS: Final = (
    Key(
        "standard_keys",
        kinds.TEXTS,
        "always",
        "`strip`",
        "the standard keys of ONNX (rule 8 for writers) that the writer has set: name to value, `{}` for none",
    ),
    Key(
        "original",
        kinds.WHAT_WAS_BEFORE,
        "if a value was replaced",
        "`strip`",
        "the values that the writer of the record, or of the tags, has replaced: see below",
    ),
    Key("embedded_zip", kinds.ARCHIVE, "in the file that contains them", "loaders", "the embedded files themselves"),
)
"""The keys about the file, which are not part of the record."""
STANDARD_KEYS, ORIGINAL, EMBEDDED_ZIP = (PREFIX + one.name for one in FILE_KEYS)

# Older tools wrote the counters under these names.
OLD_KEYS: Final = {"hf_model_downloads": "hf_downloads", "hf_model_likes": "hf_likes"}
