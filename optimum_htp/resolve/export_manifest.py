"""`export.json` of transformers' exporters: the components of an exported model, their files, and how to call them.

    {"schema_version": 1, "export_format": "onnx",
     "components": {"prefill": {"file": "prefill.onnx", "metadata": {...}}, "decode": {...}}}

It is next to the files, or is embedded in them. Only the names of the files are read here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from optimum_htp.libraries.names import EXPORT_MANIFEST
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import is_contained
from optimum_htp.parsing import json_or_none
from optimum_htp.resolve.embedded import embedded_in

__all__ = ["ExportManifest", "carries_manifest", "manifest_beside", "manifest_of"]

_COMPONENTS: Final = "components"
_FORMAT: Final = "export_format"
_FORMATS: Final = ("onnx",)


@dataclass(frozen=True)
class ExportManifest:
    """The content of an `export.json`, and the ONNX file of each component, by the component's name."""

    content: Mapping[str, Any]
    files: Mapping[str, str]

    @classmethod
    def of(cls, content: Any) -> ExportManifest | None:
        """Return a manifest of ONNX files; None for anything else."""
        if not isinstance(content, dict) or content.get(_FORMAT) not in _FORMATS:
            return None
        components = content.get(_COMPONENTS)
        if not isinstance(components, dict) or not components:
            return None
        files = {}
        for name, component in components.items():
            file = component.get("file") if isinstance(component, dict) else None
            if not isinstance(file, str) or not is_contained(file) or not isinstance(component.get("metadata"), dict):
                return None
            files[name] = file
        return cls(content, files)

    def metadata(self, component: str) -> Mapping[str, Any]:
        """Return the exporter's metadata of a component."""
        found: Mapping[str, Any] = self.content[_COMPONENTS][component]["metadata"]
        return found

    def renamed(self, names: Mapping[str, str]) -> ExportManifest:
        """Return the manifest for files of other names."""
        components = {
            name: {**self.content[_COMPONENTS][name], "file": names.get(file, file)}
            for name, file in self.files.items()
        }
        files = {name: str(component["file"]) for name, component in components.items()}
        return ExportManifest({**self.content, _COMPONENTS: components}, files)

    def to_bytes(self) -> bytes:
        """Return the manifest as `ExportedModel.save_pretrained` writes it."""
        return (json.dumps(self.content, indent=2) + "\n").encode()


def carries_manifest(record: ExportMetadata) -> bool:
    """Whether a manifest is embedded in a file's model."""
    return any(file.name == EXPORT_MANIFEST for file in record.embedded_files)


def manifest_beside(path: Path) -> ExportManifest | None:
    """Return the manifest in an ONNX file's folder, if it lists the file."""
    found = ExportManifest.of(read_json(path.parent / EXPORT_MANIFEST))
    return found if found is not None and path.name in found.files.values() else None


def manifest_of(path: Path, record: ExportMetadata | None) -> ExportManifest | None:
    """Return the manifest of an ONNX file: the one embedded in its model, or the adjacent one."""
    embedded = embedded_in(path, record) if record is not None and carries_manifest(record) else None
    if embedded is not None:
        return ExportManifest.of(json_or_none(embedded.read((EXPORT_MANIFEST,))[EXPORT_MANIFEST]))
    return manifest_beside(path)
