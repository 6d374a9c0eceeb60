"""Imports of every export, done once by the server that forks a process for each export.

Messages of libraries during these imports do not concern any model.
"""

import os

_null, _stderr = os.open(os.devnull, os.O_WRONLY), os.dup(2)
os.dup2(_null, 2)
try:
    import optimum.exporters.onnx.__main__  # noqa: F401
    import torch.onnx  # noqa: F401

    import optimum_htp.export.exporter  # noqa: F401
finally:
    os.dup2(_stderr, 2)
    os.close(_null)
    os.close(_stderr)
