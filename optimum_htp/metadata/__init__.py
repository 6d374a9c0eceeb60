"""The record of an ONNX file's origin, and its form as metadata properties.

The properties of a stamped file look like this (version 1 of the format):

    hf_metadata_version   1
    hf_model_type         hub
    hf_hub_id             google-bert/bert-base-uncased
    hf_hub_sha            86b5e0934494bd15c9632b12f734a8a67f723594
    hf_hub_revision       86b5e093
    hf_export_version     0.1.0
    hf_export_timestamp   2026-01-31T12:00:00Z
    hf_task               fill-mask
    hf_preprocessors      AutoTokenizer
    ...

`hf_hub_sha` pins the commit. The content of a commit never changes, so a record never becomes outdated. A record is a
claim of the file's author, and is read as untrusted input.
"""

from optimum_htp.metadata.kinds import EMBEDDED_ZIP, ORIGINAL, PREFIX, STANDARD_KEYS, EmbeddedFile, is_repo_id
from optimum_htp.metadata.record import (
    METADATA_VERSION,
    OWN_KEYS,
    SHORT_COMMIT,
    ExportMetadata,
    has_record,
    read_record,
    record_if_any,
    typed_property,
)

__all__ = [
    "EMBEDDED_ZIP",
    "METADATA_VERSION",
    "ORIGINAL",
    "OWN_KEYS",
    "PREFIX",
    "SHORT_COMMIT",
    "STANDARD_KEYS",
    "EmbeddedFile",
    "ExportMetadata",
    "has_record",
    "is_repo_id",
    "read_record",
    "record_if_any",
    "typed_property",
]
