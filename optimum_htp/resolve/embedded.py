"""Reading the files that travel inside an ONNX file: in memory, or as a folder for loaders that want one.

The folder is named by what is in it, and lies below Hugging Face's home. Whoever needs it first makes it, and all
others use it; where that cannot be written, a process makes a temporary one for itself.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator
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

__all__ = [
    "EMBEDDED_LIMIT",
    "NOT_RUN",
    "EmbeddedFiles",
    "embedded_in",
    "is_embeddable",
    "largest_total",
]

logger = get_logger(__name__)

EMBEDDED_LIMIT: Final = "OPTIMUM_HTP_EMBEDDED_LIMIT"
"""The variable that says how many megabytes the files in an ONNX file may have together."""
_DEFAULT_LIMIT: Final = 64  # MB
# Configs and vocabularies. The allow-list of names has folders whose every file a loader may ask for.
_SUFFIXES: Final = frozenset(
    (".json", ".txt", ".model", ".spm", ".tiktoken", ".jinja", ".bpe", ".codes", ".tokenizer")
)
NOT_RUN: Final = (
    "Code that embedded files name never runs. Remove the files with `optimum-cli htp unembed {file}`; for a model of "
    "a Hub, trust_remote_code=True loads the files of its commit."
)
"""What to do about embedded files that refer to code."""
_PATIENCE: Final = 60.0  # seconds to wait for another process that makes a folder
_LEFTOVER: Final = 3600.0  # seconds after which what somebody has not finished is nobody's

_folders: Final[LRUCache[str, Path]] = LRUCache(256)
_temporary: Final[list[tempfile.TemporaryDirectory[str]]] = []


def largest_total() -> int:
    """Return how many bytes embedded files may have together.

    Raises:
        ArgumentError: The variable is not a number.
    """
    text = os.environ.get(EMBEDDED_LIMIT, "").strip()
    if not text:
        return _DEFAULT_LIMIT * 1_000_000
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise ArgumentError(f"{EMBEDDED_LIMIT} is {text!r}: it has to be a number of megabytes.")
    return int(text) * 1_000_000


def is_embeddable(names: Iterable[str], library: str | None) -> bool:
    """Whether all of these are names of configs or of preprocessors' files: no code, no weights, no way out.

    An export's own manifest is one too.
    """
    names = tuple(names)
    known = {*config_files(names, library=library or "transformers"), EXPORT_MANIFEST}
    return all(
        name in known and name.isprintable() and "\\" not in name and PurePosixPath(name).suffix in _SUFFIXES
        for name in names
    )


@dataclass(frozen=True)
class EmbeddedFiles:
    """The files that travel with a model.

    Attributes:
        path: The ONNX file that was asked for; of one that is elsewhere, its URL.
        holder: The file of the same model that they are in.
        files: Names, sizes and digests, as the file says.
        library: The library that loads the model.
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
        """What names their content: equal for equal files."""
        lines = sorted(f"{file.sha256} {file.size} {file.name}" for file in self.files)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def read(self, names: Collection[str] | None = None, *, with_code: bool = False) -> dict[str, bytes]:
        """Return the content of files, by name; of all of them where none are named.

        Args:
            names: The files.
            with_code: Whether they may refer to code: only for files that no library will load. Files that only
                sentence_transformers reads are not checked here but when it asks for them.

        Raises:
            EmbeddedFilesError: They are not what the file says, or more than is unpacked.
            UntrustedCodeError: They refer to code.
        """
        try:
            self.check()
            limit = largest_total()
            text = self._text(longest_text(limit))
            if text is None:
                raise EmbeddedFilesError(f"it lists {len(self.files)} files and has none")
            found = unpack(text, self.files, limit, names)
        except EmbeddedFilesError as error:
            raise EmbeddedFilesError(
                f"The files embedded in {self.holder} cannot be used: {error}. Fetch the file again, or take them out "
                f"with `optimum-cli htp unembed {self.holder}`. {EMBEDDED_LIMIT} sets the largest size, in MB.",
                EMBEDDED_ZIP,
            ) from error
        if not with_code:
            loaded = {name: text for name, text in found.items() if not is_sentence_transformers_file(name)}
            refuse_code(loaded, self.holder, NOT_RUN.format(file=self.holder))
        return found

    def _text(self, longest: int) -> bytes | None:
        """Return the archive as it is in the file, None where there is none.

        Raises:
            EmbeddedFilesError: It has more than so many characters, or the file is damaged.
        """
        try:
            with self._opened() as window:
                return archive_of(window, EMBEDDED_ZIP, longest)
        except InvalidOnnxFileError as error:
            raise EmbeddedFilesError(str(error)) from error

    def _opened(self) -> AbstractContextManager[ByteWindow]:
        return opened(self.holder)

    def check(self) -> None:
        """Refuse files that are none of a model's configs and preprocessors.

        Raises:
            EmbeddedFilesError: One is not.
        """
        for name in self.names:
            if not is_embeddable((name,), self.library):
                raise EmbeddedFilesError(f"{name!r} is neither a config nor a file of a preprocessor")

    def folder(self) -> Path:
        """Return a folder that holds them.

        Raises:
            EmbeddedFilesError, UntrustedCodeError: As `read`.
            ConfigLoadError: There is no place to put them.
        """
        return _folders.get_or_make(self.digest, self._found_or_made, valid=self._is_whole)

    def _found_or_made(self) -> Path:
        root = _root()
        if root is not None:
            try:
                return self._made_in(root)
            except OSError as error:
                logger.info("%s cannot be written, so a temporary folder is made: %s", root, error)
        contents = self.read()
        try:
            temporary = tempfile.TemporaryDirectory(prefix="optimum-htp-")
            _write(Path(temporary.name), contents)
        except OSError as error:
            raise ConfigLoadError(
                f"The files embedded in {self.holder} have to be in a folder to be loaded, and none can be written: "
                f"{error}. Set HF_HOME or TMPDIR to one that can."
            ) from error
        _temporary.append(temporary)  # it goes when this process does
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
                if target.exists():  # somebody has taken files out of it
                    target.rename(fresh.with_name(f"{fresh.name}.old"))
                fresh.rename(target)
            except OSError:
                if not self._is_whole(target):  # where folders cannot be locked another may have been faster
                    raise
            finally:
                for rest in (fresh, fresh.with_name(f"{fresh.name}.old")):
                    shutil.rmtree(rest, ignore_errors=True)
        return target

    def _is_whole(self, folder: Path) -> bool:
        """Whether a folder has all files, by their sizes: their digests were checked when it was made."""
        try:
            return all(os.stat(f"{folder}/{file.name}").st_size == file.size for file in self.files)  # noqa: PTH116
        except OSError:
            return False


