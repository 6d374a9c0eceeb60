"""Plugins: other Hubs, metadata and preprocessor rules, through the hooks that our own Hub uses."""

from __future__ import annotations

import pytest

import optimum_htp
from optimum_htp import HTPExporter
from optimum_htp.errors import HFHubIntegrationError
from optimum_htp.hubs import Hub
from optimum_htp.hubs.huggingface import HuggingFaceHub
from optimum_htp.onnxfile import read_metadata
from optimum_htp.plugins import hub, manager


@pytest.fixture
def registered():
    """Register plugins that are gone after the test."""
    plugins = []

    def register(plugin):
        manager().register(plugin)
        plugins.append(plugin)

    yield register
    for plugin in plugins:
        manager().unregister(plugin)


def test_hugging_face_is_the_first_plugin():
    assert isinstance(hub(), HuggingFaceHub)
    assert hub("huggingface").name == "huggingface"
    assert manager().has_plugin("optimum_htp.hubs.huggingface")


def test_plugin_adds_a_hub(registered):
    class Mirror(HuggingFaceHub):
        name = "mirror"

    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_hubs(self) -> list[Hub]:
            return [Mirror()]

    with pytest.raises(HFHubIntegrationError, match="'mirror'"):
        hub("mirror")
    registered(Plugin())
    assert isinstance(hub("mirror"), Mirror)


def test_two_hubs_of_one_name_are_an_error(registered):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_hubs(self) -> list[Hub]:
            return [HuggingFaceHub()]

    registered(Plugin())
    with pytest.raises(HFHubIntegrationError, match="2 installed plugins"):
        hub()


def test_plugin_adds_metadata_and_preprocessors(registered, model_folder, tmp_path):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_metadata(self, metadata, info):
            return {"acme_ticket": f"T-1 {metadata.task}"}

        @optimum_htp.hookimpl
        def optimum_htp_preprocessors(self, files, configs):
            return ["AutoImageProcessor"] if "vocab.txt" in files and "config.json" in configs else []

    registered(Plugin())
    HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    written = read_metadata(tmp_path / "out" / "model.onnx")
    assert written["acme_ticket"] == "T-1 text-classification"
    assert written["hf_preprocessors"] == "AutoTokenizer,AutoImageProcessor"


def test_plugin_may_not_set_our_keys(registered, model_folder, tmp_path):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_metadata(self, metadata, info):
            return {"hf_hub_sha": "forged"}

    registered(Plugin())
    with pytest.raises(HFHubIntegrationError, match="hf_hub_sha"):
        HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    assert not (tmp_path / "out").exists()
