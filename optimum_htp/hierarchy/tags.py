"""Tags in an ONNX file: what each node says of its module, and what the model says of all of them.

    htp.module   bert.encoder.layer.0.attention.self.query
    htp.tag      /BertModel/BertEncoder/BertLayer.0/BertAttention/BertSdpaSelfAttention/Linear
    namespace    bert/encoder/layer.0/attention/self/query      (what Google's Model Explorer groups by)

in the nodes of a module that was cut out also both as seen from that (`htp.relative_module`, `htp.relative_tag`), and
for the whole model `htp.modules` (name to class) and `htp.coverage` (how many nodes each rule found). Nodes have
metadata since IR version 10: https://github.com/onnx/onnx/blob/main/docs/IR.md
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
from optimum_htp.hierarchy.traces import without_traces
from optimum_htp.hierarchy.tree import ROOT, ModuleTree
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
]

MODULE: Final = "htp.module"
TAG: Final = "htp.tag"
NAMESPACE: Final = "namespace"
MODULES: Final = "htp.modules"
COVERAGE: Final = "htp.coverage"
RELATIVE_MODULE: Final = "htp.relative_module"
RELATIVE_TAG: Final = "htp.relative_tag"
# Where tagging keeps what somebody else had written under `namespace`.
_FOREIGN_NAMESPACE: Final = "htp.original_namespace"
MODEL_KEYS: Final = frozenset({MODULES, COVERAGE})
"""The keys of tags at the level of the model. Other tools have keys that begin with `htp.` too."""
_NODE_KEYS: Final = frozenset({MODULE, TAG, RELATIVE_MODULE, RELATIVE_TAG, _FOREIGN_NAMESPACE})
TAGGED_IR_VERSION: Final = 10
_OVERRIDABLE: Final = 4  # the IR version from which an initializer that is an input too is only its default
_SHOWN: Final = 60  # characters of a node's name
_MOST: Final = 1 << 63  # nodes


@dataclass(frozen=True)
class TagWriter:
    """What has to be written into a file so that its nodes say their modules.

    Attributes:
        assignment: The modules.
        is_export: Whether the file is one that was just exported here, and not a file of somebody else.
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
        """Return the IR version that the file has to have."""
        return max(current, TAGGED_IR_VERSION)

    def visitor(self) -> NodeVisitor:
        """Return the function that gives each node, in the order of the file, its properties."""
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
    """Refuse a file that would mean something else with the IR version that tags need.

    Raises:
        OnnxWriteError: Its weights are among its inputs, as they had to be below IR version 4.
    """
    if model.header.ir_version >= _OVERRIDABLE:
        return
    weights = {tensor.name for tensor in model.graph.initializers}
    both = [spec.name for spec in read_signature(model.path)[0] if spec.name in weights]
    if both:
        raise OnnxWriteError(
            f"{model.path} has IR version {model.header.ir_version}, and {len(both)} of its weights are inputs too, "
            f"such as {both[0][:_SHOWN]!r}. In the IR version {TAGGED_IR_VERSION} that tags need, a caller "
            "could set them, and ONNX Runtime would not take them as constant: nothing was written. Export the model "
            "again with a newer exporter; or load it with onnx, take the weights out of graph.input, set ir_version "
            f"to {_OVERRIDABLE} or more, save it, and tag that."
        )


def untagged(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Return a node's properties without those of its tags, and as they were before it was tagged.

    Every node that this package tags has a module; other keys alone are somebody else's.
    """
    if MODULE not in metadata:
        return metadata
    kept = {key: value for key, value in metadata.items() if key not in _NODE_KEYS and key != NAMESPACE}
    foreign = metadata.get(_FOREIGN_NAMESPACE)
    return kept if foreign is None else {**kept, NAMESPACE: foreign}


def tagged_assignment(header: ModelHeader, graph: Graph) -> Assignment | None:
    """Return the modules that a file's nodes say they came from; None where it has no tags.

    Raises:
        MetadataError: `htp.modules` or the tag of a node is not what it should be.
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
    """Return what a file says of how its tags were found; empty where it says nothing that can be read."""
    content = json_or_none(header.metadata.get(COVERAGE, "{}"))
    if not isinstance(content, dict):
        return {}
    return {rule: count for rule, count in content.items() if type(count) is int and 0 <= count < _MOST}


def known_assignment(path: str | os.PathLike[str], header: ModelHeader, graph: Graph) -> Assignment:
    """Return the modules that the nodes of a tagged file say they came from.

    Args:
        path: The file, for the message.
        header: Its header.
        graph: Its graph.

    Raises:
        MetadataError: It has no tags, or they are not what they should be.
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
        MetadataError: The file has no tags, or they are not what they should be.
    """
    with opened(path, chunk=1 << 16) as window:
        header, graph = header_of(window), graph_of(window)
    return graph, known_assignment(path, header, graph)
