"""Names of files that Hugging Face's libraries agree on."""

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
"""What `ExportedModel` of transformers needs beside the files of a model: their names, and how their inputs nest."""
EXTRACTOR_CONFIG: Final = "preprocessor_config.json"
"""The config of an image processor or a feature extractor."""
GENERATION_CONFIG: Final = "generation_config.json"
CONFIG_CLASSES: Final = ("AutoConfig", "GenerationConfig")
"""What loads the files that every load of a model needs."""
MODEL_INDEX: Final = "model_index.json"
"""The config of a diffusion pipeline."""
PREPROCESSOR_CONFIGS: Final = ("processor_config.json", EXTRACTOR_CONFIG, "tokenizer_config.json")
"""The configs that name what a model's preprocessors are, the most inclusive first."""
TOKENIZER: Final = "tokenizer.json"
"""The tokenizer of `tokenizers`; a model of sentencepiece is needless beside it."""
SENTENCEPIECE: Final = (".model", ".spm")
"""The suffixes of sentencepiece's models."""
SCHEDULER: Final = "scheduler"
SCHEDULER_CONFIG: Final = "scheduler_config.json"
"""The folder of a diffusion pipeline's scheduler, and its config in there."""
SENTENCE_MODULES: Final = "modules.json"
"""The list of the modules of a model of sentence_transformers."""
WEIGHTS: Final = "model.safetensors"
"""The weights of a model, or of a module of sentence_transformers, that are in one file."""
ONNX_FILE: Final = "model.onnx"
"""What Optimum calls the only file of a model, or of a part of a pipeline."""
ONNX_FOLDERS: Final = ("", "onnx")
"""Where Optimum looks for ONNX files, in a folder and in a repo."""
ONNX_PATTERN: Final = "*.[oO][nN][nN][xX]"
"""The names of ONNX files in a folder."""
