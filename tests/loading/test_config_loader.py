"""HFHubConfigLoader reads a file's record, and loads config and preprocessor."""

from __future__ import annotations

import pytest

from optimum_htp import HFHubConfigLoader
from optimum_htp.errors import (
    ConfigLoadError,
)


def test_config_loader_extracts_and_loads(exported, access):
    path = exported("bert") / "model.onnx"
    loader = HFHubConfigLoader(access.cache_dir)
    metadata = loader.extract_metadata(path)
    assert (metadata["hf_hub_id"], metadata["hf_model_type"]) == ("tiny/bert", "hub")
    assert (metadata["hf_model_likes"], metadata["hf_private"]) == (56, False)
    assert loader.read_record(path).hub_id == "tiny/bert"
    config, tokenizer = loader.load_from_onnx(path)
    assert config.model_type == "bert"
    assert tokenizer("the cat")["input_ids"]
    other_config, other_tokenizer = loader.load_from_onnx(path)
    assert other_tokenizer is not tokenizer
    assert other_config is not config


def test_config_loader_rejects_a_file_without_record(plain_bert):
    with pytest.raises(ConfigLoadError, match="has no record"):
        HFHubConfigLoader().load_from_onnx(plain_bert)
