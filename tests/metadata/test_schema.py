"""The shipped JSON schema and the test vectors agree with what the package reads and writes."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import pytest

from optimum_htp.errors import MetadataError
from optimum_htp.metadata import EMBEDDED_ZIP, ExportMetadata
from optimum_htp.metadata.kinds import FILE_KEYS
from optimum_htp.metadata.record import KEYS
from optimum_htp.onnxfile import read_archive, read_metadata
from tests.support import format
from tests.vectors import make

VECTORS = sorted(path.stem for path in Path(make.__file__).parent.glob("*.json"))


@pytest.fixture(scope="module")
def schema():
    text = (importlib.resources.files("optimum_htp") / "schema" / "hub_metadata.schema.json").read_text()
    return json.loads(text)


def problems(schema, properties):
    """Check a record, and the JSON inside its values, which validators do not check."""
    import jsonschema  # takes seconds

    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    yield from validator.iter_errors(properties)
    for key, value in properties.items():
        if "contentSchema" in schema["properties"].get(key, {}):
            inner = {**schema["properties"][key]["contentSchema"], "$defs": schema["$defs"]}
            try:
                yield from jsonschema.Draft202012Validator(inner).iter_errors(json.loads(value))
            except json.JSONDecodeError as error:
                yield error


def test_vectors_match_the_generator():
    assert sorted([*make.VALID, *make.INVALID]) == VECTORS
    for name, properties in {**make.VALID, **make.INVALID}.items():
        path = Path(make.__file__).with_name(f"{name}.onnx")
        assert path.read_bytes() == make.model(properties).SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", VECTORS)
def test_reader_and_schema_agree_on_a_vector(name, schema):
    path = Path(make.__file__).with_name(f"{name}.onnx")
    expected = json.loads(path.with_suffix(".json").read_text())
    properties = read_metadata(path)
    if EMBEDDED_ZIP in expected["metadata"]:  # is read on demand
        archive = read_archive(path, EMBEDDED_ZIP, 1 << 20)
        properties[EMBEDDED_ZIP] = archive.decode()
    assert properties == expected["metadata"]
    has_record = "hf_model_type" in properties or "hf_hub_id" in properties
    if expected["valid"]:
        record = ExportMetadata.from_properties(properties)
        assert (record is not None) == has_record
        assert not has_record or not list(problems(schema, properties))
    else:
        with pytest.raises(MetadataError):
            ExportMetadata.from_properties(properties)
        assert list(problems(schema, properties))


def test_schema_and_proposal_are_generated_from_the_keys():
    assert format.SCHEMA.read_text(encoding="utf-8") == format.schema()
    assert format.PROPOSAL.read_text(encoding="utf-8") == format.proposal()
    for key in (*KEYS.values(), *FILE_KEYS):
        assert f"| `hf_{key.name}` |" in format.proposal()


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_exported_files_are_valid(name, exported, schema):
    for path in exported(name).glob("*.onnx"):
        assert not list(problems(schema, read_metadata(path)))
