"""Bills of materials list the sources of a file; the documented signing commands work with a stamped file."""

from __future__ import annotations

import hashlib
import json
import shutil

import onnx
import pytest
from onnxruntime.quantization import quantize_dynamic

from optimum_htp import inject_hub_metadata
from optimum_htp.errors import MetadataError
from optimum_htp.extras.bom.bill import bill_of_materials
from optimum_htp.onnxfile import rewrite_model
from tests.conftest import ROOT, optimum_cli, run

SIGNING = ROOT / ".venv-model-signing" / "bin" / "model_signing"

# As made by `openssl ecparam -name prime256v1 -genkey` and `openssl ec -pubout`.
_KEYS = """
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
key = ec.generate_private_key(ec.SECP256R1())
Path("key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
Path("public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
"""


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def stamped(plain_bert, hub, access):
    """A file of a model with a base model, under two licenses."""
    hub.repos["tiny/bert"].card = {"license": ["mit", "bigscience-openrail-m"], "base_model": "google-bert/bert-base"}
    inject_hub_metadata(plain_bert, "tiny/bert", access=access)
    return plain_bert


def components(text):
    return {one["name"]: one for one in json.loads(text)["components"]}


def test_bill_names_model_license_ancestors_and_digests(stamped, hub):
    bill = bill_of_materials([stamped])
    assert json.loads(bill)["specVersion"] == "1.6"
    found = components(bill)
    commit = hub.repos["tiny/bert"].refs["main"]
    model, file = found["bert"], found["bert.onnx"]
    assert model["purl"] == f"pkg:huggingface/tiny/bert@{commit}"
    assert model["pedigree"]["ancestors"][0]["purl"] == "pkg:huggingface/google-bert/bert-base"
    licenses = [one["license"] for one in model["licenses"]]
    assert {one.get("id") or one.get("name") for one in licenses} == {"MIT", "bigscience-openrail-m"}
    weights = hub.repos["tiny/bert"].commits[commit]["model.safetensors"]
    assert model["components"][0]["hashes"][0]["content"] == hashlib.sha256(weights).hexdigest()
    assert file["type"] == "machine-learning-model"
    assert file["hashes"] == [{"alg": "SHA-256", "content": sha256(stamped)}]
    facts = {one["name"]: one["value"] for one in file["properties"]}
    assert facts["optimum-htp:task"] == "text-classification"
    assert facts["optimum-htp:quantization"] == "none"
    (edge,) = [one for one in json.loads(bill)["dependencies"] if one["ref"] == file["bom-ref"]]
    assert edge["dependsOn"] == [model["bom-ref"]]


def test_bill_has_external_data_embedded_files_and_quantization(stamped, tmp_path):
    outside = tmp_path / "outside.onnx"
    onnx.save(onnx.load(stamped), outside, save_as_external_data=True, location="outside.onnx_data", size_threshold=0)
    rewrite_model(
        outside, metadata={"hf_embedded_files": json.dumps([{"name": "config.json", "size": 3, "sha256": "ab" * 32}])}
    )
    quantize_dynamic(stamped, tmp_path / "q.onnx")
    found = components(bill_of_materials([outside, tmp_path / "q.onnx"]))
    inside = {one["name"]: one["hashes"][0]["content"] for one in found["outside.onnx"]["components"]}
    assert inside == {"outside.onnx_data": sha256(tmp_path / "outside.onnx_data"), "config.json": "ab" * 32}
    facts = {one["name"]: one["value"] for one in found["q.onnx"]["properties"]}
    assert facts["optimum-htp:quantization"].startswith("int8")
    assert "MatMulInteger" in facts["optimum-htp:quantization"]
    rewrite_model(outside, metadata={"hf_embedded_files": "[3]"})
    with pytest.raises(MetadataError, match="hf_embedded_files"):
        bill_of_materials([outside])


def test_two_bills_are_equal_where_that_is_asked_for(stamped, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    assert bill_of_materials([stamped]) == bill_of_materials([stamped])
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert json.loads(bill_of_materials([stamped]))["serialNumber"].startswith("urn:uuid:")


def test_command_writes_and_prints(stamped, tmp_path, empty_home):
    target = tmp_path / "bom.cdx.json"
    env = {**empty_home, "SOURCE_DATE_EPOCH": "1750000000"}
    assert optimum_cli("htp", "bom", stamped, "-o", target, **env).stdout.strip() == str(target)
    assert json.loads(optimum_cli("htp", "bom", stamped, **env).stdout) == json.loads(target.read_text())


@pytest.mark.slow
@pytest.mark.skipif(not SIGNING.exists(), reason="model-signing has no environment: `make test-slow` makes one")
def test_stamped_file_is_signed_verified_and_refused_after_a_byte_was_changed(stamped, tmp_path):
    """README's commands with OpenSSF's tool, with local keys and without a connection."""
    run(SIGNING.with_name("python"), "-c", _KEYS, cwd=tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    file = shutil.copy(stamped, folder / "model.onnx")
    (folder / "bom.cdx.json").write_text(bill_of_materials([file]))
    signature = tmp_path / "model.sig"
    run(SIGNING, "sign", "key", folder, "--private_key", tmp_path / "key.pem", "--signature", signature)
    check = (SIGNING, "verify", "key", folder, "--public_key", tmp_path / "public.pem", "--signature", signature)
    assert "succeeded" in run(*check).stdout
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = run(*check, check=False)
    assert done.returncode == 1
    assert "Hash mismatch for" in done.stdout + done.stderr


def test_bill_of_two_commits_is_the_same_each_time(stamped, hub, access, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    repo = hub.repos["tiny/bert"]
    other = shutil.copy(stamped, tmp_path / "other.onnx")
    repo.commit({**repo.commits[repo.refs["main"]], "README.md": b"another"})
    inject_hub_metadata(other, "tiny/bert", access=access)
    bill = bill_of_materials([stamped, other])
    assert bill == bill_of_materials([stamped, other])
    assert "BomRef." not in bill


def test_base_model_that_is_no_name_of_one_is_left_out(stamped):
    rewrite_model(stamped, metadata={"hf_base_model": "org/, google-bert/bert-base"})
    model = components(bill_of_materials([stamped]))["bert"]
    assert [one["name"] for one in model["pedigree"]["ancestors"]] == ["google-bert/bert-base"]
