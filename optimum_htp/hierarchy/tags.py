"""Tags in an ONNX file: the module of each node, and a summary for the model.

    htp.module   bert.encoder.layer.0.attention.self.query
    htp.tag      /BertModel/BertEncoder/BertLayer.0/BertAttention/BertSdpaSelfAttention/Linear
    namespace    bert/encoder/layer.0/attention/self/query      (Google's Model Explorer groups by it)

These are in the nodes. Nodes of an extracted module also have both relative to that module (`htp.relative_module`,
`htp.relative_tag`). The model has `htp.modules` (name to class) and `htp.coverage` (number of nodes of each rule).
Nodes have metadata since IR version 10: https://github.com/onnx/onnx/blob/main/docs/IR.md
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from optimum_htp.errors import MetadataError, OnnxWriteError
from optimum_htp.hierarchy.assign import Assignment
from optimum_htp.hierarchy.parts import scopes_of
from optimum_htp.hierarchy.rules import Rule, check_module
from optimum_htp.hierarchy.tree import ROOT, ModuleTree
from optimum_htp.masking import get_logger
from optimum_htp.onnxfile import (
    Graph,
    ModelHeader,
    NodeVisitor,
    OpenModel,
    read_signature,
)
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.reader import header_of, opened
from optimum_htp.parsing import json_or_none

__all__ = [
    "COVERAGE",
    "MODEL_KEYS",
    "MODULE",
    "MODULES",
    "NAMESPACE",
    "RELATIVE_MODULE",
    "RELATIVE_TAG",
    "TAG",
    "TAGGED_IR_VERSION",
    "TagWriter",
    "check_taggable",
    "coverage_of",
    "known_assignment",
    "read_modules",
    "tagged_assignment",
    "untagged",
    "warn_of_traces",
    "without_traces",
]

logger = get_logger(__name__)

_TRACE: Final = "pkg.torch.onnx.stack_trace"
"""PyTorch's dynamo exporter writes stack traces into nodes, with paths of the exporting machine.

Exports of this package do not have them. In other files they are kept until the user removes them.
"""

MODULE: Final = "htp.module"
TAG: Final = "htp.tag"
NAMESPACE: Final = "namespace"
MODULES: Final = "htp.modules"
COVERAGE: Final = "htp.coverage"
RELATIVE_MODULE: Final = "htp.relative_module"
RELATIVE_TAG: Final = "htp.relative_tag"
# Tagging keeps another tool's value of `namespace` here.
_FOREIGN_NAMESPACE: Final = "htp.original_namespace"
MODEL_KEYS: Final = frozenset({MODULES, COVERAGE})
"""The keys of tags at the level of the model. Other tools also have keys that begin with `htp.`."""
_NODE_KEYS: Final = frozenset({MODULE, TAG, RELATIVE_MODULE, RELATIVE_TAG, _FOREIGN_NAMESPACE})
TAGGED_IR_VERSION: Final = 10
_OVERRIDABLE: Final = 4  # From this IR version on, an initializer that is an input too is only its default.
_SHOWN: Final = 60  # Characters of a node's name.
_MOST: Final = 1 << 63  # Nodes.


@dataclass(frozen=True)
class TagWriter:
    """The tags to write into a file.

    Attributes:
        assignment: The modules.
        is_export: Whether this process exported the file.
    """

    assignment: Assignment
    is_export: bool = True

    @property
    def metadata(self) -> dict[str, str]:
        """The model's properties."""
        tree = self.assignment.tree
        return {
            MODULES: tree.to_json(self.assignment.modules),
            COVERAGE: json.dumps(self.assignment.coverage, separators=(",", ":")),
        }

    def ir_version(self, current: int) -> int:
        """Return the IR version that the file must have."""
        return max(current, TAGGED_IR_VERSION)

    def visitor(self) -> NodeVisitor:
        """Return the function that returns the properties of each node, in the order of the file."""
        modules: Iterator[str] = iter(self.assignment.modules)
        tree = self.assignment.tree

        def visit(known: Mapping[str, str]) -> dict[str, str]:
            module = next(modules)
            kept = dict(without_traces(known) if self.is_export else known)
            if NAMESPACE in known and MODULE not in known:
                kept[_FOREIGN_NAMESPACE] = known[NAMESPACE]
            return {**kept, MODULE: module, TAG: tree.tag(module), NAMESPACE: module.replace(".", "/")}

        return visit


