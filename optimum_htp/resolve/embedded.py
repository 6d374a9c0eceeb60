"""Reads the embedded files of an ONNX file: in memory, or as a folder for loaders that need one.

The folder is named after its content, and is below the Hugging Face home. The first process that needs it creates it,
and all others use it. If the home is not writable, a process creates a temporary folder for itself.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import (
    ArgumentError,
    ConfigLoadError,
    EmbeddedFilesError,
    InvalidOnnxFileError,
    MissingSiblingError,
)
from optimum_htp.libraries.code_references import refuse_code
from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.repo_files import config_files, is_sentence_transformers_file
from optimum_htp.masking import get_logger
from optimum_htp.metadata import EMBEDDED_ZIP, EmbeddedFile, ExportMetadata
from optimum_htp.onnxfile.folder_lock import folder_lock
from optimum_htp.onnxfile.reader import archive_of, opened
from optimum_htp.onnxfile.wire import ByteWindow
from optimum_htp.resolve.archive import longest_text, unpack
from optimum_htp.resolve.model_files import model_root, sibling

__all__ = ["EMBEDDED_LIMIT", "NOT_RUN", "EmbeddedFiles", "embedded_in", "is_embeddable", "largest_total"]

logger = get_logger(__name__)

EMBEDDED_LIMIT: Final = "OPTIMUM_HTP_EMBEDDED_LIMIT"
"""The variable with the maximum total size of embedded files, in MB."""
_DEFAULT_LIMIT: Final = 64  # MB
# Configs and vocabularies. The list of allowed names contains folders whose files loaders may request.
_SUFFIXES: Final = frozenset(
    (".json", ".txt", ".model", ".spm", ".tiktoken", ".jinja", ".bpe", ".codes", ".tokenizer")
)
NOT_RUN: Final = (
    "Code that embedded files refer to never runs. Remove the files with `optimum-cli htp unembed {file}`. For a "
    "model on a Hub, trust_remote_code=True loads the files of its commit."
)
"""The next step for embedded files that refer to code."""
_PATIENCE: Final = 60.0  # Seconds to wait while another process creates a folder.
_LEFTOVER: Final = 3600.0  # Seconds after which an unfinished folder is removed.

_folders: Final[LRUCache[str, Path]] = LRUCache(256)
_temporary: Final[list[tempfile.TemporaryDirectory[str]]] = []


def largest_total() -> int:
    """Return the maximum total size of embedded files in bytes."""
    text = os.environ.get(EMBEDDED_LIMIT, "").strip()
    if not text:
        return _DEFAULT_LIMIT * 1_000_000
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ArgumentError(f"{EMBEDDED_LIMIT} is {text!r}. Set it to a number of MB.")
    return int(text) * 1_000_000


def is_embeddable(name: str, library: str | None) -> bool:
    """Whether a name is that of a config or preprocessor file: no code, no weights, no path out of the folder.

    The manifest of an export is also accepted.
    """
    is_known = name == EXPORT_MANIFEST or name in config_files((name,), library=library or "transformers")
    return is_known and name.isprintable() and "\\" not in name and PurePosixPath(name).suffix in _SUFFIXES


@dataclass(frozen=True)
class EmbeddedFiles:
    """The embedded files of a model.

    `path` is the requested ONNX file, or its URL; `holder` the file of the same model that contains them.
    """

    path: Path | str
    holder: Path | str
    files: tuple[EmbeddedFile, ...]
    library: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, relative to the model's repo or folder."""
        return tuple(file.name for file in self.files)

    @property
    def digest(self) -> str:
        """The digest of their content: equal for equal files."""
        lines = sorted(f"{file.sha256} {file.size} {file.name}" for file in self.files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, names: Collection[str] | None = None, *, with_code: bool = False) -> dict[str, bytes]:
        """Return the content of files, by name; of all files by default.

        They may refer to code only with `with_code`, which is for files that no library will load. Files that only
        sentence_transformers reads are checked when it requests them.

        Raises:
            EmbeddedFilesError: They do not match the record, or exceed the limits.
            UntrustedCodeError: They refer to code.
        """
        try:
            self.check()
            limit = largest_total()
            with self._opened() as window:
                text = archive_of(window, EMBEDDED_ZIP, longest_text(limit))
            if text is None:
                raise EmbeddedFilesError(f"it lists {len(self.files)} files, but contains none")
            found = unpack(text, self.files, limit, names)
        except (EmbeddedFilesError, InvalidOnnxFileError) as error:
            raise EmbeddedFilesError(
                f"The embedded files of {self.holder} cannot be used: {error}. Download the file again, or remove "
                f"them with `optimum-cli htp unembed {self.holder}`. {EMBEDDED_LIMIT} sets the maximum size in MB.",
                EMBEDDED_ZIP,
            ) from error
        if not with_code:
            loaded = {name: text for name, text in found.items() if not is_sentence_transformers_file(name)}
            refuse_code(loaded, self.holder, NOT_RUN.format(file=self.holder))
        return found

    def _opened(self) -> AbstractContextManager[ByteWindow]:
        return opened(self.holder)

    def check(self) -> None:
        """Reject files that are not configs or preprocessor files of a model."""
        for name in self.names:
            if not is_embeddable(name, self.library):
                raise EmbeddedFilesError(f"{name!r} is neither a config nor a preprocessor file")

    def folder(self) -> Path:
        """Return a folder that contains them; see `read`."""
        return _folders.get_or_make(self.digest, self._found_or_made, valid=self._is_whole)

    def _found_or_made(self) -> Path:
        root = _root()
        if root is not None:
            try:
                return self._made_in(root)
            except OSError as error:
                logger.info("%s is not writable, so a temporary folder is created: %s", root, error)
        contents = self.read()
        try:
            temporary = tempfile.TemporaryDirectory(prefix="optimum-htp-")
            _write(Path(temporary.name), contents)
        except OSError as error:
            raise ConfigLoadError(
                f"The embedded files of {self.holder} must be unpacked into a folder, but no folder is writable: "
                f"{error}. Set HF_HOME or TMPDIR to a writable folder."
            ) from error
        _temporary.append(temporary)  # It is removed at the end of the process.
        return Path(temporary.name)

    def _made_in(self, root: Path) -> Path:
        target = root / self.digest
        if self._is_whole(target):
            return target
        root.mkdir(parents=True, exist_ok=True)
        with _alone_in(root):
            if self._is_whole(target):
                return target
            _clear_leftovers(root)
            fresh = root / f".{self.digest[:16]}.{secrets.token_hex(8)}"
            try:
                _write(fresh, self.read())
                if target.exists():  # Another process has removed files from it.
                    target.rename(fresh.with_name(f"{fresh.name}.old"))
                fresh.rename(target)
            except OSError:
                if not self._is_whole(target):  # Without folder locks, another process may have been faster.
                    raise
            finally:
                for rest in (fresh, fresh.with_name(f"{fresh.name}.old")):
                    shutil.rmtree(rest, ignore_errors=True)
        return target

    def _is_whole(self, folder: Path) -> bool:
        """Whether a folder has all files, by their sizes. Their digests were checked when it was created."""
        try:
            return all(os.stat(f"{folder}/{file.name}").st_size == file.size for file in self.files)  # noqa: PTH116
        except OSError:
            return False


