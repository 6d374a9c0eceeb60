"""The keys of the format, and the kinds of their values: how each is written, read and checked, and its JSON Schema.

The fields of `ExportMetadata` are the keys of the record. `FILE_KEYS` are the keys about the file. The JSON Schema and
the table of METADATA.md are generated from both.

Lists and paths are limited, and no path leads out of its folder, because files are untrusted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from optimum_htp.errors import MetadataError
from optimum_htp.masking import get_logger
from optimum_htp.parsing import is_inside, json_or_none

__all__ = [
    "EMBEDDED_ZIP",
    "FILE_KEYS",
    "OLD_KEYS",
    "ORIGINAL",
    "PREFIX",
    "STANDARD_KEYS",
    "EmbeddedFile",
    "Key",
    "Kind",
    "is_preprocessor_class",
    "is_repo_id",
    "key",
    "readable_names",
]

logger = get_logger(__name__)

PREFIX: Final = "hf_"
_SHOWN: Final = 80  # Characters of a value in a message.
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PREPROCESSOR: Final = re.compile(r"Auto(?:[A-Z][A-Za-z]{,40})?(?:Processor|Tokenizer|FeatureExtractor)", re.ASCII)
_ABBREVIATED: Final = re.compile(r"[0-9a-f]{7,40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REPO_ID: Final = re.compile(r"(?!.*(--|\.\.))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MOST_FILES: Final = 512  # Files in a list.
_LONGEST_LIST: Final = 1 << 17  # Characters.
_TOO_LONG: Final = f"a list of files has at most {_LONGEST_LIST} characters"
_NAMES: Final = "it must be a JSON list of file names"


@dataclass(frozen=True)
class Kind:
    """A kind of values; `name` is its name in METADATA.md.

    Attributes:
        schema: JSON Schema of the text; `contentSchema` refers to a definition of the schema file.
        decode: Returns the field's value for a property's text; raises ValueError for a value that is not allowed.
        encode: Returns the text for a field's value.
        is_simple: Whether the decoded value is useful outside of a record: counts and flags.
    """

    name: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    decode: Callable[[str], Any] = str
    encode: Callable[[Any], str] = str
    is_simple: bool = False


@dataclass(frozen=True)
class EmbeddedFile:
    """A file that is embedded in an ONNX file.

    Attributes:
        name: Relative to the model's repo or folder, with `/`.
        size: Bytes.
        sha256: Digest of the content, in hexadecimal.
    """

    name: str
    size: int
    sha256: str


def is_repo_id(text: str) -> bool:
    """Whether a text is a valid repo id in this format. Hubs may have further rules."""
    return _REPO_ID.fullmatch(text) is not None


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError("it must be an integer")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("true", "false", "True", "False", "auto", "manual"):
        raise ValueError("it must be true or false")
    return text.lower() != "false"


def _text_if(is_allowed: Callable[[str], object], message: str) -> Callable[[str], str]:
    def decode(text: str) -> str:
        if not is_allowed(text):
            raise ValueError(message)
        return text

    return decode


def _parsed(text: str, kind: type, what: str, too_long: str = _TOO_LONG) -> Any:
    """Decode a JSON document of a kind (list or dict) and of limited length."""
    if len(text) > _LONGEST_LIST:
        raise ValueError(too_long)
    content = json_or_none(text)
    if not isinstance(content, kind):
        raise ValueError(what)
    return content


def _checked_paths(names: Collection[Any]) -> tuple[str, ...]:
    """Return a list of relative paths. A path that leads out of its folder is rejected."""
    if not all(isinstance(name, str) for name in names):
        raise ValueError(_NAMES)
    if len(names) > _MOST_FILES:
        raise ValueError(f"a list of files has at most {_MOST_FILES} names")
    for name in names:
        if not _is_listable(name):
            raise ValueError(f"{name!r} is not a path inside the model's folder")
    return tuple(names)


def _file_list(text: str) -> tuple[str, ...]:
    return _checked_paths(_parsed(text, list, _NAMES))


def _file_name(text: str) -> str:
    return _file_list(json.dumps([text]))[0]


def _embedded_files(text: str) -> tuple[EmbeddedFile, ...]:
    """Decode a JSON list of names, sizes and digests. No two names are equal on any filesystem."""
    what = "it must be a JSON list of objects with name, size and sha256"
    entries = _parsed(text, list, what)
    if not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(what)
    files = tuple(EmbeddedFile(*map(entry.get, ("name", "size", "sha256"))) for entry in entries)
    if not all(_is_digest(file.sha256) and _is_size(file.size) for file in files):
        raise ValueError(what)
    _checked_paths([file.name for file in files])
    if len({file.name.casefold() for file in files}) < len(files):
        raise ValueError("it contains a file twice")
    return files


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _digests(text: str) -> dict[str, str]:
    """Decode a JSON object of relative paths and sha256 digests."""
    what = "it must be a JSON object of file names and sha256 digests"
    content: dict[str, str] = _parsed(text, dict, what, f"it may have at most {_LONGEST_LIST} characters")
    if not all(map(_is_digest, content.values())):
        raise ValueError(what)
    _checked_paths(content)
    return content


def _is_listable(name: str) -> bool:
    """Whether a list may contain a name: Windows does not allow `sp:v2.model`."""
    return is_inside(name) and ":" not in name


def readable_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names without those that a list of files must not contain."""
    kept = tuple(name for name in names if _is_listable(name))
    if len(kept) < len(names):
        logger.warning("Left out of the file's metadata: %s", sorted(set(names) - set(kept)))
    return kept