def embedded_in(path: Path, record: ExportMetadata | None) -> EmbeddedFiles | None:
    """Return the files that travel with an ONNX file, None where there are none or they are in a file that is away.

    Args:
        path: The file.
        record: What it says of itself.
    """
    if record is None or not record.embedded_files:
        return None
    holder = path if record.embedded_in is None else _holder(path, record)
    if holder is None:
        logger.info("%s says that its files are embedded in %s, which is not here.", path, record.embedded_in)
        return None
    return EmbeddedFiles(path, holder, record.embedded_files, record.export_library)


def _holder(path: Path, record: ExportMetadata) -> Path | None:
    """Return the file of a model that holds what is embedded, renamed or not."""
    if record.embedded_in == record.onnx_file:
        return path
    try:
        return sibling(model_root(path, record), str(record.embedded_in), record)
    except MissingSiblingError:
        return None


def _root() -> Path | None:
    """Return the folder below Hugging Face's home; None for a user without one."""
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
    """Let one process at a time make a folder. Where it takes another too long, both make it: the first one counts."""
    with ExitStack() as lock:
        try:
            lock.enter_context(folder_lock(root, _PATIENCE))
        except TimeoutError:
            logger.info("Another process has been making a folder in %s for %.0f seconds.", root, _PATIENCE)
        yield


def _clear_leftovers(root: Path) -> None:
    """Take away what processes that were killed have left."""
    for rest in root.glob(".*.*"):
        if rest.is_dir() and time.time() - rest.stat().st_mtime > _LEFTOVER:
            shutil.rmtree(rest, ignore_errors=True)
