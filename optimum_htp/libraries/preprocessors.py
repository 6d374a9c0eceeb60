"""The kinds of preprocessors in transformers. Each kind is one entry here.

`repo_files.preprocessor_classes` decides which kinds a repo has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from optimum_htp.libraries.names import EXTRACTOR_CONFIG, GENERATION_CONFIG

__all__ = ["EXTRACTORS", "KINDS", "LOADERS", "SAVED_AS", "PreprocessorKind"]


class PreprocessorKind(NamedTuple):
    """A kind of preprocessor, loaded by one Auto class.

    Attributes:
        part: Its name as a part of a processor and of the processor's config; also the argument of pipelines.
        saved_as: The config files that `save_pretrained` writes, and that loaders read first.
        loaders: The classes whose `from_pretrained` loads one, by the module of transformers that defines each: the
            Auto class, and the base of all classes that it may select.
        is_extractor: Whether it converts images, sounds or videos to arrays.
        is_argument: Whether pipelines accept it.
    """

    part: str
    saved_as: tuple[str, ...]
    loaders: Mapping[str, str]
    is_extractor: bool = False
    is_argument: bool = True


KINDS: Final[Mapping[str, PreprocessorKind]] = {
    "AutoTokenizer": PreprocessorKind(
        "tokenizer",
        ("tokenizer_config.json",),
        {
            "transformers.models.auto.tokenization_auto": "AutoTokenizer",
            "transformers.tokenization_utils_base": "PreTrainedTokenizerBase",
        },
    ),
    "AutoFeatureExtractor": PreprocessorKind(
        "feature_extractor",
        (EXTRACTOR_CONFIG,),
        {
            "transformers.models.auto.feature_extraction_auto": "AutoFeatureExtractor",
            "transformers.feature_extraction_utils": "FeatureExtractionMixin",
        },
        is_extractor=True,
    ),
    "AutoImageProcessor": PreprocessorKind(
        "image_processor",
        (EXTRACTOR_CONFIG,),
        {
            "transformers.models.auto.image_processing_auto": "AutoImageProcessor",
            "transformers.image_processing_base": "ImageProcessingMixin",
        },
        is_extractor=True,
    ),
    "AutoVideoProcessor": PreprocessorKind(
        "video_processor",
        ("video_preprocessor_config.json",),
        {
            "transformers.models.auto.video_processing_auto": "AutoVideoProcessor",
            "transformers.video_processing_utils": "BaseVideoProcessor",
        },
        is_extractor=True,
        is_argument=False,
    ),
    "AutoProcessor": PreprocessorKind(
        "processor",
        ("processor_config.json", EXTRACTOR_CONFIG),
        {
            "transformers.models.auto.processing_auto": "AutoProcessor",
            "transformers.processing_utils": "ProcessorMixin",
        },
    ),
}
"""The kinds, by the name of the Auto class."""

EXTRACTORS: Final = tuple(name for name, kind in KINDS.items() if kind.is_extractor)

SAVED_AS: Final = {name: kind.saved_as for name, kind in KINDS.items()} | {"GenerationConfig": (GENERATION_CONFIG,)}
"""The files that `save_pretrained` of a class writes, and that loading reads."""

LOADERS: Final[Mapping[str, Mapping[str, str]]] = {
    "transformers.configuration_utils": {"PreTrainedConfig": "AutoConfig", "PretrainedConfig": "AutoConfig"},
    "transformers.generation.configuration_utils": {"GenerationConfig": "GenerationConfig"},
    "transformers.models.auto.configuration_auto": {"AutoConfig": "AutoConfig"},
    **{module: {cls: name} for name, kind in KINDS.items() for module, cls in kind.loaders.items()},
}
"""The classes of transformers that load files of a model, by module, with the class that represents the kind of each.

A module may lack some of these names, depending on the version of transformers.
"""
