"""`optimum-cli htp info FILE`: where an ONNX file came from."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum.commands.base import CommandInfo

from optimum_htp.cli.base import Command

if TYPE_CHECKING:
    from optimum_htp.metadata import ExportMetadata
    from optimum_htp.onnxfile import ModelHeader

__all__ = ["InfoCommand"]


class InfoCommand(Command):
    """Prints the record of a file, and with --show-metadata every property as it is."""

    COMMAND = CommandInfo(name="info", help="Show which model an ONNX file came from.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", type=Path, help="The ONNX file.")
        parser.add_argument("--show-metadata", action="store_true", help="Show every metadata property as it is.")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")

    def execute(self) -> None:
        """Read the file's header and print it."""
        from optimum_htp.errors import HFHubIntegrationError
        from optimum_htp.metadata import ExportMetadata
        from optimum_htp.onnxfile import read_header

        header = read_header(self.args.file)
        try:
            record = ExportMetadata.from_properties(header.metadata)
        except HFHubIntegrationError as error:
            raise type(error)(f"{self.args.file}: {error}") from error
        if self.args.json:
            print(json.dumps(_as_json(self.args.file, header, record), indent=2, ensure_ascii=False))
            return
        for name, value in _summary(header, record).items():
            print(f"{name:<15} {value}")
        if self.args.show_metadata:
            print()
            for key, value in header.metadata.items():
                print(f"{key} = {_printable(value)}")


def _summary(header: ModelHeader, record: ExportMetadata | None) -> dict[str, str]:
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in header.opsets.items())
    graph = {
        "producer": f"{header.producer_name} {header.producer_version}".strip(),
        "ir version": str(header.ir_version),
        "opset": opsets,
    }
    if record is None:
        known: dict[str, str | None] = {"model": "unknown: the file has no record of where it came from"}
    else:
        known = {
            "model": record.hub_id or "local",
            "commit": record.hub_sha or record.hub_revision,
            "revision": record.hub_ref,
            "task": record.task,
            "class": record.model_class,
            "library": record.export_library,
            "preprocessors": ", ".join(record.preprocessors),
            "license": record.license,
            "base model": record.base_model,
            "files": ", ".join(record.onnx_files),
            "exported": f"{record.export_timestamp or '?'} by optimum-htp {record.export_version or '?'}",
        }
    return {name: _printable(value) for name, value in {**known, **graph}.items() if value}


def _as_json(file: Path, header: ModelHeader, record: ExportMetadata | None) -> dict[str, Any]:
    return {
        "file": str(file),
        "record": None if record is None else dataclasses.asdict(record),
        "header": dataclasses.asdict(header),
    }


def _printable(text: str) -> str:
    """Keep a file's texts from steering the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
