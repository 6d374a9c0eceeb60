"""Classes of transformers that are named directly (`BertConfig`, `BertTokenizerFast`): whether they fit a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ConfigLoadError, PreprocessorLoadError
from optimum_htp.origin.config_folder import Carrier
from optimum_htp.origin.names import CONFIG
from optimum_htp.origin.repo_files import read_json

__all__ = ["refuse_misfit", "wants_slow"]

# What each of these can be asked for; a processor may be made of parts that only its class puts together.
_PARTS: Final = {
    "AutoTokenizer": ("AutoTokenizer", "AutoProcessor"),
    "AutoImageProcessor": ("AutoImageProcessor", "AutoProcessor"),
    "AutoFeatureExtractor": ("AutoFeatureExtractor", "AutoProcessor"),
}


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
    known = record.preprocessors if record is not None else ()
    if known and what in _PARTS and not {*_PARTS[what]} & {*known}:
        raise PreprocessorLoadError(
            f"{cls.__name__} does not fit {carrier.name}: its model has no preprocessor of that kind, but what "
            f"{', '.join(known)} loads."
        )


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
