"""Checks whether a named transformers class (`BertConfig`, `BertTokenizerFast`) fits an ONNX file's model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError, PreprocessorLoadError
from optimum_htp.libraries.names import CONFIG, PREPROCESSOR_CONFIGS
from optimum_htp.libraries.preprocessors import EXTRACTORS, KINDS
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.resolve.config_folder import Carrier

__all__ = ["check_class", "wants_slow"]

# The Auto classes whose presence in a record allows each Auto class. A processor can consist of extractors.
_PARTS: Final = {name: (name, "AutoProcessor") for name in KINDS} | {"AutoProcessor": (*EXTRACTORS, "AutoProcessor")}


def wants_slow(cls: type, what: str) -> bool:
    """Whether a class is a slow tokenizer (written in Python), which reads other files than the fast one."""
    from transformers import PreTrainedTokenizerFast

    return what == "AutoTokenizer" and not issubclass(cls, PreTrainedTokenizerFast)


def check_class(cls: type, what: str, carrier: Carrier, folder: Path) -> None:
    """Check that a class fits the model of an ONNX file; `what` is the Auto class for this kind of class.

    Raises:
        ConfigLoadError: The class is the config class of another model type.
        PreprocessorLoadError: The model has no preprocessor of this class or kind.
    """
    record = carrier.record
    if what == "AutoConfig":
        content = read_json(folder / CONFIG)
        if isinstance(content, dict) and not _takes(cls, content):
            raise ConfigLoadError(
                f"{cls.__name__} does not fit {carrier.name}, whose model is of type {content.get('model_type')}. "
                "Use AutoConfig, which selects the right class."
            )
        return
    named = None
    if what in EXTRACTORS:
        named = _extractor_named(folder, what)
    elif what == "AutoProcessor":
        named = _processor_named(folder)
    if named is not None and _stem(named) not in {_stem(base.__name__) for base in cls.__mro__}:
        raise PreprocessorLoadError(
            f"{cls.__name__} does not fit {carrier.name}, whose model has {named}. Use {what}, which selects the "
            "right class."
        )
    known = record.preprocessors if record is not None else ()
    if known and what in _PARTS and not {*_PARTS[what]} & {*known}:
        raise PreprocessorLoadError(
            f"{cls.__name__} does not fit {carrier.name}: its model has no preprocessor of this kind. Use "
            f"{' or '.join(known)}."
        )


def _extractor_named(folder: Path, what: str) -> str | None:
    """Return the class that a config names for an extractor. In transformers 5, this can be the processor's config."""
    processor = read_json(folder / PREPROCESSOR_CONFIGS[0])
    own = (read_json(folder / name) for name in KINDS[what].saved_as)
    for content in (*own, processor.get(KINDS[what].part) if isinstance(processor, dict) else None):
        if isinstance(content, dict):
            named = next(filter(None, (content.get(f"{KINDS[name].part}_type") for name in EXTRACTORS)), None)
            if isinstance(named, str):
                return named
    return None


def _processor_named(folder: Path) -> str | None:
    """Return the processor class that the configs of preprocessors name."""
    contents = (read_json(folder / name) for name in PREPROCESSOR_CONFIGS)
    named = (content.get("processor_class") for content in contents if isinstance(content, dict))
    return next((name for name in named if isinstance(name, str)), None)


def _stem(name: str) -> str:
    for suffix in ("Fast", "Pil", "WithLM", *(name.removeprefix("Auto") for name in EXTRACTORS), "Processor"):
        name = name.removesuffix(suffix)
    return name


def _takes(cls: Any, content: dict[str, Any]) -> bool:
    """Whether a config class fits a model's config, or a part of it (`CLIPVisionConfig`)."""
    kind = getattr(cls, "model_type", "")
    parts = [value for value in content.values() if isinstance(value, dict)]
    types = {part.get("model_type") for part in (content, *parts)}
    if not kind or kind in types or getattr(cls, "base_config_key", "") in content:
        return True
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    own = content.get("model_type")
    if own not in CONFIG_MAPPING:
        return own is None
    named = CONFIG_MAPPING[own]
    return issubclass(cls, named) or issubclass(named, cls)
