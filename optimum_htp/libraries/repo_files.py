"""The files of a repo that matter: configs, preprocessors, and the weights to load.

Pure functions over lists of file names (relative to the repo, with `/`). One list of allowed config and preprocessor
names decides what an export downloads and records, and what a loader downloads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Final

from optimum_htp.libraries.names import (
    CONFIG,
    EXTRACTOR_CONFIG,
    GENERATION_CONFIG,
    MODEL_INDEX,
    PREPROCESSOR_CONFIGS,
    SCHEDULER_CONFIG,
    SENTENCE_MODULES,
    WEIGHTS,
)
from optimum_htp.libraries.tables import image_processor_names, processor_names
from optimum_htp.parsing import LARGEST_JSON, is_inside, json_or_none

__all__ = [
    "ADAPTER_CONFIG",
    "MODEL_CONFIGS",
    "base_of_adapter",
    "base_to_load",
    "config_files",
    "index_shards",
    "is_sentence_transformers_file",
    "preprocessor_classes",
    "read_json",
    "shards_of_tensors",
    "weight_files",
    "weight_indexes",
]


MODEL_CONFIGS: Final = (CONFIG, GENERATION_CONFIG)
"""The files that a loader needs before any preprocessor."""

# File names that transformers' tokenizers, processors, feature extractors and image processors read
# (`vocab_files_names` of its tokenizers, and transformers/utils/__init__.py).
_CONFIG_PATTERNS: Final = (
    *MODEL_CONFIGS,
    EXTRACTOR_CONFIG,
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "image_processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
    "bpe.codes",
    "byte_maps.json",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "normalizer.json",
    "prophetnet.tokenizer",
    "target_vocab.json",
    "vocab-src.json",
    "vocab-tgt.json",
    "word_pronunciation.json",
    "word_shape.json",
    "tekken.json",
    "*.model",  # sentencepiece: tokenizer.model, spiece.model, sentencepiece.bpe.model
    "*.spm",  # Marian: source.spm, target.spm
    "*.tiktoken",
    "qformer_tokenizer/*",
)
_CODE_PATTERN: Final = "*.py"
# Pipelines have a folder for each model.
_DIFFUSERS_PATTERNS: Final = (MODEL_INDEX, f"*/{CONFIG}", f"*/{SCHEDULER_CONFIG}")
# sentence_transformers also reads its modules and their configs (`1_Pooling/config.json`).
_SENTENCE_TRANSFORMERS_PATTERNS: Final = (
    SENTENCE_MODULES,
    "config_sentence_transformers.json",
    "sentence_*_config.json",
    "[0-9]_*/config.json",
    "[0-9][0-9]_*/config.json",
)

# `from_pretrained` searches for these, in this order; the index of a sharded checkpoint names its shards.
_PYTORCH_WEIGHTS: Final = (
    WEIGHTS,
    f"{WEIGHTS}.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_DIFFUSERS_WEIGHTS: Final = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json",
)
ADAPTER_CONFIG: Final = "adapter_config.json"
"""Names the model to which the adjacent weights are added. It is in another repo, at any commit."""
_ADAPTER_FILES: Final = (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin")
# If there are no PyTorch weights, Optimum lets transformers convert these.
_OTHER_WEIGHTS: Final = ("tf_model.h5", "flax_model.msgpack")

_TOKENIZER_FILES: Final = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "tekken.json",
    "*.spm",
    "*.tiktoken",
)


def config_files(files: Iterable[str], *, library: str = "transformers", with_code: bool = False) -> tuple[str, ...]:
    """Return the config and preprocessor files among a repo's files, sorted.

    `with_code` includes Python modules; it is for a config with an `auto_map`.
    """
    patterns = [*_CONFIG_PATTERNS, *_SENTENCE_TRANSFORMERS_PATTERNS, *([_CODE_PATTERN] if with_code else [])]
    nested: tuple[str, ...] = ()
    if library == "diffusers":
        patterns += _DIFFUSERS_PATTERNS
        nested = tuple(f"*/{pattern}" for pattern in _CONFIG_PATTERNS)
    elif library == "sentence_transformers":  # The transformer may be in a folder too: `0_Transformer`, `0_CLIPModel`.
        nested = tuple(f"*/{pattern}" for pattern in (*_CONFIG_PATTERNS, "sentence_*_config.json"))
    return tuple(sorted(name for name in files if _matches(name, (*patterns, *nested))))


def is_sentence_transformers_file(name: str) -> bool:
    """Whether only sentence_transformers reads a config file."""
    return _matches(name, _SENTENCE_TRANSFORMERS_PATTERNS)


def weight_indexes(files: Iterable[str], *, library: str = "transformers") -> tuple[str, ...]:
    """Return the indexes of sharded checkpoints that must be read to find the shards to download."""
    chosen = weight_files(files, lambda _: (), library=library)
    return tuple(name for name in chosen if name.endswith(".index.json"))


def weight_files(
    files: Iterable[str], shards: Callable[[str], Iterable[str]], *, library: str = "transformers"
) -> tuple[str, ...]:
    """Return the weights among a repo's files that would be loaded: one format, one variant.

    `shards` returns the shards that an index lists, relative to the folder of the index.
    """
    names = set(files)
    folders = {""}
    if library in ("diffusers", "sentence_transformers"):
        folders |= {str(PurePosixPath(name).parent) + "/" for name in names if name.count("/") == 1}
    chosen: list[str] = []
    for folder in sorted(folders):
        candidates = _PYTORCH_WEIGHTS + (_DIFFUSERS_WEIGHTS if library == "diffusers" else ())
        found = next((folder + name for name in candidates if folder + name in names), None)
        if found is not None:
            chosen.append(found)
            if found.endswith(".index.json"):
                chosen += [folder + shard for shard in shards(found) if folder + shard in names]
        elif folder == "" and library == "transformers":
            chosen += [name for name in _OTHER_WEIGHTS if name in names][:1]
        chosen += [folder + name for name in _ADAPTER_FILES if folder + name in names]
    return tuple(chosen)


def base_of_adapter(folder: Path) -> str | None:
    """Return the model that the config of an adapter in a folder names; None if it names none."""
    content = read_json(folder / ADAPTER_CONFIG)
    base = content.get("base_model_name_or_path") if isinstance(content, dict) else None
    return base if isinstance(base, str) and base else None


def base_to_load(folder: Path) -> str | None:
    """Return the model that an adapter's folder names, if the folder has a config and only the adapter's weights."""
    names = {path.name for path in folder.iterdir()}
    weights = weight_files(names, lambda _: ())
    if not {CONFIG, ADAPTER_CONFIG} <= names or any(not name.startswith("adapter_") for name in weights):
        return None
    return base_of_adapter(folder)


def index_shards(index: Path) -> tuple[str, ...]:
    """Return the shards that a checkpoint's index lists; empty if the index cannot be read."""
    return tuple(sorted({*shards_of_tensors(index).values()}))


