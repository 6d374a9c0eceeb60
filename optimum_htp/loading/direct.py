"""Classes of transformers that are named directly (`BertConfig`, `BertTokenizerFast`): whether they fit a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError, PreprocessorLoadError
from optimum_htp.libraries.names import CONFIG, PREPROCESSOR_CONFIGS
from optimum_htp.libraries.preprocessors import EXTRACTORS, KINDS
from optimum_htp.libraries.repo_files import read_json
from optimum_htp.resolve.config_folder import Carrier

__all__ = ["refuse_misfit", "wants_slow"]

# What each of these can be asked for; a processor may be made of parts that only its class puts together.
_PARTS: Final = {name: (name, "AutoProcessor") for name in KINDS} | {"AutoProcessor": (*EXTRACTORS, "AutoProcessor")}


def wants_slow(cls: type, what: str) -> bool:
    """Whether a class is a tokenizer written in Python, which reads more files than the fast one of the model."""
    from transformers import PreTrainedTokenizerFast

    return what == "AutoTokenizer" and not issubclass(cls, PreTrainedTokenizerFast)


def refuse_misfit(cls: type, what: str, carrier: Carrier, folder: Path) -> None:
    """Refuse to load something of a model with a class that is for other models.

    Args:
        cls: The class.
        what: The Auto class that stands for its kind.
        carrier: The ONNX file.
        folder: What is to be loaded from.

    Raises:
        ConfigLoadError: It is a config's class, and of another type of models.
        PreprocessorLoadError: The model has no preprocessor of that kind.
    """
    record = carrier.record
    if what == "AutoConfig":
        content = read_json(folder / CONFIG)
        if isinstance(content, dict) and not _takes(cls, content):
            raise ConfigLoadError(
                f"{cls.__name__} does not fit {carrier.name}, whose model is of type {content.get('model_type')}. "
                "AutoConfig picks the class that fits."
            )
        return
    named = _extractor_named(folder, what) if what in EXTRACTORS else _processor_named(folder, what)
    if named is not None and _stem(named) not in {_stem(base.__name__) for base in cls.__mro__}:
        raise PreprocessorLoadError(
            f"{cls.__name__} does not fit {carrier.name}, whose model has {named}. {what} picks the class that fits."
        )
    known = record.preprocessors if record is not None else ()
    if known and what in _PARTS and not {*_PARTS[what]} & {*known}:
        raise PreprocessorLoadError(
            f"{cls.__name__} does not fit {carrier.name}: its model has no preprocessor of that kind, but what "
            f"{', '.join(known)} loads."
        )


def _extractor_named(folder: Path, what: str) -> str | None:
    """Return the class that a config names for an extractor; since transformers 5 a processor's config may."""
    processor = read_json(folder / PREPROCESSOR_CONFIGS[0])
    own = (read_json(folder / name) for name in KINDS[what].saved_as)
    for content in (*own, processor.get(KINDS[what].part) if isinstance(processor, dict) else None):
        if isinstance(content, dict):
            named = next(filter(None, (content.get(f"{KINDS[name].part}_type") for name in EXTRACTORS)), None)
            if isinstance(named, str):
                return named
    return None


def _processor_named(folder: Path, what: str) -> str | None:
    """Return the class that the configs of preprocessors name for a processor."""
    if what != "AutoProcessor":
        return None
    contents = (read_json(folder / name) for name in PREPROCESSOR_CONFIGS)
    named = (content.get("processor_class") for content in contents if isinstance(content, dict))
    return next((name for name in named if isinstance(name, str)), None)


def _stem(name: str) -> str:
    for suffix in ("Fast", "Pil", "WithLM", *(name.removeprefix("Auto") for name in EXTRACTORS), "Processor"):
        name = name.removesuffix(suffix)
    return name


def _takes(cls: Any, content: dict[str, Any]) -> bool:
    """Whether a config's class is for a model, or for a part of it (`CLIPVisionConfig`)."""
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