def embedded_in(path: Path, record: ExportMetadata | None) -> EmbeddedFiles | None:
    """Return the embedded files of an ONNX file; None if there are none, or the file that contains them is missing."""
    if record is None or not record.embedded_files:
        return None
    holder = path if record.embedded_in is None else _holder(path, record)
    if holder is None:
        logger.info("The files of %s are embedded in %s, which is missing.", path, record.embedded_in)
        return None
    return EmbeddedFiles(path, holder, record.embedded_files, record.export_library)


def _holder(path: Path, record: ExportMetadata) -> Path | None:
    """Return the file of a model that contains the embedded files, renamed or not."""
    if record.embedded_in == record.onnx_file:
        return path
    try:
        return sibling(model_root(path, record), str(record.embedded_in), record)
    except MissingSiblingError:
        return None


def _root() -> Path | None:
    """Return the folder below the Hugging Face home; None for a user without a home."""
    from huggingface_hub import constants

    home = Path(constants.HF_HOME)
    return None if str(home).startswith("~") else home / "optimum-htp" / "embedded"


def _write(folder: Path, contents: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@contextmanager
def _alone_in(root: Path) -> Iterator[None]:
    """Let one process at a time create a folder. After a timeout, both create it, and the first one is used."""
    with ExitStack() as lock:
        try:
            lock.enter_context(folder_lock(root, _PATIENCE))
        except TimeoutError:
            logger.info("Another process has been creating a folder in %s for %.0f seconds.", root, _PATIENCE)
        yield


def _clear_leftovers(root: Path) -> None:
    """Remove what killed processes left."""
    for rest in root.glob(".*.*"):
        if rest.is_dir() and time.time() - rest.stat().st_mtime > _LEFTOVER:
            shutil.rmtree(rest, ignore_errors=True)
