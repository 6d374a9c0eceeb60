"""Stack traces that PyTorch's dynamo exporter writes into nodes: they hold paths of the machine that exported.

Exports leave them out. In files of others they stay, until somebody asks to have them removed.
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
    """Warn of a file whose nodes have stack traces, with the command that removes them."""
    traced = sum(_TRACE in node.metadata for node in graph.nodes)
    if traced:
        logger.warning(
            "%s: %d nodes have PyTorch's stack traces, with paths of the machine that exported it. To remove them: "
            "`optimum-cli htp strip --stack-traces %s`.",
            path,
            traced,
            path,
        )
