"""Plugins: other Hubs, metadata and preprocessor rules, through the hooks of the built-in Hub."""

from __future__ import annotations

import pytest

import optimum_htp
from optimum_htp import HTPExporter
from optimum_htp.errors import OptimumHTPError, PluginError, UnknownHubError
from optimum_htp.hubs import Hub
from optimum_htp.hubs.huggingface.hub import HuggingFaceHub
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import read_metadata
from optimum_htp.plugins import commands, destinations, hub, manager
from tests.conftest import run_python


@pytest.fixture
def registered():
    """Register plugins for the duration of a test."""
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

    with pytest.raises(OptimumHTPError, match="'mirror'"):
        hub("mirror")
    registered(Plugin())
    assert isinstance(hub("mirror"), Mirror)


def test_two_hubs_of_one_name_are_an_error(registered):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_hubs(self) -> list[Hub]:
            return [HuggingFaceHub()]

    registered(Plugin())
    with pytest.raises(OptimumHTPError, match="2 installed plugins"):
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


def test_plugin_may_name_any_preprocessor_class_of_transformers(registered, model_folder, tmp_path):
    import transformers

    class Plugin:
        names = ("AutoVideoProcessor",)

        @optimum_htp.hookimpl
        def optimum_htp_preprocessors(self, files, configs):
            return self.names

    registered(plugin := Plugin())
    if hasattr(transformers, "AutoVideoProcessor"):
        HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
        written = read_metadata(tmp_path / "out" / "model.onnx")
        assert ExportMetadata.from_properties(written).preprocessors == ("AutoTokenizer", "AutoVideoProcessor")
    for plugin.names in (["AutoNoSuchProcessor"], ["AutoModel"], ["AutoTokenizer", None], "GenerationConfig", [["x"]]):
        with pytest.raises(PluginError, match="not an Auto class of transformers"):
            HTPExporter().export(model_folder("bert"), tmp_path / "none", do_validation=False)
    assert not (tmp_path / "none").exists()


def test_plugin_may_not_set_our_keys(registered, model_folder, tmp_path):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_metadata(self, metadata, info):
            return {"hf_hub_sha": "forged"}

    registered(Plugin())
    with pytest.raises(OptimumHTPError, match="hf_hub_sha"):
        HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    assert not (tmp_path / "out").exists()


def install(folder, **modules):
    """Install a distribution with one module for each plugin, named by an entry point."""
    info = folder / "acme_plugins-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-plugins\nVersion: 1.2\n")
    points = "\n".join(f"{name} = {name}" for name in modules)
    (info / "entry_points.txt").write_text(f"[optimum_htp]\n{points}\n")
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(f"import optimum_htp\n{source}\n")


GOOD = """
@optimum_htp.hookimpl
def optimum_htp_hubs():
    from optimum_htp.hubs.huggingface.hub import HuggingFaceHub
    class Acme(HuggingFaceHub):
        name = "acme"
    return [Acme()]
"""
BROKEN = {
    "raises": "raise RuntimeError('on purpose')",
    "imports_what_is_gone": "import gone_for_good",
    "has_a_hook_that_is_none": "@optimum_htp.hookimpl\ndef optimum_htp_no_such_hook(): ...",
    "wants_an_argument_that_is_none": "@optimum_htp.hookimpl\ndef optimum_htp_hubs(colour): ...",
}


def test_plugins_that_cannot_be_loaded_are_named_once_and_left_out(exported, tmp_path):
    install(tmp_path, good=GOOD, **BROKEN)
    code = f"""
from optimum.onnxruntime import ORTModelForSequenceClassification
for _ in range(2):
    model = ORTModelForSequenceClassification.from_pretrained({str(exported("bert") / "model.onnx")!r})
from optimum_htp.plugins import hub
print(type(model).__name__, hub("acme").name, hub().name)
"""
    done = run_python(code, PYTHONPATH=str(tmp_path))
    assert done.stdout.split() == ["ORTModelForSequenceClassification", "acme", "huggingface"]
    for name in BROKEN:
        (line,) = [line for line in done.stderr.splitlines() if name in line]
        assert "(acme-plugins 1.2) is left out" in line
    assert "'good'" not in done.stderr
    assert "Traceback" not in done.stderr


def test_failing_hub_hook_affects_only_its_own_models(registered, caplog):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_hubs(self):
            raise RuntimeError("on purpose")

    registered(Plugin())
    assert isinstance(hub(), HuggingFaceHub)
    assert isinstance(hub(), HuggingFaceHub)
    assert caplog.text.count("fails in optimum_htp_hubs: RuntimeError: on purpose") == 1
    with pytest.raises(UnknownHubError, match=r"'acme'.*fails in optimum_htp_hubs: RuntimeError: on purpose"):
        hub("acme")


@pytest.mark.parametrize("hook", ["optimum_htp_metadata", "optimum_htp_preprocessors"])
def test_failing_metadata_hook_names_the_plugin(hook, registered, model_folder, tmp_path):
    def fails(self):
        raise RuntimeError("on purpose")

    registered(type("Acme", (), {hook: optimum_htp.hookimpl(fails)})())
    with pytest.raises(PluginError, match=rf"fails in {hook}: RuntimeError: on purpose"):
        HTPExporter().export(model_folder("bert"), tmp_path / "out", do_validation=False)
    assert not (tmp_path / "out").exists()


def test_command_whose_name_is_taken_is_left_out(registered, caplog):
    class Plugin:
        @optimum_htp.hookimpl
        def optimum_htp_commands(self):
            return [optimum_htp.CommandEntry("push", "Another.", "other:Command")]

    push = commands()["push"]
    registered(Plugin())
    assert commands()["push"] == push
    assert caplog.text.count("the name is already used") == 1


@pytest.mark.parametrize(("hook", "ask"), [("commands", commands), ("destinations", destinations)])
def test_failing_command_hook_keeps_commands_of_other_plugins(registered, caplog, hook, ask):
    def fail(self):
        raise RuntimeError("on purpose")

    known = ask()
    registered(type("Plugin", (), {f"optimum_htp_{hook}": optimum_htp.hookimpl(fail)})())
    assert len(ask()) == len(known)
    assert f"fails in optimum_htp_{hook}: RuntimeError: on purpose" in caplog.text


def test_hub_without_required_methods_cannot_be_created():
    class Empty(Hub):
        name = "empty"

    with pytest.raises(TypeError, match="abstract"):
        Empty()
