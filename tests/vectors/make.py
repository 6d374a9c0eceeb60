"""Make the test vectors: `python -m tests.vectors.make`. Run only when the format changes; the files are stored."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

HERE = Path(__file__).parent
SHA = "86b5e0934494bd15c9632b12f734a8a67f723594"


def _zip(files: dict[str, bytes]) -> str:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(entry, content)
    return base64.b64encode(packed.getvalue()).decode()


HUB = {
    "hf_metadata_version": "1",
    "hf_model_type": "hub",
    "hf_hub_id": "google-bert/bert-base-uncased",
    "hf_hub_sha": SHA,
    "hf_hub_revision": SHA[:8],
    "hf_export_version": "0.1.0",
    "hf_export_timestamp": "2026-01-31T12:00:00Z",
    "hf_task": "fill-mask",
    "hf_export_library": "transformers",
    "hf_model_class": "BertForMaskedLM",
    "hf_preprocessors": "AutoTokenizer",
    "hf_config_files": '["config.json", "tokenizer.json", "vocab.txt"]',
    "hf_model_downloads": "100",
    "hf_private": "false",
    "hf_gated": "false",
}
# A ZIP of one deflated `config.json`, as any library writes it.
ARCHIVE = _zip({"config.json": b'{"model_type": "bert"}\n'})
CONFIG = {
    "name": "config.json",
    "size": 23,
    "sha256": hashlib.sha256(b'{"model_type": "bert"}\n').hexdigest(),
}
EMBEDDED = {**HUB, "hf_embedded_files": json.dumps([CONFIG])}
SEVERAL = {
    **HUB,
    "hf_onnx_files": '["decoder_model.onnx", "encoder_model.onnx"]',
    "hf_onnx_file": "encoder_model.onnx",
    "hf_export_id": "0123456789abcdef0123456789abcdef",
}
VALID = {
    "embedded": {**EMBEDDED, "hf_embedded_zip": ARCHIVE},
    "embedded_elsewhere": {
        **SEVERAL,
        "hf_embedded_files": json.dumps([CONFIG]),
        "hf_embedded_in": "decoder_model.onnx",
    },
    "hub": HUB,
    "local": {"hf_metadata_version": "1", "hf_model_type": "local", "hf_task": "fill-mask"},
    "several_files": SEVERAL,
    "older_tool": {
        "hf_hub_id": "bert-base-uncased",
        "hf_hub_revision": "86b5e093",
        "hf_model_type": "hub",
        "hf_export_version": "1.0",
        "hf_export_timestamp": "2025-01-31T12:00:00.123456",
        "hf_downloads": "100",
        "hf_likes": "5",
        "hf_private": "False",
        "hf_gated": "manual",
    },
    "other_hub": {**HUB, "hf_hub_provider": "modelscope"},
    "weight_digests": {**HUB, "hf_weight_files": json.dumps({"model.safetensors": "0123456789abcdef" * 4})},
    "standard_keys": {
        **HUB,
        "model_author": "google-bert",
        "model_license": "mine",
        "hf_standard_keys": '{"model_author": "google-bert"}',
    },
    "original": {
        **HUB,
        "acme_owner": "Acme",
        "hf_original": json.dumps(
            {
                "producer_name": "tf2onnx",
                "producer_version": "1.16.1 15c810",
                "doc_string": "",
                "ir_version": 8,
                "metadata": {"hf_task": "of another tool"},
                "added": {"acme_owner": "Acme"},
            }
        ),
    },
    "unknown_keys": {**HUB, "hf_from_the_future": "kept", "mine": "kept too"},
    "no_record": {"mine": "nothing of Hugging Face"},
}
INVALID = {
    "embedded_path_out": {**HUB, "hf_embedded_files": json.dumps([{**CONFIG, "name": "../config.json"}])},
    "embedded_bad_digest": {**HUB, "hf_embedded_files": json.dumps([{**CONFIG, "sha256": "0"}])},
    "embedded_bad_size": {**HUB, "hf_embedded_files": json.dumps([{**CONFIG, "size": -1}])},
    "embedded_not_listed": {**SEVERAL, "hf_embedded_in": "decoder_model.onnx"},
    "short_sha": {**HUB, "hf_hub_sha": SHA[:8]},
    "no_commit": {"hf_model_type": "hub", "hf_hub_id": "org/model"},
    "no_id": {"hf_model_type": "hub", "hf_hub_sha": SHA},
    "bad_id": {**HUB, "hf_hub_id": "../model"},
    "bad_provider": {**HUB, "hf_hub_provider": "https://elsewhere"},
    "bad_type": {**HUB, "hf_model_type": "remote"},
    "path_out": {**HUB, "hf_onnx_files": '["../other.onnx"]', "hf_onnx_file": "a.onnx"},
    "absolute_path": {**HUB, "hf_config_files": '["/etc/passwd"]'},
    "not_json": {**HUB, "hf_config_files": "config.json"},
    "bad_class": {**HUB, "hf_preprocessors": "AutoModel"},
    "bad_count": {**HUB, "hf_model_likes": "-1"},
    "bad_digest": {**HUB, "hf_weight_files": '{"model.safetensors": "sha256:0123"}'},
    "bad_flag": {**HUB, "hf_private": "perhaps"},
}


def model(properties: dict[str, str]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "vector",
        [value("x", TensorProto.FLOAT, ["batch", 2])],
        [value("y", TensorProto.FLOAT, ["batch", 2])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8, producer_name="pytorch")
    helper.set_model_props(made, properties)
    return made


def main() -> None:
    for name, properties in {**VALID, **INVALID}.items():
        (HERE / f"{name}.onnx").write_bytes(model(properties).SerializeToString(deterministic=True))
        expected = {"valid": name in VALID, "metadata": properties}
        (HERE / f"{name}.json").write_text(json.dumps(expected, indent=2) + "\n")


if __name__ == "__main__":
    main()
