"""The values that a stamp or tags replaced in a file. The file records them, so that `strip_metadata` restores them.

The property `hf_original` is a JSON object. It contains the replaced header fields (a field that the file did not have
is left out) and two more entries:

    metadata   properties of other tools that the stamp has replaced: key to value
    added      properties of plugins that the stamp has set: key to value

A value counts as written by this package only while it equals what a stamp wrote; a later change belongs to another
tool. A second stamp keeps the note of the first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeGuard

from optimum_htp.hierarchy.tags import MODEL_KEYS, TAGGED_IR_VERSION, untagged, without_traces
from optimum_htp.metadata import ORIGINAL, OWN_KEYS, PREFIX, STANDARD_KEYS, has_record
from optimum_htp.onnxfile import TEXT_FIELDS, ModelHeader, OpenModel
from optimum_htp.onnxfile.data_files import copy_data
from optimum_htp.parsing import json_or_none

__all__ = [
    "AUTHOR",
    "DOMAINS",
    "LICENSE",
    "PRODUCER",
    "Original",
    "ir_version_note",
    "original_of",
    "strip_metadata",
    "strip_stack_traces",
]

PRODUCER: Final = "optimum-htp"
# ONNX itself defines two properties: https://github.com/onnx/onnx/blob/main/docs/MetadataProps.md
AUTHOR: Final = "model_author"
LICENSE: Final = "model_license"
DOMAINS: Final = {"hub": "co.huggingface", "local": "local.optimum-htp"}
_IR_VERSION: Final = "ir_version"


@dataclass(frozen=True)
class Original:
    """A file's header before it was stamped.

    Attributes:
        texts: Its text fields.
        kept: The present properties that no stamp wrote, without archives.
        replaced: The properties that a stamp has replaced or left out, and no tool has set since.
        added: The present properties that a stamp set for plugins.
        dropped: Keys of the properties that a stamp wrote.
        ir_version: The IR version before tags raised it; None if they did not.
    """

    texts: Mapping[str, str]
    kept: Mapping[str, str]
    replaced: Mapping[str, str]
    added: Mapping[str, str]
    dropped: frozenset[str]
    ir_version: int | None

    @property
    def metadata(self) -> dict[str, str]:
        """The properties before the stamp, without archives."""
        return {**self.replaced, **self.kept}

    def note(self, texts: Mapping[str, str], metadata: Mapping[str, str], added: Mapping[str, str]) -> str:
        """Return the property that records what a stamp replaces, from the text fields and properties that it sets.

        `added` are the properties that plugins set.
        """
        note: dict[str, Any] = {name: value for name, value in self.texts.items() if texts.get(name, value) != value}
        if self.ir_version is not None:
            note[_IR_VERSION] = self.ir_version
        replaced = {
            key: value for key, value in self.metadata.items() if key in OWN_KEYS or metadata.get(key, value) != value
        }
        entries = {"metadata": replaced, "added": dict(added)}
        return _encoded({**note, **{name: entry for name, entry in entries.items() if entry}})


def original_of(header: ModelHeader) -> Original:
    """Return a file's header before it was stamped; the present header if it is not stamped."""
    note, stamped = _noted(header), has_record(header.metadata)
    texts = {name: text for name, text in header.texts.items() if not _is_ours(header, name)}
    texts |= {name: text for name, text in _texts(header, note).items() if _is_ours(header, name)}
    added = {key: text for key, text in _mapping(note.get("added")).items() if header.metadata.get(key) == text}
    ours = _our_standard_keys(header) | added.keys()
    ours |= {ORIGINAL} if note else set()  # Other tools may use this key for other values.
    ours |= OWN_KEYS if stamped else set()
    dropped = frozenset(ours & {*header.metadata, *header.archives})
    kept = {key: text for key, text in header.metadata.items() if key not in dropped}
    noted = _mapping(note.get("metadata")) if stamped else {}
    replaced = {key: text for key, text in noted.items() if key not in kept}
    version = note.get(_IR_VERSION)
    raised = type(version) is int and 0 <= version < header.ir_version == TAGGED_IR_VERSION
    return Original(texts, kept, replaced, added, dropped, version if raised else None)


