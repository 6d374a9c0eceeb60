"""Tables from the sources of Optimum and transformers equal those of the imported modules."""

from __future__ import annotations

import gc
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from optimum_htp.libraries import tables
from optimum_htp.libraries.class_sources import source_of_model
from optimum_htp.libraries.source_constants import module_file, parsed


def anew(name):
    """Import a module a second time with another name."""
    spec = importlib.util.spec_from_file_location(f"{name}_anew", tables.module_file(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def unimported(monkeypatch):
    """Return the tables in a process without Optimum's exporters."""
    monkeypatch.setattr(tables, "_imported", lambda: None)


def test_optimums_tables_equal_the_imported_ones(unimported):
    from optimum.exporters.tasks import TasksManager

    assert tables.synonyms() == TasksManager._SYNONYM_TASK_MAP
    assert tables.loaders_by_task() == TasksManager._TRANSFORMERS_TASKS_TO_MODEL_LOADERS
    assert tables.all_tasks() == set(TasksManager.get_all_tasks())
    assert tables.task_classes() == TasksManager._TRANSFORMERS_TASKS_TO_MODEL_MAPPINGS
    assert list(tables.task_classes()) == list(TasksManager._TRANSFORMERS_TASKS_TO_MODEL_MAPPINGS)  # the order matters


def test_exportable_types_match_optimum_onnx(unimported):
    import optimum.exporters.onnx.model_configs  # noqa: F401 - registers
    from optimum.exporters.tasks import TasksManager

    registered = {
        (library, model_type): set(by_exporter["onnx"])
        for library, types in TasksManager._LIBRARY_TO_SUPPORTED_MODEL_TYPES.items()
        for model_type, by_exporter in types.items()
        if "onnx" in by_exporter
    }
    assert len(registered) > 100
    assert tables._supported_tasks() == registered
    assert tables.supported_tasks("unheard", "transformers") == frozenset()


def test_transformers_tables_are_its_own():
    from transformers.models.auto import configuration_auto, image_processing_auto, processing_auto

    modeling_auto = anew("transformers.models.auto.modeling_auto")  # Optimum and others extend the one in memory
    theirs = {name: dict(value) for name, value in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES")}
    del theirs["CONFIG_MAPPING_NAMES"]  # which it imports
    assert tables.model_names() == theirs
    assert tables.config_names() == configuration_auto.CONFIG_MAPPING_NAMES
    assert tables.processor_names() == processing_auto.PROCESSOR_MAPPING_NAMES
    assert tables.image_processor_names().keys() == image_processing_auto.IMAGE_PROCESSOR_MAPPING_NAMES.keys()
    for model_type in tables.config_names():
        module = configuration_auto.model_type_to_module_name(model_type)
        assert tables.module_of(model_type) == module.removeprefix("deprecated.")


def test_tokenizers_are_those_of_transformers():
    import transformers
    from transformers.models.auto import tokenization_auto

    assert tables.tokenizer_names() == tokenization_auto.TOKENIZER_MAPPING_NAMES
    seen = 0
    for name in set(tables.processor_names().values()):
        try:
            theirs = getattr(transformers, name)
        except (AttributeError, ImportError, RuntimeError):
            continue  # its backend is missing
        if (ours := tables.tokenizer_of_processor(name)) is not None:
            assert ours == vars(theirs).get("tokenizer_class", ours), name
            seen += 1
    # Few processors of transformers 5 name their tokenizer.
    assert seen > (3 if hasattr(transformers, "TokenizersBackend") else 50)
    assert tables.tokenizer_of_processor("Unheard") is None


def test_tables_of_imported_packages_are_used(monkeypatch):
    from optimum.exporters.tasks import TasksManager

    monkeypatch.setitem(TasksManager._SYNONYM_TASK_MAP, "somebody-s-own", "fill-mask")
    assert tables.synonyms()["somebody-s-own"] == "fill-mask"


@pytest.mark.parametrize("name", ["bert", "gpt2", "resnet", "t5", "vit", "wav2vec2"])
def test_source_of_a_class_matches_the_class(name):
    import inspect

    import transformers

    class_name = tables.model_names()["MODEL_MAPPING_NAMES"][name]
    heads = {"gpt2": "GPT2LMHeadModel", "t5": "T5ForConditionalGeneration"}
    model_class = getattr(transformers, heads.get(name, class_name))
    source = source_of_model(name, model_class.__name__)
    assert source.inputs == set(inspect.signature(model_class.forward).parameters) - {"self"}
    assert source.main_input == model_class.main_input_name
    assert source.prefix == model_class.base_model_prefix
    assert source.generates is bool(model_class.can_generate())


def test_several_threads_may_read_sources_at_a_time():
    """CPython 3.11 raises SystemError if the thread changes during the construction of a tree."""
    files = sorted((module_file("transformers").parent / "models").glob("*/modeling_*.py"))[:40]

    def read(number, depth):
        return read(number, depth - 1) if depth else parsed.__wrapped__(files[number % len(files)])

    def take_over(*_):
        time.sleep(1e-4)

    gc.callbacks.append(take_over)
    try:
        with ThreadPoolExecutor(8) as pool:
            trees = list(pool.map(lambda number: read(number, number % 8 * 7), range(3 * len(files))))
    finally:
        gc.callbacks.remove(take_over)
    assert all(tree.body for tree in trees)
