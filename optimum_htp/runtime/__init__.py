"""Run ONNX files with onnxruntime, numpy and tokenizers only: no PyTorch, no transformers, no Optimum.

    from optimum_htp.runtime import load
    model = load("model.onnx")
    model("I like it")                      # same result as transformers.pipeline for the file's task, as plain Python
    model.run(input_ids=..., ...)           # numpy in, numpy out

The results match those of transformers' pipelines on the same file. If they could not match, an error is raised: for
example for a tokenizer or an image processor that only transformers supports.
"""

from optimum_htp.runtime.model import Model, load

__all__ = ["Model", "load"]
