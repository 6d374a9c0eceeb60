"""Config and preprocessor files embedded in ONNX files: how they are written, shown and verified."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import os
import shutil
import zipfile

import onnx
import onnxruntime
import pytest
import transformers
from optimum.onnxruntime import ORTModelForSeq2SeqLM, ORTModelForSequenceClassification
from transformers import AutoConfig, AutoTokenizer

from optimum_htp import embed_files, inject_hub_metadata, verify_metadata
from optimum_htp.caching import forget
from optimum_htp.errors import (
    ArgumentError,
    HubUnreachableError,
)
from optimum_htp.hubs import HubAccess
from optimum_htp.libraries.tables import tokenizer_of_processor
from optimum_htp.metadata import read_record
from optimum_htp.onnxfile import read_header, read_metadata, rewrite_model
from optimum_htp.resolve.embedding import embeddable
from optimum_htp.resolve.remote_file import read_remote_header
from optimum_htp.stamping.verify import Status
from tests.conftest import optimum_cli
from tests.support.embedded import KEYS, properties, tampered


def test_files_are_those_of_the_commit_byte_by_byte(bert, model_folder):
    known = properties(bert)
    listed = json.loads(known["hf_embedded_files"])
    archive = zipfile.ZipFile(io.BytesIO(base64.b64decode(known["hf_embedded_zip"], validate=True)))
    names = {path.name for path in model_folder("bert").iterdir()} - {"model.safetensors", "vocab.txt"}
    assert archive.namelist() == [entry["name"] for entry in listed] == sorted(names)
    for entry in listed:
        content = archive.read(entry["name"])
        assert content == (model_folder("bert") / entry["name"]).read_bytes()
        assert (entry["size"], entry["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert archive.getinfo(entry["name"]).date_time == (1980, 1, 1, 0, 0, 0)


def test_archive_is_the_last_field_of_the_file(bert, t5):
    for path in (bert, t5 / "encoder_model.onnx"):
        known = properties(path)
        assert list(known)[-1] == "hf_embedded_zip"
        assert path.read_bytes().endswith(known["hf_embedded_zip"].encode())
        rewrite_model(path, metadata={"mine": "put in later", "hf_license": "mit"})
        assert list(properties(path))[-1] == "hf_embedded_zip"
        assert path.read_bytes().endswith(known["hf_embedded_zip"].encode())


def test_model_of_several_files_embeds_them_once(t5):
    first = t5 / "encoder_model.onnx"  # opened by every class
    others = sorted({*t5.glob("*.onnx")} - {first})
    assert "hf_embedded_zip" in properties(first)
    for path in others:
        known = properties(path)
        assert "hf_embedded_zip" not in known
        assert known["hf_embedded_in"] == first.name
        assert known["hf_embedded_files"] == properties(first)["hf_embedded_files"]
    first.rename(t5 / "renamed.onnx")
    forget()
    assert ORTModelForSeq2SeqLM.from_pretrained(others[0]).config.model_type == "t5"


def test_other_tools_accept_stamped_files(bert):
    onnx.checker.check_model(str(bert), full_check=True)
    onnxruntime.InferenceSession(bert, providers=["CPUExecutionProvider"])
    again = onnx.load(bert)
    onnx.save(again, bert)
    assert read_header(bert).archives.keys() == {"hf_embedded_zip"}
    assert read_record(bert).embedded_files


def test_equal_files_give_equal_bytes(bert):
    before = bert.read_bytes()
    embed_files(bert, access=HubAccess())
    assert read_metadata(bert) == read_metadata(bert)
    assert properties(bert)["hf_embedded_zip"].encode() in before


def test_record_of_a_remote_file_needs_two_ranges(exported, hub, tmp_path):
    path = shutil.copy(exported("minilm") / "model.onnx", tmp_path / "model.onnx")
    noise = base64.b64encode(os.urandom(3_000_000)).decode()
    for archive in (None, noise):
        if archive is not None:
            rewrite_model(path, metadata={"hf_embedded_zip": archive})
        hub.add("org/far", {"model.onnx": path.read_bytes()})
        with hub.recorded() as requests:
            header = read_remote_header("hf://org/far/model.onnx")
        assert header == read_header(path)
        assert header.metadata["hf_hub_id"] == "sentence-transformers/all-MiniLM-L6-v2"
        assert [request.method for request in requests] == ["HEAD", "GET", "GET"]
        assert sum(request.sent for request in requests) <= 64 * 1024


def test_unneeded_files_of_slow_tokenizers_are_left_out(tmp_path):
    def kept(**configs):
        shutil.rmtree(tmp_path / "m", ignore_errors=True)
        (tmp_path / "m").mkdir()
        for name in ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "model.safetensors", "code.py"):
            (tmp_path / "m" / name).write_text("x")
        for name, content in configs.items():
            (tmp_path / "m" / f"{name}.json").write_text(json.dumps(content))
        names = [path.name for path in (tmp_path / "m").iterdir()]
        return {
            name for name in embeddable(tmp_path / "m", names, "transformers") if not name.endswith("_config.json")
        }

    slow = {"vocab.txt", "vocab.json", "merges.txt", "tokenizer.model"}
    bert = {"model_type": "bert"}
    assert kept(config=bert, tokenizer={}) == {"config.json", "tokenizer.json"}
    assert kept(config=bert) == {"config.json", *slow}
    for settings in (
        {"tokenizer_class": "BertJapaneseTokenizer"},  # it has no fast tokenizer
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": True},  # converted from the slow one again
        {"auto_map": {"AutoTokenizer": ["mine.Tokenizer", None]}},  # its own code may read any file
        {"processor_class": "SpeechT5Processor"},  # loads a slow tokenizer
    ):
        found = kept(config=bert, tokenizer={}, tokenizer_config=settings)
        assert found == {"config.json", "tokenizer.json", *slow}, settings
    loaded_fast = [{"tokenizer_class": "LlamaTokenizer"}]
    if tokenizer_of_processor("WhisperProcessor"):  # transformers 5 has no such table: the files are kept
        loaded_fast.append({"processor_class": "WhisperProcessor"})
    for settings in loaded_fast:
        assert not kept(config=bert, tokenizer={}, tokenizer_config=settings) & slow, settings


def test_slow_tokenizer_is_loaded_from_the_commit(bert, published, hub):
    published("bert")
    assert AutoTokenizer.from_pretrained(bert).is_fast
    slow = AutoTokenizer.from_pretrained(bert, use_fast=False)
    assert slow.is_fast is hasattr(transformers, "TokenizersBackend")  # transformers 5 has one class for both
    assert slow("the cat")["input_ids"] == AutoTokenizer.from_pretrained(bert)("the cat")["input_ids"]


def test_embed_option_selects_the_files(plain_bert, published, home):
    repo = published("bert").repo_id
    assert inject_hub_metadata(plain_bert, repo, embed="none").embedded_files == ()
    assert not KEYS & properties(plain_bert).keys()
    assert [file.name for file in inject_hub_metadata(plain_bert, repo, embed="config").embedded_files] == [
        "config.json"
    ]
    assert len(inject_hub_metadata(plain_bert, repo).embedded_files) >= 3
    with pytest.raises(ArgumentError, match="everything"):
        inject_hub_metadata(plain_bert, repo, embed="everything")


def test_verify_proves_the_files_with_one_request(bert, published, hub, tmp_path):
    published("bert")
    access = HubAccess(cache_dir=tmp_path / "cache")
    with hub.recorded() as requests:
        verdict = verify_metadata(bert, access)
    embedded = json.loads(properties(bert)["hf_embedded_files"])
    assert (verdict.status, f"{len(embedded)} embedded files" in verdict.reason) == (Status.OK, True)
    paths = [request.path for request in requests]
    assert [path.split("/")[5] for path in paths[:2]] == ["revision", "tree"]
    assert all(path.endswith("/model.safetensors") for path in paths[2:])  # its header, for the comparison
    contents = {"config.json": (hub.repos["tiny/bert"].commits[read_record(bert).hub_sha])["config.json"]}
    tampered(bert, files={**contents, "vocab.txt": b"other"})
    verdict = verify_metadata(bert, access)
    assert verdict.status is Status.INVALID
    assert "vocab.txt" in verdict.reason
    assert "config.json" not in verdict.reason


def test_files_stored_with_lfs_are_proven_too(bert, hub, published):
    files = dict(hub.repos[published("bert").repo_id].commits[read_record(bert).hub_sha])
    repo = hub.add("tiny/lfs", {**files, "spiece.model": b"sentencepiece"})
    inject_hub_metadata(bert, "tiny/lfs", task="text-classification")
    tampered(bert, files={"config.json": files["config.json"], "spiece.model": b"sentencepiece"})
    assert verify_metadata(bert).status is Status.OK
    tampered(bert, files={"config.json": files["config.json"], "spiece.model": b"sentencepiecf"})
    assert "spiece.model" in verify_metadata(bert).reason
    assert repo.refs


@pytest.mark.slow
def test_trusted_code_is_downloaded_or_reported_missing(bert, hub, published, home, tmp_path):
    files = dict(hub.repos[published("bert").repo_id].commits[read_record(bert).hub_sha])
    code = b"from transformers import BertConfig\nclass MineConfig(BertConfig):\n    model_type = 'bert'\n"
    config = json.loads(files["config.json"]) | {"auto_map": {"AutoConfig": "configuration_mine.MineConfig"}}
    files |= {"config.json": json.dumps(config).encode(), "configuration_mine.py": code}
    hub.add("tiny/coded", files)
    record = inject_hub_metadata(bert, "tiny/coded", task="text-classification")
    assert "configuration_mine.py" not in [file.name for file in record.embedded_files]
    cache = tmp_path / "cache"
    assert type(AutoConfig.from_pretrained(bert, cache_dir=cache)).__name__ == "BertConfig"
    hub.status = 503
    with pytest.raises(HubUnreachableError, match="not the code"):
        AutoConfig.from_pretrained(bert, trust_remote_code=True, cache_dir=cache)
    hub.status = None
    trusted = AutoConfig.from_pretrained(bert, trust_remote_code=True, cache_dir=cache)
    assert type(trusted).__name__ == "MineConfig"


def test_info_shows_files_and_sizes_and_no_archive(bert, t5):
    done = optimum_cli("htp", "info", bert, "--show-metadata")
    assert "tokenizer.json 3.0 KiB" in done.stdout
    assert properties(bert)["hf_embedded_zip"] not in done.stdout
    assert "hf_embedded_zip = (" in done.stdout
    (document,) = json.loads(optimum_cli("htp", "info", bert, "--json").stdout)["files"]
    assert document["record"]["embedded_files"] == [
        dataclasses.asdict(file) for file in read_record(bert).embedded_files
    ]
    assert "hf_embedded_zip" in document["header"]["archives"]
    assert "in encoder_model.onnx:" in optimum_cli("htp", "info", t5 / "decoder_model.onnx").stdout


def test_report_shows_them(bert):
    from optimum_htp.report.document import report_document
    from optimum_htp.report.html import as_html
    from optimum_htp.report.markdown import as_markdown

    document = report_document([bert])
    assert "tokenizer.json 3.0 KiB" in as_html(document)
    assert "tokenizer.json 3.0 KiB" in as_markdown(document)


@pytest.mark.slow
def test_optimized_and_quantized_files_carry_them_on(bert, t5, tmp_path, home):
    from optimum.onnxruntime import ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig, OptimizationConfig

    ORTOptimizer.from_pretrained(bert).optimize(OptimizationConfig(optimization_level=2), tmp_path / "optimized")
    ORTQuantizer.from_pretrained(bert).quantize(
        save_dir=tmp_path / "quantized",
        quantization_config=AutoQuantizationConfig.avx2(is_static=False, per_channel=False),
    )
    for made in ("optimized", "quantized"):
        (file,) = (tmp_path / made).glob("*.onnx")
        alone = shutil.copy(file, tmp_path / f"{made}.onnx")
        assert read_record(alone).embedded_files == read_record(bert).embedded_files
        model = ORTModelForSequenceClassification.from_pretrained(alone)
        assert model.preprocessors[0]("a cat").input_ids
    for path in sorted(t5.glob("*.onnx")):
        ORTQuantizer.from_pretrained(path).quantize(
            save_dir=tmp_path / "t5-quantized",
            quantization_config=AutoQuantizationConfig.avx2(is_static=False, per_channel=False),
        )
    one = tmp_path / "t5-quantized" / "decoder_model_quantized.onnx"
    assert read_record(one).embedded_in == "encoder_model_quantized.onnx"
    forget()
    assert ORTModelForSeq2SeqLM.from_pretrained(one).preprocessors[0]("a cat").input_ids
