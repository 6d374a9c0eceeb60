"""What a file was before it was stamped or tagged: noted in the file, so that `strip` can give it back.

The property `hf_original` is a JSON object. It has the header fields that were replaced, as they were (a field that
was not in the file is left out), and two more entries:

    metadata   properties of others that the stamp has replaced: key to value
    added      properties of plugins that the stamp has set: key to value

A value counts as ours only while it is what a stamp wrote: what somebody has changed since is theirs. A second stamp
keeps the note of the first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from optimum_htp.hierarchy.tags import TAGGED_IR_VERSION
from optimum_htp.metadata import ORIGINAL, OWN_KEYS, PREFIX, STANDARD_KEYS, has_record
from optimum_htp.onnxfile import TEXT_FIELDS, ModelHeader
from optimum_htp.parsing import json_or_none

__all__ = [
    "AUTHOR",
    "DOMAINS",
    "LICENSE",
    "PRODUCER",
    "Original",
    "ir_version_note",
    "is_our_doc_string",
    "original_of",
    "our_standard_keys",
]

PRODUCER: Final = "optimum-htp"
# The two properties that ONNX itself defines: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
AUTHOR: Final = "model_author"
LICENSE: Final = "model_license"
DOMAINS: Final = {"hub": "co.huggingface", "local": "local.optimum-htp"}
_IR_VERSION: Final = "ir_version"


@dataclass(frozen=True)
class Original:
    """A file's header as it was before it was stamped.

    Attributes:
        texts: The text fields that were in it.
        kept: Of the properties that it has now, those that no stamp wrote, without archives.
        replaced: The properties that a stamp has replaced or left out, and nobody has set since.
        added: Of the properties that it has now, those that a stamp set for plugins.
        dropped: Keys of the properties that a stamp wrote.
        ir_version: What tags have raised the IR version from; None where they have not.
    """

    texts: Mapping[str, str]
    kept: Mapping[str, str]
    replaced: Mapping[str, str]
    added: Mapping[str, str]
    dropped: frozenset[str]
    ir_version: int | None

    @property
    def metadata(self) -> dict[str, str]:
        """The properties that it had, without archives."""
        return {**self.replaced, **self.kept}

    def note(self, texts: Mapping[str, str], metadata: Mapping[str, str], added: Mapping[str, str]) -> str:
        """Return the property that notes what a stamp replaces.

        Args:
            texts: The text fields that it sets.
            metadata: The properties that it sets.
            added: Those of them that plugins set.
        """
        note: dict[str, Any] = {name: value for name, value in self.texts.items() if texts.get(name, value) != value}
        if self.ir_version is not None:
            note[_IR_VERSION] = self.ir_version
        replaced = {
            key: value for key, value in self.metadata.items() if key in OWN_KEYS or metadata.get(key, value) != value
        }
        return _encoded({**note, **_named(metadata=replaced, added=dict(added))})


def original_of(header: ModelHeader) -> Original:
    """Return what a file was before it was stamped; what it is, where it was not."""
    note, stamped = _noted(header), has_record(header.metadata)
    texts = {name: text for name, text in header.texts.items() if not _is_ours(header, name)}
    texts |= {name: text for name, text in _texts(header, note).items() if _is_ours(header, name)}
    added = {key: text for key, text in _mapping(note.get("added")).items() if header.metadata.get(key) == text}
    ours = our_standard_keys(header) | added.keys()
    ours |= {ORIGINAL} if note else set()  # other tools may use the name for something else
    ours |= OWN_KEYS if stamped else set()
    dropped = frozenset(ours & {*header.metadata, *header.archives})
    kept = {key: text for key, text in header.metadata.items() if key not in dropped}
    noted = _mapping(note.get("metadata")) if stamped else {}
    replaced = {key: text for key, text in noted.items() if key not in kept}
    version = note.get(_IR_VERSION)
    raised = type(version) is int and 0 <= version < header.ir_version == TAGGED_IR_VERSION
    return Original(texts, kept, replaced, added, dropped, version if raised else None)


def ir_version_note(header: ModelHeader, version: int) -> dict[str, str]:
    """Return the property that notes which IR version a file had; the note that it has where tags do not raise it.

    It is written again behind the tags, so that tagging a file twice gives the same bytes.
    """
    if version == header.ir_version:
        return {key: value for key, value in header.metadata.items() if key == ORIGINAL}
    known = {name: value for name, value in _noted(header).items() if name != _IR_VERSION}
    return {ORIGINAL: _encoded({**known, _IR_VERSION: header.ir_version})}


def our_standard_keys(header: ModelHeader) -> frozenset[str]:
    """Return which of ONNX's standard keys have what a stamp put there, and nobody has changed since."""
    noted = _noted_standard_keys(header.metadata)
    return frozenset(key for key in (AUTHOR, LICENSE) if header.metadata.get(key, "") == noted.get(key))


def is_our_doc_string(text: str) -> bool:
    """Whether a doc string is one that a stamp wrote."""
    return text.startswith("Exported from ") and f"\nwith {PRODUCER} " in text


def _is_ours(header: ModelHeader, name: str) -> bool:
    """Whether a text field has what a stamp wrote."""
    if name.startswith("producer_"):
        return header.producer_name == PRODUCER
    if name == "domain":
        return header.domain in DOMAINS.values() and has_record(header.metadata)
    return is_our_doc_string(header.doc_string)


def _texts(header: ModelHeader, note: Mapping[str, Any]) -> dict[str, str]:
    """Return the text fields that a stamp replaced, as they were."""
    found = {name: note[name] for name in TEXT_FIELDS if _is_text(note.get(name))}
    if not {"producer_name", "producer_version"} & found.keys():
        # Before there were notes, name and version were in one text. Names have no blanks, versions may.
        name, _, version = header.metadata.get(f"{PREFIX}original_producer", "").partition(" ")
        found |= {**({"producer_name": name} if name else {}), **({"producer_version": version} if version else {})}
    return found


def _noted(header: ModelHeader) -> dict[str, Any]:
    """Return the note in a file, empty where it has none that can be read."""
    return _object(header.metadata.get(ORIGINAL, "{}"))


def _noted_standard_keys(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return what a stamp says that it has set; in a file of before there were notes, what it would have set."""
    text = metadata.get(STANDARD_KEYS)
    if text is not None:
        return _object(text)  # if it is not ours, it is empty here, and keys of others stay
    if not has_record(metadata):
        return {}
    owner, slash, _ = metadata.get(f"{PREFIX}hub_id", "").partition("/")
    return {AUTHOR: owner if slash else None, LICENSE: metadata.get(f"{PREFIX}license")}


def _object(text: str) -> dict[str, Any]:
    content = json_or_none(text)
    return content if isinstance(content, dict) else {}


def _mapping(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        return {}
    return {key: text for key, text in value.items() if _is_text(key) and _is_text(text)}


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is text that a file can hold: without lone surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _named(**entries: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
    return {name: entry for name, entry in entries.items() if entry}


def _encoded(note: Mapping[str, Any]) -> str:
    return json.dumps(note, ensure_ascii=False, separators=(",", ":"))
