"""File names that Hugging Face's libraries share."""

from typing import Final

__all__ = [
    "CONFIG",
    "CONFIG_CLASSES",
    "EXPORT_MANIFEST",
    "EXTRACTOR_CONFIG",
    "GENERATION_CONFIG",
    "MODEL_INDEX",
    "ONNX_FILE",
    "ONNX_FOLDERS",
    "ONNX_PATTERN",
    "PREPROCESSOR_CONFIGS",
    "SCHEDULER",
    "SCHEDULER_CONFIG",
    "SENTENCEPIECE",
    "SENTENCE_MODULES",
    "TOKENIZER",
    "WEIGHTS",
]

CONFIG: Final = "config.json"
EXPORT_MANIFEST: Final = "export.json"
"""The file that transformers' `ExportedModel` needs: the names of a model's files, and the nesting of inputs."""
EXTRACTOR_CONFIG: Final = "preprocessor_config.json"
"""The config of an image processor or a feature extractor."""
GENERATION_CONFIG: Final = "generation_config.json"
CONFIG_CLASSES: Final = ("AutoConfig", "GenerationConfig")
"""The classes that load the files that every load of a model needs."""
MODEL_INDEX: Final = "model_index.json"
"""The config of a diffusion pipeline."""
PREPROCESSOR_CONFIGS: Final = ("processor_config.json", EXTRACTOR_CONFIG, "tokenizer_config.json")
"""The configs that name a model's preprocessors, the most inclusive first."""
TOKENIZER: Final = "tokenizer.json"
"""The tokenizer of `tokenizers`. With it, a sentencepiece model is not needed."""
SENTENCEPIECE: Final = (".model", ".spm")
"""The suffixes of sentencepiece's models."""
SCHEDULER: Final = "scheduler"
SCHEDULER_CONFIG: Final = "scheduler_config.json"
"""The folder of a diffusion pipeline's scheduler, and the config in it."""
SENTENCE_MODULES: Final = "modules.json"
"""The list of the modules of a sentence_transformers model."""
WEIGHTS: Final = "model.safetensors"
"""The weights of a model, or of a module of sentence_transformers, in a single file."""
ONNX_FILE: Final = "model.onnx"
"""Optimum's name for the only file of a model, or of a part of a pipeline."""
ONNX_FOLDERS: Final = ("", "onnx")
"""The folders in which Optimum searches for ONNX files."""
ONNX_PATTERN: Final = "*.[oO][nN][nN][xX]"
"""The pattern of ONNX file names."""