def ir_version_note(header: ModelHeader, version: int) -> dict[str, str]:
    """Return the property that records a file's IR version; the existing note if tags do not raise the version.

    It is written again after the tags, so that tagging a file twice gives the same bytes.
    """
    if version == header.ir_version:
        return {key: value for key, value in header.metadata.items() if key == ORIGINAL}
    known = {name: value for name, value in _noted(header).items() if name != _IR_VERSION}
    return {ORIGINAL: _encoded({**known, _IR_VERSION: header.ir_version})}


def strip_metadata(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove all keys of this package from a file and its nodes, and restore what stamps and tags replaced.

    Args:
        path: The file.
        output: The output file; None to write in place. External data is copied too.

    Returns:
        The number of keys that were removed from the file and its nodes.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path.
        OnnxWriteError: The result cannot be written. Existing files are unchanged.
    """
    with OpenModel.at(path) as model:
        header = model.header
        before = original_of(header)
        ours = before.dropped | (MODEL_KEYS & header.metadata.keys())
        removed = len(ours - before.replaced.keys())

        def visit(known: Mapping[str, str]) -> Mapping[str, str]:
            nonlocal removed
            plain = untagged(known)
            removed += len(known.keys() - plain.keys())
            return plain

        if output is not None:
            copy_data(Path(path), Path(output))
        model.rewrite(
            metadata=before.replaced,
            drop=ours.__contains__,
            nodes=visit,
            ir_version=before.ir_version,
            output=output,
            texts={
                name: before.texts.get(name) for name in header.texts if before.texts.get(name) != header.texts[name]
            },
        )
    return removed


def strip_stack_traces(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> int:
    """Remove PyTorch's stack traces from the nodes of a file. They contain paths of the exporting machine.

    Keys of this package are kept. Arguments and exceptions are those of `strip_metadata`.

    Returns:
        The number of nodes with a stack trace.
    """
    removed = 0

    def visit(known: Mapping[str, str]) -> Mapping[str, str]:
        nonlocal removed
        plain = without_traces(known)
        removed += len(known) - len(plain)
        return plain

    with OpenModel.at(path) as model:
        if output is not None:
            copy_data(Path(path), Path(output))
        model.rewrite(nodes=visit, output=output)
    return removed


def _our_standard_keys(header: ModelHeader) -> frozenset[str]:
    """Return the standard keys of ONNX that have the value of a stamp."""
    noted = _noted_standard_keys(header.metadata)
    return frozenset(key for key in (AUTHOR, LICENSE) if header.metadata.get(key, "") == noted.get(key))


def _is_our_doc_string(text: str) -> bool:
    """Whether a stamp wrote a doc string."""
    return text.startswith("Exported from ") and f"\nwith {PRODUCER} " in text


def _is_ours(header: ModelHeader, name: str) -> bool:
    """Whether a text field has the value of a stamp."""
    if name.startswith("producer_"):
        return header.producer_name == PRODUCER
    if name == "domain":
        return header.domain in DOMAINS.values() and has_record(header.metadata)
    return _is_our_doc_string(header.doc_string)


def _texts(header: ModelHeader, note: Mapping[str, Any]) -> dict[str, str]:
    """Return the text fields that a stamp replaced."""
    found = {name: note[name] for name in TEXT_FIELDS if _is_text(note.get(name))}
    if not {"producer_name", "producer_version"} & found.keys():
        # Files without notes have name and version in one text. Names have no spaces, versions may.
        name, _, version = header.metadata.get(f"{PREFIX}original_producer", "").partition(" ")
        found |= {**({"producer_name": name} if name else {}), **({"producer_version": version} if version else {})}
    return found


def _noted(header: ModelHeader) -> dict[str, Any]:
    """Return the note in a file; empty without a readable one."""
    return _object(header.metadata.get(ORIGINAL, "{}"))


def _noted_standard_keys(metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the standard keys that a stamp recorded as set; without notes, the keys that it would have set."""
    text = metadata.get(STANDARD_KEYS)
    if text is not None:
        return _object(text)  # If another tool wrote it, it is empty here, and that tool's keys are kept.
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
    """Whether a value is a string that a file can contain: without lone surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _encoded(note: Mapping[str, Any]) -> str:
    return json.dumps(note, ensure_ascii=False, separators=(",", ":"))
