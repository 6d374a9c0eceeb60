"""Answers of an ONNX file with onnxruntime, numpy and tokenizers alone: no PyTorch, no transformers, no Optimum.

    from optimum_htp.runtime import load
    model = load("model.onnx")
    model("I like it")                      # what transformers.pipeline answers for the file's task, as plain Python
    model.run(input_ids=..., ...)           # numpy in, numpy out

Answers equal those of transformers' pipelines on the same file. What cannot be equal is refused: a tokenizer or an
image processor that only transformers has.
"""

from optimum_htp.runtime.model import Model, load

__all__ = ["Model", "load"]
