"""Making two exports of the same model equal byte for byte.

Optimum merges decoders through a set of initializer names, whose order changes from process to process.
"""

from __future__ import annotations

from pathlib import Path

from optimum_htp.onnxfile.external import external_files

__all__ = ["sort_initializers"]


def sort_initializers(path: Path) -> None:
    """Put the initializers of an ONNX file, and their order in its external data, into order of their names.

    Loads the weights into memory.
    """
    import onnx

    data = external_files(path)
    model = onnx.load(path)
    ordered = sorted(model.graph.initializer, key=lambda tensor: tensor.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in ordered]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)
    for name in data:
        (path.parent / name).unlink()
    if data:
        onnx.save(
            model,
            path,
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=data[0],
            size_threshold=1024,
            convert_attribute=True,
        )
    else:
        onnx.save(model, path)
