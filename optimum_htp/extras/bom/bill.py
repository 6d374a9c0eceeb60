"""Bill of materials of ONNX files in CycloneDX 1.6: files, source model, licenses and digests.

The model has the package URL `pkg:huggingface/org/name@commit`
(https://github.com/package-url/purl-spec/blob/main/types/huggingface-definition.json). Its base models are in the
pedigree (https://cyclonedx.org/docs/1.6/json/#components_items_pedigree).
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import BillOfMaterialsError, MissingDependencyError
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import ModelHeader, contained_files, read_graph, read_header
from optimum_htp.onnxfile.canonical import sha256_of_file
from optimum_htp.onnxfile.operators import is_quantization
from optimum_htp.onnxfile.outputs import OutputKind
from optimum_htp.onnxfile.unchanged import unchanged
from optimum_htp.parsing import json_or_none
from optimum_htp.stamping.stamp import is_reproducible, now
from optimum_htp.version import __version__

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

__all__ = ["BILL", "bill_of_materials"]

_SHOWN: Final = 200  # characters of the validator's message, which contains the whole schema
_OURS: Final = "optimum-htp:"
_NAMESPACE: Final = uuid.UUID("6f0d3f8e-3a0e-5c58-9a0e-5d9d5e0c1f43")
# `hf_base_model` can be any text; only repo ids become ancestors.
_REPO_ID: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_INTEGERS: Final = ("int8", "uint8", "int4", "uint4", "int2", "uint2")


def _is_bill(path: Path) -> bool:
    """Return whether this package wrote a file as a bill of materials."""
    content = json_or_none(path.read_bytes())
    if not isinstance(content, dict) or content.get("bomFormat") != "CycloneDX":
        return False
    tools = content.get("metadata")
    return isinstance(tools, dict) and '"optimum-htp"' in json.dumps(tools.get("tools"))


BILL: Final = OutputKind("a bill of materials of optimum-htp", _is_bill)

Progress = Callable[[int, int], object]


def bill_of_materials(files: Sequence[str | os.PathLike[str]], *, progress: Progress | None = None) -> str:
    """Return the bill of materials of ONNX files as CycloneDX 1.6 JSON, validated against the schema.

    It includes their external data. With `SOURCE_DATE_EPOCH` set, the result for the same files is identical byte for
    byte. `progress` is called with the number of bytes read for digests, and their total.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: A path is not a readable ONNX model.
        FileChangedError: A file or its data changed during the call.
        MetadataError: A record is invalid.
        MissingDependencyError: cyclonedx-python-lib is not installed.
        BillOfMaterialsError: The metadata of a file is not valid in CycloneDX.
    """
    try:
        from cyclonedx.output.json import JsonV1Dot6
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError as error:
        raise MissingDependencyError(
            "Bills of materials require cyclonedx-python-lib: `pip install "
            f"'cyclonedx-python-lib[json-validation]' packageurl-python` ({error})."
        ) from error
    paths = [Path(file) for file in files]
    with unchanged(*paths):
        headers = {path: read_header(path) for path in paths}
        data = {path: contained_files(path) for path in paths}
        digests = _digests(
            [file for path in paths for file in (path, *(path.parent / name for name in data[path]))], progress
        )
        bom = _bom(headers, data, digests)
    text = str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if problem is not None:
        raise BillOfMaterialsError(
            f"The bill of materials of {paths[0]} is not valid CycloneDX: {str(problem)[:_SHOWN]}"
        )
    return text


def _bom(headers: dict[Path, ModelHeader], data: dict[Path, tuple[str, ...]], digests: dict[Path, str]) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    tool = Component(name="optimum-htp", version=__version__, type=ComponentType.APPLICATION, bom_ref="optimum-htp")
    moment = datetime.fromisoformat(now().replace("Z", "+00:00"))
    bom = Bom(metadata=BomMetaData(timestamp=moment, tools=ToolRepository(components=[tool])))
    models: dict[str, Component] = {}
    for path, header in headers.items():
        record = ExportMetadata.from_properties(header.metadata)
        file = _file(path, header, record, data[path], digests)
        bom.components.add(file)
        origin = _model(record)
        if origin is not None:
            origin = models.setdefault(str(origin.bom_ref.value), origin)
            bom.components.add(origin)
            bom.register_dependency(file, [origin])
        else:
            bom.register_dependency(file)
    if is_reproducible():
        bom.serial_number = uuid.uuid5(_NAMESPACE, "".join(digests[path] for path in sorted(digests)))
    return bom


def _file(
    path: Path, header: ModelHeader, record: ExportMetadata | None, data: Iterable[str], digests: dict[Path, str]
) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    ref = f"file:{path.name}:{digests[path][:16]}"
    contents = [
        Component(
            name=name,
            type=ComponentType.FILE,
            bom_ref=f"{ref}:data:{name}",
            hashes=[_sha256(digests[path.parent / name])],
            properties=[Property(name=f"{_OURS}bytes", value=str((path.parent / name).stat().st_size))],
        )
        for name in data
    ]
    contents += [
        Component(
            name=embedded.name,
            type=ComponentType.DATA,
            bom_ref=f"{ref}:embedded:{embedded.name}",
            hashes=[_sha256(embedded.sha256)],
        )
        for embedded in (record.embedded_files if record is not None else ())
    ]
    return Component(
        name=path.name,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=ref,
        version=record.hub_sha if record is not None else None,
        hashes=[_sha256(digests[path])],
        licenses=_licenses(record.license if record is not None else None),
        components=contents,
        properties=[Property(name=f"{_OURS}{key}", value=value) for key, value in _facts(path, header, record)],
    )


def _facts(path: Path, header: ModelHeader, record: ExportMetadata | None) -> Iterator[tuple[str, str]]:
    yield "bytes", str(path.stat().st_size)
    yield "producer", f"{header.producer_name} {header.producer_version}".strip() or "unknown"
    yield "ir_version", str(header.ir_version)
    yield "opset", ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(header.opsets.items()))
    graph = read_graph(path)
    kinds = Counter(tensor.dtype for tensor in graph.initializers)
    yield "initializers", ", ".join(f"{kinds[kind]} {kind}" for kind in sorted(kinds)) or "none"
    quantized = sorted({node.op_type for node in graph.nodes if is_quantization(node.op_type)})
    integers = [kind for kind in _INTEGERS if kinds[kind]]
    yield "quantization", f"{', '.join(integers)} ({', '.join(quantized)})" if quantized else "none"
    if record is not None:
        known = {
            "task": record.task,
            "model_class": record.model_class,
            "export_library": record.export_library,
            "export_version": record.export_version,
            "export_timestamp": record.export_timestamp,
            "original_producer": record.original_producer,
        }
        yield from ((key, value) for key, value in known.items() if value)


def _model(record: ExportMetadata | None) -> Component | None:
    """Return the source model of a file."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, XsUri
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    if record is None or record.hub_id is None:
        return None
    commit = record.hub_sha or record.hub_revision
    model = f"{record.hub_provider or 'huggingface'}:{record.hub_id}@{commit}"
    bases = [name.strip() for name in (record.base_model or "").split(",") if _REPO_ID.fullmatch(name.strip())]
    ancestors = [
        Component(name=name, type=ComponentType.MACHINE_LEARNING_MODEL, purl=_purl(name, None), bom_ref=f"base:{name}")
        for name in bases
    ]
    files = [
        Component(name=name, type=ComponentType.FILE, bom_ref=f"{model}:{name}", hashes=[_sha256(digest)])
        for name, digest in sorted((record.weight_files or {}).items())
    ]
    is_public = record.hub_provider is None
    page = f"https://huggingface.co/{record.hub_id}/tree/{commit}"
    return Component(
        name=record.hub_id.rpartition("/")[2],
        group=record.hub_id.rpartition("/")[0] or None,
        version=commit,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=model,
        purl=_purl(record.hub_id, commit) if is_public else None,
        licenses=_licenses(record.license),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
        components=files,
        external_references=[ExternalReference(type=ExternalReferenceType.VCS, url=XsUri(page))] if is_public else [],
    )


def _purl(repo_id: str, commit: str | None) -> Any:
    from packageurl import PackageURL

    owner, _, name = repo_id.rpartition("/")
    return PackageURL("huggingface", owner or None, name, commit)


def _licenses(text: str | None) -> list[Any]:
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.spdx import fixup_id

    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    return [LicenseFactory().make_from_string(fixup_id(name) or name) for name in names]


def _sha256(digest: str) -> Any:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def _digests(paths: Sequence[Path], progress: Progress | None) -> dict[Path, str]:
    total, done = sum(path.stat().st_size for path in paths), 0

    def update(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    return {path: sha256_of_file(path, update) for path in dict.fromkeys(paths)}
