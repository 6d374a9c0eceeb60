"""Names of files that Hugging Face's libraries agree on."""

from typing import Final

__all__ = ["CONFIG", "GENERATION_CONFIG", "MODEL_INDEX", "ONNX_FILE", "PREPROCESSOR_CONFIGS", "WEIGHTS"]

CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"
MODEL_INDEX: Final = "model_index.json"
"""The config of a diffusion pipeline."""
PREPROCESSOR_CONFIGS: Final = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""The configs that name what a model's preprocessors are, the most inclusive first."""
WEIGHTS: Final = "model.safetensors"
"""The weights of a model, or of a module of sentence_transformers, that are in one file."""
ONNX_FILE: Final = "model.onnx"
"""What Optimum calls the only file of a model, or of a part of a pipeline."""