def shards_of_tensors(index: Path) -> Mapping[str, str]:
    """Return the shard of each tensor that a checkpoint's index lists.

    Values that are not names of files in the folder of the index are left out.
    """
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict):
        return {}
    return {key: name for key, name in weight_map.items() if isinstance(name, str) and is_inside(name)}


def preprocessor_classes(files: Sequence[str], configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the Auto classes that load a model's preprocessors, the most inclusive first.

    The contents of the files decide, not a trial: a folder with an image processor can also be loaded with
    `AutoProcessor` and `AutoFeatureExtractor`, but contains neither. `configs` contains its parsed JSON configs.
    """
    preprocessor = configs.get(EXTRACTOR_CONFIG, {})
    found = []
    if _has_processor(configs):
        found.append("AutoProcessor")
    if (kind := _extractor_kind(preprocessor)) is not None:
        found.append(kind)
    elif not preprocessor and "pretrained_cfg" in configs.get(CONFIG, {}):
        found.append("AutoImageProcessor")  # The config of a timm model describes how images are prepared.
    if any(_matches(name, _TOKENIZER_FILES) for name in files):
        found.append("AutoTokenizer")
    return tuple(found)


def _has_processor(configs: Mapping[str, Mapping[str, Any]]) -> bool:
    known = set(processor_names().values())
    for name in PREPROCESSOR_CONFIGS:
        config = configs.get(name, {})
        if str(config.get("processor_class")) in known or "AutoProcessor" in _auto_map(config):
            return True
    return False


def _auto_map(config: Mapping[str, Any]) -> Mapping[str, Any]:
    auto_map = config.get("auto_map")
    return auto_map if isinstance(auto_map, dict) else {}


def _extractor_kind(preprocessor: Mapping[str, Any]) -> str | None:
    if not preprocessor:
        return None
    auto_map = _auto_map(preprocessor)
    if preprocessor.get("image_processor_type") or "AutoImageProcessor" in auto_map:
        return "AutoImageProcessor"
    name = preprocessor.get("feature_extractor_type")
    if not name and "AutoFeatureExtractor" not in auto_map and "sampling_rate" not in preprocessor:
        # Older configs have neither type key. Sizes and statistics distinguish images from waveforms.
        return "AutoImageProcessor" if {"image_mean", "do_resize", "do_normalize"} & set(preprocessor) else None
    return "AutoImageProcessor" if str(name) in _vision_extractors() else "AutoFeatureExtractor"


def _vision_extractors() -> set[str]:
    """Return the names of the feature extractors that image processors have replaced (`ViTFeatureExtractor`)."""
    names = set()
    for classes in image_processor_names().values():
        several = classes.values() if isinstance(classes, dict) else classes  # By backend, since transformers 5.
        for name in (several,) if isinstance(several, str) else several:
            if name:
                names.add(re.sub(r"ImageProcessor(Fast|Pil)?$", "FeatureExtractor", name))
    return names


def read_json(path: Path) -> Any:
    """Return a JSON file's content; None if there is no such file, or `parse_json` rejects it."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            return None
        return json_or_none(path.read_bytes())
    except OSError:
        return None


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Match a path against patterns in which, as in a shell, `*` does not match `/`."""
    depth = name.count("/")
    return any(
        pattern.count("/") == depth and fnmatchcase(name, pattern) if "*" in pattern else name == pattern
        for pattern in patterns
    )