def check_taggable(model: OpenModel) -> None:
    """Reject a file whose meaning would change with the IR version that tags need.

    Raises:
        OnnxWriteError: Its weights are among its inputs, as required below IR version 4.
    """
    if model.header.ir_version >= _OVERRIDABLE:
        return
    weights = {tensor.name for tensor in model.graph.initializers}
    both = [spec.name for spec in read_signature(model.path)[0] if spec.name in weights]
    if both:
        raise OnnxWriteError(
            f"{model.path} has IR version {model.header.ir_version}, and {len(both)} of its weights are inputs too, "
            f"such as {both[0][:_SHOWN]!r}. In IR version {TAGGED_IR_VERSION}, which tags need, a caller could set "
            "them, and ONNX Runtime would not treat them as constants. Nothing was written. Export the model again "
            "with a newer exporter; or load it with onnx, remove the weights from graph.input, set ir_version "
            f"to {_OVERRIDABLE} or more, save it, and tag that file."
        )


def untagged(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return a node's properties before it was tagged.

    Every node that this package tags has a module. Other keys without a module belong to other tools.
    """
    if MODULE not in metadata:
        return metadata
    kept = {key: value for key, value in metadata.items() if key not in _NODE_KEYS and key != NAMESPACE}
    foreign = metadata.get(_FOREIGN_NAMESPACE)
    return kept if foreign is None else {**kept, NAMESPACE: foreign}


def tagged_assignment(header: ModelHeader, graph: Graph) -> Assignment | None:
    """Return the modules in the tags of a file's nodes; None if it has no tags.

    Raises:
        MetadataError: `htp.modules` or the tag of a node is invalid.
    """
    if MODULES not in header.metadata and not any(MODULE in node.metadata for node in graph.nodes):
        return None
    tree = ModuleTree.from_json(header.metadata.get(MODULES, "{}"))
    modules = tuple(
        check_module(node.metadata.get(MODULE, ROOT), f"{MODULE} of the node {node.name[:_SHOWN]!r}")
        for node in graph.nodes
    )
    rules = tuple(Rule.NAME if MODULE in node.metadata else Rule.ROOT for node in graph.nodes)
    return Assignment(tree, modules, rules)


def coverage_of(header: ModelHeader) -> dict[str, int]:
    """Return the coverage that a file records; empty if it cannot be read."""
    content = json_or_none(header.metadata.get(COVERAGE, "{}"))
    if not isinstance(content, dict):
        return {}
    return {rule: count for rule, count in content.items() if type(count) is int and 0 <= count < _MOST}


def known_assignment(path: str | os.PathLike[str], header: ModelHeader, graph: Graph) -> Assignment:
    """Return the modules in the tags of a tagged file's nodes.

    Raises:
        MetadataError: It has no tags, or they are invalid.
    """
    try:
        assignment = tagged_assignment(header, graph)
    except MetadataError as error:
        raise MetadataError(f"{path}: {error}", error.key) from error
    if assignment is None:
        hint = "" if scopes_of(graph) - {()} else ", with --model or --from"
        raise MetadataError(f"{path} has no tags. Add them first: `optimum-cli htp tag {path}`{hint}.")
    return assignment


def read_modules(path: str | os.PathLike[str]) -> tuple[Graph, Assignment]:
    """Return the graph of a tagged file and the modules of its nodes.

    Raises:
        MetadataError: The file has no tags, or they are invalid.
    """
    with opened(path, chunk=1 << 16) as window:
        header, graph = header_of(window), graph_of(window)
    return graph, known_assignment(path, header, graph)


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
