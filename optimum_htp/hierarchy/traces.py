"""Stack traces of PyTorch's dynamo exporter in nodes. They contain paths of the exporting machine.

Exports of this package do not have them. In other files they are kept until the user removes them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import Graph

__all__ = ["warn_of_traces", "without_traces"]

logger = get_logger(__name__)

_TRACE: Final = "pkg.torch.onnx.stack_trace"


def without_traces(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return a node's properties without its stack trace."""
    if _TRACE not in metadata:
        return metadata
    return {key: value for key, value in metadata.items() if key != _TRACE}


def warn_of_traces(path: str | os.PathLike[str], graph: Graph) -> None:
    """Log a warning for a file whose nodes have stack traces, with the command that removes them."""
    traced = sum(_TRACE in node.metadata for node in graph.nodes)
    if traced:
        logger.warning(
            "%s: %d nodes have PyTorch's stack traces, which contain paths of the exporting machine. To remove them, "
            "run `optimum-cli htp strip --stack-traces %s`.",
            path,
            traced,
            path,
        )
