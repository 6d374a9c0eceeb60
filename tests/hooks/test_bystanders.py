"""Hooks do not change calls for other models: results and errors are the same as without hooks.

Each call runs twice in one process, with active and with inactive hooks.
"""

from __future__ import annotations

import importlib
import re
from argparse import ArgumentParser
from concurrent.futures import ThreadPoolExecutor

import pytest

import optimum_htp
from optimum_htp.hooks import HOOKS

pytest.importorskip("diffusers")
pytest.importorskip("sentence_transformers")


@pytest.fixture(autouse=True)
def _active():
    yield
    optimum_htp.activate()


@pytest.fixture(scope="module")
def plain(model_folder, exported, tmp_path_factory):
    """A folder as Optimum writes it: a config, a tokenizer and an ONNX file without record."""
    import shutil

    import onnx

    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(model_folder("bert"), folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    model = onnx.load(exported("bert") / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    (folder / "generation_config.json").write_text('{"max_new_tokens": 7}')
    return folder


def outcome(function, *args, **kwargs):
    """Return the result of a call in a comparable form."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - any exception must be the same
        return type(error), re.sub(r"\(Request ID: [^)]*\)", "", str(error))  # differs for each request
    described = result.to_dict() if hasattr(result, "to_dict") else str(result).partition(" at 0x")[0]
    return type(result), described


def with_and_without_us(make_call):
    """Return the results of a call with hooks, in this thread and another thread, and without hooks."""
    optimum_htp.activate()
    with ThreadPoolExecutor(1) as pool:
        hooked = outcome(make_call), pool.submit(outcome, make_call).result()
    optimum_htp.deactivate()
    return hooked, outcome(make_call)


# The owner, the name, and the name of the first parameter of each hooked function.
FUNCTIONS = {
    **{
        name: (f"transformers.{name}", "from_pretrained", "pretrained_model_name_or_path")
        for name in (
            "AutoConfig",
            "AutoFeatureExtractor",
            "AutoImageProcessor",
            "AutoProcessor",
            "AutoTokenizer",
            "PretrainedConfig",
            "BertConfig",
            "PreTrainedTokenizerBase",
            "BertTokenizerFast",
            "ImageProcessingMixin",
            "FeatureExtractionMixin",
            "ProcessorMixin",
        )
    },
    **{
        name: (f"transformers.{module}.{name}", "from_pretrained", "pretrained_model_name_or_path")
        for name, module in (  # transformers has a placeholder if torchvision is missing
            ("AutoVideoProcessor", "models.auto.video_processing_auto"),
            ("BaseVideoProcessor", "video_processing_utils"),
        )
    },
    "GenerationConfig": ("transformers.GenerationConfig", "from_pretrained", "pretrained_model_name"),
    "SentenceTransformer": ("sentence_transformers", "SentenceTransformer", "model_name_or_path"),
    "backend_should_export": ("sentence_transformers.backend.utils", "backend_should_export", "load_path"),
    "ORTModel": ("optimum.onnxruntime.ORTModelForSequenceClassification", "from_pretrained", "model_id"),
    "ORTDiffusionPipeline": ("optimum.onnxruntime.ORTDiffusionPipeline", "from_pretrained", "model_name_or_path"),
    "ORTPipelineForTask": (
        "optimum.onnxruntime.ORTPipelineForText2Image",
        "from_pretrained",
        "pretrained_model_or_path",
    ),
    "ORTOptimizer": ("optimum.onnxruntime.ORTOptimizer", "from_pretrained", "model_or_path"),
    "ORTQuantizer": ("optimum.onnxruntime.ORTQuantizer", "from_pretrained", "model_or_path"),
    "find_files_matching_pattern": ("optimum.utils.file_utils", "find_files_matching_pattern", "model_name_or_path"),
    "_cached_file": ("optimum.onnxruntime.modeling.ORTModel", "_cached_file", "path_or_repo_id"),
    "load_file_path": ("sentence_transformers.util.file_io", "load_file_path", "model_name_or_path"),
    "maybe_load_preprocessors": ("optimum.utils.save_utils", "maybe_load_preprocessors", "src_name_or_path"),
    "get_model_from_task": ("optimum.exporters.tasks.TasksManager", "get_model_from_task", "task"),
    "pipeline": ("transformers.pipelines", "pipeline", "task"),
}
# More arguments that a call needs.
REST = {
    "find_files_matching_pattern": {"pattern": r".*\.onnx"},
    "_cached_file": {"filename": "config.json"},
    "load_file_path": {"filename": "config.json"},
    "backend_should_export": {
        "is_local": True,
        "model_kwargs": {},
        "target_file_name": "model.onnx",
        "target_file_glob": "*.onnx",
        "backend_name": "ONNX",
    },
}
# Wrong arguments for each function: on the folder, and of types that no function accepts.
WRONG = {
    "no arguments": lambda function, name: function(),
    "too many": lambda function, name: function("x", *range(30)),
    "twice": lambda function, name: function("x", **{name: "y"}),
    "none": lambda function, name: function(None, **REST.get(name, {})),
    "a number": lambda function, name: function(3),
    "an empty name": lambda function, name: function(""),
    "a name that cannot be": lambda function, name: function("a\0b"),
    "a missing folder": lambda function, name: function("/no/such/folder"),
    "an invalid subfolder": lambda function, name: function("/no/such/folder", subfolder=3),
    "an unknown option": lambda function, name: function("/no/such/folder", no_such_option=1),
}


def resolved(name):
    owner, attribute, first = FUNCTIONS[name]
    try:
        holder = importlib.import_module(owner)
    except ImportError:
        module, _, cls = owner.rpartition(".")
        holder = getattr(importlib.import_module(module), cls)
    return holder, attribute, first


@pytest.mark.parametrize("name", FUNCTIONS)
def test_plain_folder_by_keyword_and_by_position(name, plain):
    holder, attribute, first = resolved(name)
    subject = "text-classification" if first == "task" else str(plain)
    model = "model" if name == "pipeline" else "model_name_or_path"
    rest = {model: str(plain), "framework": "pt"} if first == "task" else REST.get(name, {})
    for call in (
        lambda: getattr(holder, attribute)(**{first: subject}, **rest),
        lambda: getattr(holder, attribute)(subject, **rest),
        lambda: getattr(holder, attribute)(subject, *rest.values()),
    ):
        hooked, without = with_and_without_us(call)
        assert hooked == (without, without)


_CLASSES = [f"ORTModelFor{name}" for name in ("Seq2SeqLM", "SpeechSeq2Seq", "Moonshine", "Vision2Seq", "Pix2Struct")]
BRIDGED = {  # cannot be called without bridges in transformers 5; tested in test_bridges.py
    *((name, "forward") for name in ("ORTModelForCausalLM", *_CLASSES)),
    *(
        (name, attribute)
        for name in ("ORTModelForCausalLM", "ORTModelForConditionalGeneration")
        for attribute in ("_prepare_cache_for_generation", "_reorder_cache", "prepare_inputs_for_generation")
    ),
    *(("ModelPatcher", name) for name in ("__init__", "__exit__", "patch_ops", "restore_ops")),
    *((name, "__init__") for name in ("Dinov2DummyInputGenerator", "DummyVisionStaticInputGenerator")),
    *(("MoonshineModelPatcher", name) for name in ("__enter__", "__exit__")),
    ("optimum.exporters.onnx.convert", "onnx_export_from_model"),
    ("optimum.onnxruntime.pipelines", "pipeline"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_calls_fail_as_without_hooks(name, wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # an empty name is the working folder, which Optimum searches
    holder, attribute, first = resolved(name)
    hooked, without = with_and_without_us(lambda: WRONG[wrong](getattr(holder, attribute), first))
    assert hooked == (without, without)


def test_all_hooked_functions_are_tested():
    from optimum_htp.libraries.dependencies import has_transformers_exporters

    for module in HOOKS:
        if has_transformers_exporters() or not module.startswith("transformers.exporters"):
            importlib.import_module(module)
    from optimum_htp.hooks import patching

    tried = {(getattr(owner, "__name__", ""), attribute) for owner, attribute, _ in map(resolved, FUNCTIONS)}
    tried |= {("ORTModel", "from_pretrained"), ("ORTPipelineForTask", "from_pretrained")}
    tried.add(("ExportedModel", "from_pretrained"))  # in test_exported_models.py
    tried.add(("BaseModel", "__init__"))  # of SentenceTransformer
    tried.add(("VideoProcessorMixin", "from_pretrained"))  # of BaseVideoProcessor, with transformers 5
    hooked = {(owner.__name__, attribute) for owner, attribute in patching._wrapped}
    methods = {("ORTOptimizer", "optimize"), ("ORTQuantizer", "quantize")}  # below
    methods |= {("ONNXRuntimeQuantizeCommand", "parse_args"), ("ONNXRuntimeQuantizeCommand", "run")}
    inner = {(name, attribute) for name, attribute in hooked if attribute == "_from_pretrained"}  # called by those
    assert ("ORTModelForCausalLM", "_from_pretrained") in inner
    assert hooked - tried - inner - BRIDGED == methods


def test_other_sessions_are_unchanged_during_a_load(plain, exported):
    """In another thread, and later in the same thread."""
    import threading

    from onnxruntime import InferenceSession
    from optimum.onnxruntime import modeling

    from optimum_htp.hooks.loading import opening_sessions

    file = exported("bert") / "model.onnx"
    made = []

    def make():
        made.append(modeling.InferenceSession(str(file), providers=["CPUExecutionProvider"]))

    with opening_sessions():
        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        ours = modeling.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        assert issubclass(InferenceSession, modeling.InferenceSession)
        assert isinstance(ours, modeling.InferenceSession)
    assert modeling.InferenceSession is InferenceSession
    assert type(made[0]) is type(ours) is InferenceSession
    assert made[0]._sess_options_initial is None
    with pytest.raises(TypeError) as mine, opening_sessions():
        modeling.InferenceSession()
    with pytest.raises(TypeError) as theirs:
        InferenceSession()
    assert str(mine.value) == str(theirs.value)


def test_wrong_quantize_command_fails_as_without_hooks(plain):
    from optimum.commands.onnxruntime.quantize import ONNXRuntimeQuantizeCommand as Command

    class Made:
        args = None

    for call in (
        lambda: Command.parse_args(),
        lambda: Command.parse_args(None),
        lambda: Command.parse_args(parser=3),
        lambda: Command.parse_args(ArgumentParser(), 1),
        lambda: Command.run(),
        lambda: Command.run(None),
        lambda: Command.run(Made()),
        lambda: Command.run(Made(), 1),
    ):
        hooked, without = with_and_without_us(call)
        assert hooked == (without, without)
    parser = ArgumentParser()
    Command.parse_args(parser)
    optimum_htp.deactivate()
    Command.parse_args(ArgumentParser())
    same = parser.parse_args(["--onnx_model", str(plain), "--avx2", "-o", str(plain)])
    with pytest.raises(ValueError, match="must be different"):  # Optimum's own message
        type("Run", (Command,), {"__init__": lambda self, args: setattr(self, "args", args)})(same).run()


@pytest.mark.parametrize(("cls", "method"), [("ORTOptimizer", "optimize"), ("ORTQuantizer", "quantize")])
def test_wrong_calls_of_optimizer_and_quantizer_fail_as_without_hooks(cls, method, plain):
    import optimum.onnxruntime

    maker = getattr(optimum.onnxruntime, cls).from_pretrained(plain)
    for args, kwargs in (((), {}), ((None,), {}), ((None, plain / "out"), {}), ((), {"save_dir": "x", "no": 1})):
        hooked, without = with_and_without_us(lambda args=args, kwargs=kwargs: getattr(maker, method)(*args, **kwargs))
        assert hooked == (without, without)


def test_generation_config_accepts_a_stamped_file_by_keyword(exported):
    from transformers import GenerationConfig

    file = sorted(exported("gpt2").glob("*.onnx"))[0]
    by_position, by_name = (
        GenerationConfig.from_pretrained(file),
        GenerationConfig.from_pretrained(pretrained_model_name=file, subfolder=""),
    )
    assert by_position.to_dict() == by_name.to_dict()
    assert GenerationConfig.from_pretrained(file, "generation_config.json", None, False).to_dict() == by_name.to_dict()