def _commits(text: str) -> dict[str, str]:
    """Decode a JSON object of repo ids (for another Hub with its name before it) and commits."""
    what = "it must be a JSON object of repo ids and full commits"
    content: dict[str, str] = _parsed(text, dict, what, what)
    for name, commit in content.items():
        if not (is_repo_id(name.rpartition("://")[2]) and isinstance(commit, str) and _COMMIT.fullmatch(commit)):
            raise ValueError(what)
    return content


def is_preprocessor_class(name: object) -> bool:
    """Whether a name may be that of an Auto class of transformers that loads preprocessors."""
    return isinstance(name, str) and _PREPROCESSOR.fullmatch(name) is not None


def _auto_classes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if not is_preprocessor_class(name):
            raise ValueError(f"{name!r} is not an Auto class that loads preprocessors")
    return names


def _unchecked(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if not {*names} <= {"config", "preprocessors"}:
        raise ValueError("it must be config or preprocessors")
    return names


def _timestamp(text: str) -> str:
    datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
    return text


def _listed(names: Any) -> str:
    return json.dumps(list(names), ensure_ascii=False)


def _object(content: Mapping[str, str]) -> str:
    return json.dumps(dict(sorted(content.items())), ensure_ascii=False)


def _embedded(files: Any) -> str:
    return json.dumps([dataclasses.asdict(item) for item in files], ensure_ascii=False, separators=(",", ":"))


def _json(definition: str) -> dict[str, Any]:
    return {"contentMediaType": "application/json", "contentSchema": {"$ref": f"#/$defs/{definition}"}}


def _pattern(pattern: re.Pattern[str], separator: str = "") -> dict[str, Any]:
    one = pattern.pattern.replace("(?:", "(")
    return {"pattern": f"^{one}({separator}{one})*$" if separator else f"^{one}$"}


def _matching(name: str, pattern: re.Pattern[str], message: str) -> Kind:
    """Return a kind of texts that match a pattern; the message is for all others."""
    return Kind(name, _pattern(pattern), _text_if(pattern.fullmatch, message))


TEXT: Final = Kind("text")
COUNT: Final = Kind("count", {"pattern": "^[0-9]{1,19}$"}, _count, is_simple=True)
FLAG: Final = Kind(
    "flag", {"pattern": "^([Tt]rue|[Ff]alse|auto|manual)$"}, _flag, lambda value: str(value).lower(), is_simple=True
)
MODEL_TYPE: Final = Kind(
    "`hub` or `local`",
    {"enum": ["hub", "local"]},
    _text_if(lambda text: text in ("hub", "local"), "it must be hub or local"),
)
REPO_ID: Final = Kind(
    "repo id",
    {
        "pattern": r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$",
        "not": {"pattern": r"--|\.\."},
    },
    _text_if(is_repo_id, "it is not a repo id"),
)
COMMIT: Final = _matching("40 of `0-9a-f`", _COMMIT, "it must be a full commit, 40 hexadecimal digits")
ABBREVIATED: Final = _matching("7 to 40 of `0-9a-f`", _ABBREVIATED, "it must be 7 to 40 hexadecimal digits")
HUB_NAME: Final = _matching("name", _PROVIDER, "it must be the name of a Hub, as provided by a plugin")
DATE_TIME: Final = Kind("date-time", {"format": "date-time"}, _timestamp)
LIST: Final = Kind("list", _json("paths"), _file_list, _listed)
PATH: Final = Kind("path", {"minLength": 1}, _file_name)
AUTO_CLASSES: Final = Kind("names with `,`", _pattern(_PREPROCESSOR, ","), _auto_classes, ",".join)
UNCHECKED: Final = Kind(
    "names with `,`", {"pattern": "^(config|preprocessors)(,(config|preprocessors))*$"}, _unchecked, ",".join
)
EMBEDDED: Final = Kind("list of files", _json("files"), _embedded_files, _embedded)
DIGESTS: Final = Kind("object", _json("digests"), _digests, _object)
COMMITS: Final = Kind("object", _json("commits"), _commits, _object)
TEXTS: Final = Kind("object", _json("texts"))
WHAT_WAS_BEFORE: Final = Kind("object", _json("original"))
ARCHIVE: Final = Kind("base64", {"contentEncoding": "base64", "contentMediaType": "application/zip"})


@dataclass(frozen=True)
class Key:
    """A key of the format, without its prefix.

    Attributes:
        written: When a writer writes it, in a word or two.
        read_by: Who reads it: `loaders`, `verify`, `people`.
        is_needed: Whether a record without its value is useless, so that no record is written.
    """

    name: str
    kind: Kind
    written: str
    read_by: str
    meaning: str
    is_needed: bool = False

    def decode(self, text: str) -> Any:
        """Return the field's value for a property's text; MetadataError for a value that the key does not allow."""
        try:
            text.encode()  # Lone surrogates cannot be written to a file.
            return self.kind.decode(text)
        except ValueError as error:
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
            name = PREFIX + self.name
            raise MetadataError(f"{name} is {shown!r}: {error}.", name) from error


def key(kind: Kind, written: str, read_by: str, meaning: str, *, default: Any = None, is_needed: bool = False) -> Any:
    """Return the field of a record for a key; `dataclasses.MISSING` for no default."""
    description = {"written": written, "read_by": read_by, "meaning": meaning, "is_needed": is_needed}
    return field(default=default, metadata={"kind": kind, **description})


FILE_KEYS: Final = (
    Key(
        "standard_keys",
        TEXTS,
        "always",
        "`strip`",
        "the standard keys of ONNX (rule 8 for writers) that the writer has set: name to value, `{}` for none",
    ),
    Key(
        "original",
        WHAT_WAS_BEFORE,
        "if a value was replaced",
        "`strip`",
        "the values that the writer of the record, or of the tags, has replaced: see below",
    ),
    Key("embedded_zip", ARCHIVE, "in the file that contains them", "loaders", "the embedded files themselves"),
)
"""The keys about the file, which are not part of the record."""
STANDARD_KEYS, ORIGINAL, EMBEDDED_ZIP = (PREFIX + one.name for one in FILE_KEYS)

# Older tools wrote the counters under these names.
OLD_KEYS: Final = {"hf_model_downloads": "hf_downloads", "hf_model_likes": "hf_likes"}
