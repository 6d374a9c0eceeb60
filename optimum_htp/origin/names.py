"""Names of files that Hugging Face's libraries agree on."""

from typing import Final

__all__ = ["CONFIG", "GENERATION_CONFIG", "MODEL_INDEX", "ONNX_FILE"]

CONFIG: Final = "config.json"
GENERATION_CONFIG: Final = "generation_config.json"
MODEL_INDEX: Final = "model_index.json"
"""The config of a diffusion pipeline."""
ONNX_FILE: Final = "model.onnx"
"""What Optimum calls the only file of a model, or of a part of a pipeline."""
