"""Data files of models that are copied or replaced: model and data have to belong together at any moment."""

from __future__ import annotations

import filecmp
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from optimum_htp.errors import InvalidOnnxFileError, OnnxFileNotFoundError, OnnxWriteError, OptimumHTPError
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile.external import contained_files, external_files
from optimum_htp.onnxfile.inside import path_below
from optimum_htp.onnxfile.replace import replaced_atomically
from optimum_htp.onnxfile.shared import refuse_shared

__all__ = ["copy_data", "new_data_file", "own_data", "remove_unused"]

logger = get_logger(__name__)


def new_data_file(target: Path, like: Path) -> str:
    """Create an empty data file beside a model, with a name that no file has; return the name.

    The model that is there now keeps its own data file until it is replaced. So model and data belong together at any
    moment.
    """
    name = f"{target.name}_data"
    for candidate in (name, f"{name}_{secrets.token_hex(4)}"):
        place = target.with_name(candidate)
        try:
            place.touch(exist_ok=False)
            place.chmod(stat.S_IMODE(like.stat().st_mode))
        except FileExistsError:
            continue
        except OSError as error:
            raise OnnxWriteError(f"{place} cannot be written: {error}. Nothing there was changed.") from error
        return candidate
    raise OnnxWriteError(f"{place} cannot be written: it is there already. Try again.")


def own_data(target: Path) -> frozenset[str]:
    """Return the data files of the model that is replaced, where they are named after it."""
    own = re.compile(rf"{re.escape(target.name)}_data(_[0-9a-f]{{8}})?")
    with suppress(OptimumHTPError):
        return frozenset(name for name in external_files(target) if own.fullmatch(name))
    return frozenset()


def remove_unused(target: Path, names: frozenset[str]) -> None:
    """Remove data files that no model in the folder uses, the one at `target` included.

    Where a model cannot be read, they stay.
    """
    try:
        for other in {target, *target.parent.glob("*.onnx")} if names else ():
            with suppress(InvalidOnnxFileError, OnnxFileNotFoundError):
                names -= frozenset(external_files(other))
        for name in names:
            target.with_name(name).unlink()
    except (OptimumHTPError, OSError) as error:
        logger.debug("Old data of %s stays: %s", target, error)


def copy_data(path: Path, output: Path) -> None:
    """Copy the external data of a file to where its copy will look for it.

    Raises:
        InvalidOnnxFileError: The data of a file lies outside its folder.
        OnnxWriteError: There is another file at its place.
    """
    if path.resolve().parent == output.resolve().parent:
        return
    refuse_shared(output)
    for name in contained_files(path):
        source, target = path.parent / name, output.parent / name
        try:
            path_below(output.parent, Path(name))
        except OSError as error:
            raise OnnxWriteError(f"{error}. Name another output folder.") from error
        if target.exists():
            if filecmp.cmp(source, target, shallow=False):
                continue
            raise OnnxWriteError(
                f"{target} is there already, and is not the data of {path}. Name another output folder."
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_atomically(target, like=source) as stream, source.open("rb") as data:
                shutil.copyfileobj(data, stream, 1 << 20)
        except OSError as error:
            raise OnnxWriteError(f"{target} cannot be written: {error}.") from error
