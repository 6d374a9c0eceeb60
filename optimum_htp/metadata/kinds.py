"""The kinds of values of a record's keys: how each is written, read and checked, and its JSON Schema.

Lists and paths are limited, and no path leads out of its folder, because files are untrusted.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

from optimum_htp.masking import get_logger
from optimum_htp.parsing import is_inside, json_or_none, parse_json

__all__ = ["EmbeddedFile", "Kind", "is_preprocessor_class", "is_repo_id", "readable_names"]

logger = get_logger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_PREPROCESSOR: Final = re.compile(r"Auto(?:[A-Z][A-Za-z]{,40})?(?:Processor|Tokenizer|FeatureExtractor)", re.ASCII)
_ABBREVIATED: Final = re.compile(r"[0-9a-f]{7,40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REPO_ID: Final = re.compile(r"(?!.*(--|\.\.))\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
_PROVIDER: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_MOST_FILES: Final = 512  # Files in a list.
_LONGEST_LIST: Final = 1 << 17  # Characters.


@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Attributes:
        name: Name in METADATA.md.
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


def _one_of(*allowed: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"it must be {' or '.join(allowed)}")
        return text

    return checked


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"it must be {what}")
        return text

    return checked


def _file_list(text: str) -> tuple[str, ...]:
    """Decode a JSON list of relative paths. A path that leads out of its folder is rejected."""
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"a list of files has at most {_LONGEST_LIST} characters")
    try:
        names = parse_json(text)
    except ValueError as error:
        raise ValueError("it must be a JSON list of file names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("it must be a JSON list of file names")
    if len(names) > _MOST_FILES:
        raise ValueError(f"a list of files has at most {_MOST_FILES} names")
    for name in cast("list[str]", names):
        if not _is_listable(name):
            raise ValueError(f"{name!r} is not a path inside the model's folder")
    return tuple(names)


def _embedded_files(text: str) -> tuple[EmbeddedFile, ...]:
    """Decode a JSON list of names, sizes and digests. No two names are equal on any filesystem."""
    what = "it must be a JSON list of objects with name, size and sha256"
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"a list of files has at most {_LONGEST_LIST} characters")
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise ValueError(what) from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(what)
    files = tuple(EmbeddedFile(*(entry.get(key) for key in ("name", "size", "sha256"))) for entry in entries)
    for file in files:
        if not isinstance(file.sha256, str) or not _SHA256.fullmatch(file.sha256):
            raise ValueError(what)
        if isinstance(file.size, bool) or not isinstance(file.size, int) or not 0 <= file.size < 1 << 40:
            raise ValueError(what)
    _file_list(json.dumps([file.name for file in files]))
    if len({file.name.casefold() for file in files}) < len(files):
        raise ValueError("it contains a file twice")
    return files


def _digests(text: str) -> dict[str, str]:
    """Decode a JSON object of relative paths and sha256 digests."""
    if len(text) > _LONGEST_LIST:
        raise ValueError(f"it may have at most {_LONGEST_LIST} characters")
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError("it must be a JSON object of file names and sha256 digests") from error
    if not isinstance(content, dict) or not all(
        isinstance(digest, str) and _SHA256.fullmatch(digest) for digest in content.values()
    ):
        raise ValueError("it must be a JSON object of file names and sha256 digests")
    _file_list(json.dumps(list(content)))
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
    content = json_or_none(text) if len(text) <= _LONGEST_LIST else None
    if not isinstance(content, dict) or not all(
        is_repo_id(name.rpartition("://")[2]) and isinstance(commit, str) and _COMMIT.fullmatch(commit)
        for name, commit in content.items()
    ):
        raise ValueError("it must be a JSON object of repo ids and full commits")
    return content


def _file_name(text: str) -> str:
    return _file_list(json.dumps([text]))[0]


def is_preprocessor_class(name: object) -> bool:
    """Whether a name may be that of an Auto class of transformers that loads preprocessors."""
    return isinstance(name, str) and _PREPROCESSOR.fullmatch(name) is not None


def _auto_classes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if not is_preprocessor_class(name):
            raise ValueError(f"{name!r} is not an Auto class that loads preprocessors")
    return names


def _timestamp(text: str) -> str:
    datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)
    return text


def _repo_id(text: str) -> str:
    if not is_repo_id(text):
        raise ValueError("it is not a repo id")
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


_WHAT_IS_CHECKED: Final = _one_of("config", "preprocessors")

TEXT: Final = Kind("text")
COUNT: Final = Kind("count", {"pattern": "^[0-9]{1,19}$"}, _count, is_simple=True)
FLAG: Final = Kind(
    "flag", {"pattern": "^([Tt]rue|[Ff]alse|auto|manual)$"}, _flag, lambda value: str(value).lower(), is_simple=True
)
MODEL_TYPE: Final = Kind("`hub` or `local`", {"enum": ["hub", "local"]}, _one_of("hub", "local"))
REPO_ID: Final = Kind(
    "repo id",
    {
        "pattern": r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?$",
        "not": {"pattern": r"--|\.\."},
    },
    _repo_id,
)
COMMIT: Final = Kind("40 of `0-9a-f`", _pattern(_COMMIT), _matching(_COMMIT, "a full commit, 40 hexadecimal digits"))
ABBREVIATED: Final = Kind(
    "7 to 40 of `0-9a-f`", _pattern(_ABBREVIATED), _matching(_ABBREVIATED, "7 to 40 hexadecimal digits")
)
HUB_NAME: Final = Kind("name", _pattern(_PROVIDER), _matching(_PROVIDER, "the name of a Hub, as provided by a plugin"))
DATE_TIME: Final = Kind("date-time", {"format": "date-time"}, _timestamp)
LIST: Final = Kind("list", _json("paths"), _file_list, _listed)
PATH: Final = Kind("path", {"minLength": 1}, _file_name)
AUTO_CLASSES: Final = Kind("names with `,`", _pattern(_PREPROCESSOR, ","), _auto_classes, ",".join)
UNCHECKED: Final = Kind(
    "names with `,`",
    {"pattern": "^(config|preprocessors)(,(config|preprocessors))*$"},
    lambda text: tuple(map(_WHAT_IS_CHECKED, text.split(","))),
    ",".join,
)
EMBEDDED: Final = Kind("list of files", _json("files"), _embedded_files, _embedded)
DIGESTS: Final = Kind("object", _json("digests"), _digests, _object)
COMMITS: Final = Kind("object", _json("commits"), _commits, _object)
TEXTS: Final = Kind("object", _json("texts"))
WHAT_WAS_BEFORE: Final = Kind("object", _json("original"))
ARCHIVE: Final = Kind("base64", {"contentEncoding": "base64", "contentMediaType": "application/zip"})
