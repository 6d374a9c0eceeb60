"""Moves the files of an export from the folder of Optimum's exporter to the output folder."""

from __future__ import annotations

import filecmp
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from optimum_htp.errors import ExportError
from optimum_htp.export.engines.programs import INLINE
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import record_if_any
from optimum_htp.onnxfile import canonicalize_initializers, external_files, rename_model
from optimum_htp.onnxfile.canonical import sha256_of_file

__all__ = [
    "configs_beside",
    "copy_configs",
    "forget_paths",
    "move_models",
    "move_rest",
    "naming_the_output",
    "onnx_files",
    "put_weights_inside",
    "refuse_foreign_configs",
]


@contextmanager
def naming_the_output(exported: Path, output: Path) -> Iterator[None]:
    """Replace the working folder by the output folder in the log messages of Optimum's exporter."""
    logger = logging.getLogger("optimum.exporters.onnx.convert")

    def rename(record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg = record.msg.replace(exported.as_posix(), output.as_posix())
        return True

    logger.addFilter(rename)
    try:
        yield
    finally:
        logger.removeFilter(rename)


def onnx_files(folder: Path) -> list[str]:
    """Return the ONNX files in and below a folder, relative to it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.onnx"))


def move_models(exported: Path, output: Path, *, file_name: str | None, canonical: bool) -> tuple[str, ...]:
    """Move the ONNX files of an export, with their external data, into the output folder; return their names there.

    `file_name` is the name of the single file, if the user gave one. `canonical` sorts what Optimum writes in random
    order.
    """
    names = onnx_files(exported)
    if not names:
        raise ExportError("Optimum's exporter wrote no ONNX file.")
    if file_name is not None and len(names) > 1:
        raise ExportError(
            f"The export has {len(names)} files ({', '.join(names)}): name an output folder instead of "
            f"{file_name}, or export a single file with --monolith."
        )
    for name in names:
        if canonical and "merged" in name:
            canonicalize_initializers(exported / name)
        for data in external_files(exported / name):
            _move(exported, output, os.path.normpath(Path(name).parent / data))
        _move(exported, output, name)
    if file_name is not None and names != [file_name]:
        rename_model(output / names[0], output / file_name)
        names = [file_name]
    return tuple(names)


def put_weights_inside(folder: Path) -> None:
    """Move external data of the ONNX files in and below a folder into the files, if they stay below 2 GiB.

    Exports by dynamo write external data for weights of any size.
    """
    import onnx

    for path in sorted(folder.rglob("*.onnx")):
        data = [path.parent / name for name in external_files(path)]
        if data and sum(file.stat().st_size for file in (path, *data)) < INLINE:
            onnx.save(onnx.load(path), path)
            for file in data:
                file.unlink()


def move_rest(exported: Path, output: Path) -> None:
    """Move the configs that Optimum wrote into the output folder."""
    for path in sorted(exported.rglob("*")):
        if path.is_file():
            _move(exported, output, path.relative_to(exported).as_posix())


def forget_paths(output: Path) -> None:
    """Remove the paths of this machine from a pipeline's configs: diffusers writes the origin of each."""
    for path in output.rglob("*.json"):
        content = read_json(path)
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def copy_configs(folder: Path, names: Iterable[str], output: Path) -> None:
    """Copy a model's own config and preprocessor files into the output folder, unchanged."""
    for name in names:
        if (folder / name).is_file():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, output / name)


def configs_beside(output: Path, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Return the configs next to ONNX files that must be replaced, because they would be used for the new files.

    These are the configs that are also embedded in the files, so an export wrote them, and those that were edited
    since.
    """
    same: set[str] = set()
    edited: set[str] = set()
    for name in names:
        record = record_if_any(output / name)
        for file in record.embedded_files if record is not None else ():
            if (output / file.name).is_file():
                (same if sha256_of_file(output / file.name) == file.sha256 else edited).add(file.name)
    return same, edited


def refuse_foreign_configs(staged: Path, output: Path, names: Sequence[str]) -> None:
    """Refuse to write configs into a folder with another ONNX file, if a config or preprocessor file differs there."""
    others = [path.name for path in sorted(output.glob("*.onnx")) if path.name not in names]
    if not others:
        return
    for path in staged.rglob("*"):
        there = output / path.relative_to(staged)
        if there.suffix == ".onnx" or not (path.is_file() and there.is_file()):
            continue
        if not there.name.endswith(".onnx_data") and not filecmp.cmp(path, there, shallow=False):
            raise ExportError(
                f"{output} contains another model ({others[0]}) with its own {there.name}, which this export would "
                "replace. Pass another output folder."
            )


def _move(source: Path, target: Path, name: str) -> None:
    if (source / name).is_file():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).rename(target / name)
