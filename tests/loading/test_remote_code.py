"""Models with code in their repo: it runs only if it is trusted."""

from __future__ import annotations

import json

import pytest
from optimum.onnxruntime import ORTModelForSequenceClassification

from optimum_htp import HTPExporter, compare_models
from optimum_htp.errors import ConfigLoadError, ExportError, UntrustedCodeError

pytestmark = pytest.mark.usefixtures("from_the_commit")

CONFIGURATION = """
from transformers import BertConfig

class MineConfig(BertConfig):
    model_type = "{model_type}"
"""
MODELING = """
from transformers import BertForSequenceClassification
from .configuration_mine import MineConfig

class MineForSequenceClassification(BertForSequenceClassification):
    config_class = MineConfig
"""


@pytest.fixture(params=["bert", "mine"])
def repo(hub, model_folder, request):
    """A repo with code: of a model type that transformers supports, or of another type."""
    source = hub.add("tiny/source", model_folder("bert"))
    files = dict(source.commits[source.refs["main"]])
    config = json.loads(files["config.json"])
    config |= {
        "model_type": request.param,
        "architectures": ["MineForSequenceClassification"],
        "auto_map": {
            "AutoConfig": "configuration_mine.MineConfig",
            "AutoModelForSequenceClassification": "modeling_mine.MineForSequenceClassification",
        },
    }
    files |= {
        "config.json": json.dumps(config).encode(),
        "configuration_mine.py": CONFIGURATION.format(model_type=request.param).encode(),
        "modeling_mine.py": MODELING.encode(),
    }
    return hub.add(f"tiny/mine-{request.param}", files)


def test_untrusted_code_is_not_run(repo, tmp_path):
    if repo.repo_id.endswith("-mine"):
        with pytest.raises(ExportError, match="trust_remote_code"):
            HTPExporter().export(repo.repo_id, tmp_path / "out", task="text-classification")
        assert not (tmp_path / "out").exists()
    else:
        result = HTPExporter().export(repo.repo_id, tmp_path / "out", task="text-classification")
        assert result.metadata.model_class == "BertForSequenceClassification"


def test_trusted_code_is_exported_and_loaded(repo, model_folder, tmp_path):
    from optimum.exporters.onnx.model_configs import BertOnnxConfig
    from transformers import BertConfig

    configs = {}
    if repo.repo_id.endswith("-mine"):  # Optimum requires an export config for unknown architectures
        config = BertConfig.from_pretrained(model_folder("bert"))
        configs = {"custom_onnx_configs": {"model": BertOnnxConfig(config, task="text-classification")}}
    result = HTPExporter().export(repo.repo_id, tmp_path / "out", trust_remote_code=True, **configs)
    assert (result.task, result.metadata.model_class) == ("text-classification", "MineForSequenceClassification")
    assert {"configuration_mine.py", "modeling_mine.py"} <= set(result.metadata.config_files)
    path, cache = tmp_path / "out" / "model.onnx", tmp_path / "cache"
    model = ORTModelForSequenceClassification.from_pretrained(path, trust_remote_code=True, cache_dir=cache)
    assert type(model.config).__name__ == "MineConfig"
    if repo.repo_id.endswith("-mine"):
        with pytest.raises(ConfigLoadError, match="trust_remote_code"):
            ORTModelForSequenceClassification.from_pretrained(path, cache_dir=cache)
    else:
        with pytest.raises(UntrustedCodeError):
            compare_models(path, pytorch=True, cache_dir=cache)
        assert not compare_models(path, pytorch=True, cache_dir=cache, trust_remote_code=True).exceeds
