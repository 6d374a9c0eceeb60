"""Load an ONNX file as a user does, and the same model in PyTorch, in a new process; print both outputs.

This module does not import optimum_htp: the test is that no import is needed.

python -m tests.support.compare CLASS ONNX_FILE MODEL_FOLDER
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch


def _inputs(kind: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    if kind == "image":
        return {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator)}
    if kind == "audio":
        return {"input_values": torch.randn(2, 1600, generator=generator)}
    tokens = torch.randint(5, 20, (2, 7), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def _first_tensor(outputs: Any) -> torch.Tensor:
    return outputs.logits if hasattr(outputs, "logits") else outputs.last_hidden_state


def _difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference, relative to the largest value if that is above 1."""
    return ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0)).item()


def main(class_name: str, onnx_file: str, folder: str) -> None:
    import optimum.onnxruntime
    import transformers

    cls = getattr(optimum.onnxruntime, class_name)
    ours = cls.from_pretrained(onnx_file)
    auto = cls.auto_model_class
    theirs = auto.from_pretrained(folder).eval()
    report: dict[str, Any] = {
        "class": type(ours).__name__,
        "isinstance": isinstance(ours, cls),
        "model_type": ours.config.model_type,
    }
    kind = {"pixel_values": "image", "input_values": "audio"}.get(theirs.main_input_name, "text")
    inputs = _inputs(kind)
    if ours.can_generate():
        options = {
            "max_new_tokens": 12,
            "min_new_tokens": 12,
            "do_sample": False,
            "output_logits": True,
            "return_dict_in_generate": True,
        }
        mine, reference = ours.generate(**inputs, **options), theirs.generate(**inputs, **options)
        report["values"] = torch.stack(mine.logits).flatten().tolist()
        report["same_tokens"] = mine.sequences.tolist() == reference.sequences.tolist()
        report["distinct"] = len(reference.sequences[:, -12:].unique())
        report["difference"] = max(_difference(a, b) for a, b in zip(mine.logits, reference.logits, strict=True))
    else:
        with torch.no_grad():
            report["difference"] = _difference(_first_tensor(ours(**inputs)), _first_tensor(theirs(**inputs)))
    report["optimum_htp_imported_by_user"] = "optimum_htp" in globals()
    report["labels"] = getattr(ours.config, "id2label", None)
    report["transformers"] = transformers.__version__
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
