"""Tags for files that have none, or have lost them: `optimum-cli htp tag`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from optimum_htp.errors import MetadataError, MisfitError
from optimum_htp.hierarchy.assign import Assignment, assign, dynamo_tree
from optimum_htp.hierarchy.carry import Original, carry
from optimum_htp.hierarchy.parts import part_tree, scopes_of
from optimum_htp.hierarchy.renamed import owners_by_shape
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tags import MODULES, TagWriter, check_taggable, tagged_assignment
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.hubs.base import HubAccess
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import Graph, ModelHeader, OpenModel, read_header
from optimum_htp.onnxfile.data_files import copy_data
from optimum_htp.onnxfile.outputs import ONNX, check_output
from optimum_htp.origin.checkpoint import fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.origin.weightless import tree_of_checkpoint
from optimum_htp.stamping.originals import ir_version_note

__all__ = ["Tagger", "carried_tags", "tag_file"]

_SHOWN: Final = 80  # characters of a name in a message


class Tagger:
    """Finds the modules of files' nodes; what is looked up for one file serves the others.

    Args:
        original: The file that they were made from.
        model: The model that they are exports of: Hub id, `id@revision` or folder.
        revision: Branch, tag or commit of that model.
        access: How to reach its Hub.
        trust_remote_code: Whether code of its repo may run.
        on_building: Called before the model is built in PyTorch, without weights, which takes seconds.
    """

    def __init__(
        self,
        original: str | os.PathLike[str] | None = None,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        access: HubAccess | None = None,
        trust_remote_code: bool = False,
        on_building: Callable[[], object] | None = None,
    ) -> None:
        self._on_building = on_building
        self._original = original
        self._model = model
        self._revision = revision
        self._access = access or HubAccess()
        self._trusted = trust_remote_code
        self._tree = functools.cache(self._look_up_tree)

    def assignment(self, path: str | os.PathLike[str]) -> Assignment:
        """Return the modules of a file's nodes.

        Where an original is known they are carried over from it; else the names in the file are resolved in the
        model's tree: that of the model that was named, that in the file, or at last the one that the names make up.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at a path.
            MisfitError: No name in the file leads to a module.
            HFHubIntegrationError: The model cannot be found or had; the subclass says why.
        """
        with OpenModel.at(path) as model:
            return self._assignment(model.header, model.graph)

    def write(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str] | None = None,
        *,
        external_data: bool = False,
    ) -> Assignment:
        """Tag a file; return what was written. With `external_data` its weights are moved to a file next to it.

        Raises:
            OnnxWriteError: The file cannot be written, cannot take tags, or somebody else has replaced it. What was
                there still is.
        """
        if output is not None and self._original is not None:
            check_output(output, ONNX, inputs=[self._original])
        with OpenModel.at(path) as model:
            tags = TagWriter(self._assignment(model.header, model.graph), is_export=False)
            check_taggable(model)
            version = tags.ir_version(model.header.ir_version)
            if output is not None:
                copy_data(Path(path), Path(output))
            model.rewrite(
                metadata={**tags.metadata, **ir_version_note(model.header, version)},
                nodes=tags.visitor(),
                ir_version=version,
                output=output,
                external_data=external_data,
            )
        return tags.assignment

    def _assignment(self, header: ModelHeader, graph: Graph) -> Assignment:
        if self._original is not None:
            return self._carried(graph, header)
        tree = self._tree_for(header, graph)
        assignment = _resolved(graph, tree)
        if graph.nodes and not any(assignment.modules) and (self._model is None or len(tree.classes) > 1):
            whose = f" of {self._model}" if self._model is not None else ""
            name = graph.nodes[0].name or graph.nodes[0].op_type
            raise MisfitError(
                f"None of the {len(graph.nodes)} nodes has a name that leads to a module{whose}, such as "
                f"{name[:_SHOWN]!r}: nothing was written. Name the file that it was "
                "made from with --from, or export the model again: what was exported by anything but PyTorch, or by "
                "a PyTorch before 1.13, does not say where its nodes came from."
            )
        return assignment

    def _carried(self, graph: Graph, header: ModelHeader) -> Assignment:
        with OpenModel.at(str(self._original)) as source:
            before, original = source.header, source.graph
        try:
            known = tagged_assignment(before, original)
        except MetadataError as error:
            raise MetadataError(f"{self._original}: {error}", error.key) from error
        if known is None:
            tree = self._tree_for(before if MODULES in before.metadata else header, original)
            known = _resolved(original, tree)
        tree = known.tree if self._model is None else self._tree(_task_of(header))
        tree = part_tree(original, tree)
        return carry([Original(original, known)], graph, ScopeResolver(tree), tree)

    def _tree_for(self, header: ModelHeader, graph: Graph) -> ModuleTree:
        if self._model is not None:
            return part_tree(graph, self._tree(_task_of(header)))
        if MODULES in header.metadata:
            return part_tree(graph, ModuleTree.from_json(header.metadata[MODULES]))
        return dynamo_tree(graph) or ModuleTree.of_scopes(scopes_of(graph))

    def _look_up_tree(self, task: str | None) -> ModuleTree:
        source = locate(self._model or "", self._revision, self._access)
        checkpoint = fetch_checkpoint(source, self._access, None, weights=False)
        if self._on_building is not None:
            self._on_building()
        return tree_of_checkpoint(checkpoint, task, trust_remote_code=self._trusted)


def tag_file(
    path: str | os.PathLike[str],
    *,
    original: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    external_data: bool = False,
) -> Assignment:
    """Write into each node of an ONNX file which module it came from; see `Tagger`."""
    return Tagger(original, model).write(path, output, external_data=external_data)


def carried_tags(source: Path, made: Path) -> TagWriter | None:
    """Return the tags of a file that was made from a tagged one; None where that has none."""
    if MODULES not in read_header(source).metadata:
        return None
    return TagWriter(Tagger(source).assignment(made), is_export=False)


def _resolved(graph: Graph, tree: ModuleTree) -> Assignment:
    """Return the modules that the names in a graph say, and the shapes of parameters that have lost their names."""
    resolver = ScopeResolver(tree)
    assignment = assign(graph, resolver, tree)
    owners = owners_by_shape(graph, assignment)
    return assign(graph, resolver, tree, owners) if owners else assignment


def _task_of(header: ModelHeader) -> str | None:
    try:
        record = ExportMetadata.from_properties(header.metadata)
    except MetadataError:
        return None
    return record.task if record is not None else None
