"""Add tags to files that have none or lost them: `optimum-cli htp tag`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from optimum_htp.errors import HFHubIntegrationError, MetadataError, MismatchError
from optimum_htp.fit.graphs import graph_mismatch
from optimum_htp.fit.weightless import tree_of_checkpoint
from optimum_htp.hierarchy.assign import Assignment, assign, dynamo_tree, keep_exact
from optimum_htp.hierarchy.parts import part_fit, part_tree, scopes_of
from optimum_htp.hierarchy.renamed import owners_by_shape, without_prefix
from optimum_htp.hierarchy.rewritten import Original, assign_rewritten, shared_values
from optimum_htp.hierarchy.scopes import ScopeResolver
from optimum_htp.hierarchy.tags import MODULES, TagWriter, check_taggable, tagged_assignment, warn_of_traces
from optimum_htp.hierarchy.tree import ModuleTree
from optimum_htp.hubs.base import HubAccess
from optimum_htp.masking import get_logger
from optimum_htp.metadata import ExportMetadata
from optimum_htp.onnxfile import Graph, ModelHeader, OpenModel, read_header
from optimum_htp.onnxfile.data_files import copy_data
from optimum_htp.onnxfile.outputs import ONNX, check_output
from optimum_htp.origin.checkpoint import Checkpoint, fetch_checkpoint
from optimum_htp.origin.source import locate
from optimum_htp.stamping.originals import ir_version_note

__all__ = ["Tagger", "carried_tags", "tag_file"]

logger = get_logger(__name__)

_SHOWN: Final = 80  # Characters of a name in a message.
_RELATED: Final = 0.1  # The smallest share of the smaller graph's values whose names both graphs have.


class Tagger:
    """Finds the modules of the nodes of files. Lookups are shared by all files.

    Args:
        original: The file that the files were made from.
        model: The model that the files are exports of: repo id, `id@revision` or folder.
        revision: Branch, tag or commit of that model.
        access: Options for Hub requests.
        trust_remote_code: Whether code of the repo may run.
        force: Whether to tag files that do not match, and to replace tags that are more exact than the new ones.
        on_building: Called with a model's name before it is built in PyTorch without weights, which takes seconds.
    """

    def __init__(
        self,
        original: str | os.PathLike[str] | None = None,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        access: HubAccess | None = None,
        trust_remote_code: bool = False,
        force: bool = False,
        on_building: Callable[[str], object] | None = None,
    ) -> None:
        self._on_building = on_building
        self._original = original
        self._model = os.fspath(model) if model is not None else None
        self._revision = revision
        self._access = access or HubAccess()
        self._trusted = trust_remote_code
        self._force = force
        self._checkpoint = functools.cache(self._fetch_checkpoint)
        self._tree = functools.cache(self._look_up_tree)

    def assignment(self, path: str | os.PathLike[str]) -> Assignment:
        """Return the modules of a file's nodes.

        With an original, they are transferred from it. Otherwise, the names in the file are resolved in the module
        tree of the given model, of the tags in the file, or of the commit in its record. Without any of these, the
        tree is built from the names.

        Raises:
            OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at a path.
            MismatchError: The file is not an export of the model, was not made from the original, or contains no name
                of a module.
            HFHubIntegrationError: The model cannot be found or downloaded; the subclass gives the reason.
        """
        with OpenModel.at(path) as model:
            return self._assignment(str(path), model.header, model.graph)

    def write(
        self,
        path: str | os.PathLike[str],
        output: str | os.PathLike[str] | None = None,
        *,
        external_data: bool = False,
    ) -> Assignment:
        """Tag a file, and return the written tags. With `external_data`, its weights are moved to a file next to it.

        Raises:
            OnnxWriteError: The file cannot be written, cannot contain tags, or was replaced by another process.
                Existing files are unchanged.
        """
        if output is not None and self._original is not None:
            check_output(output, ONNX, inputs=[self._original])
        with OpenModel.at(path) as model:
            tags = TagWriter(self._assignment(str(path), model.header, model.graph), is_export=False)
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
            warn_of_traces(output or path, model.graph)
        return tags.assignment

    def _assignment(self, path: str, header: ModelHeader, graph: Graph) -> Assignment:
        standing = None if self._force else _standing(header, graph)
        if self._original is not None:
            assignment = self._carried(path, graph, header)
        else:
            assignment = self._resolved(path, graph, header)
        return assignment if standing is None else keep_exact(assignment, standing)

    def _resolved(self, path: str, graph: Graph, header: ModelHeader) -> Assignment:
        whole = self._whole_tree(path, header)
        if whole is not None:
            graph = without_prefix(graph, lambda candidate: part_fit(candidate, whole))
        if self._model is not None and not self._force:
            checkpoint = self._checkpoint(self._model, self._revision)
            reason = graph_mismatch(checkpoint.config, _task_of(header), graph, checkpoint.library)
            if reason is not None:
                raise MismatchError(
                    f"{path} does not match {self._model}: {reason}. Nothing was written. Pass the right model, or "
                    "pass --force."
                )
        tree = _tree_in(graph, whole)
        assignment = _resolved(graph, tree)
        if graph.nodes and not any(assignment.modules) and (self._model is None or len(tree.classes) > 1):
            whose = f" of {self._model}" if self._model is not None else ""
            name = graph.nodes[0].name or graph.nodes[0].op_type
            raise MismatchError(
                f"None of the {len(graph.nodes)} nodes has a name that contains a module{whose}; an example is "
                f"{name[:_SHOWN]!r}. Nothing was written. Pass the file that it was made from with --from, or export "
                "the model again: only PyTorch 1.13 and newer write module names into nodes."
            )
        return assignment

    def _carried(self, path: str, graph: Graph, header: ModelHeader) -> Assignment:
        with OpenModel.at(str(self._original)) as source:
            before, original = source.header, source.graph
        try:
            known = tagged_assignment(before, original)
        except MetadataError as error:
            raise MetadataError(f"{self._original}: {error}", error.key) from error
        if known is None:
            whole = self._whole_tree(path, before if MODULES in before.metadata else header)
            known = _resolved(original, _tree_in(original, whole))
        tree = known.tree if self._model is None else self._tree(self._model, self._revision, _task_of(header))
        tree = part_tree(original, tree)
        graph = without_prefix(graph, lambda candidate: shared_values(original, candidate))
        share = shared_values(original, graph)
        if share < _RELATED and not self._force:
            raise MismatchError(
                f"{path} does not seem to be derived from {self._original}: they share the names of only {share:.0%} "
                "of the values. Nothing was written. Pass the right file, or pass --force."
            )
        return assign_rewritten([Original(original, known)], graph, ScopeResolver(tree), tree)

    def _whole_tree(self, path: str, header: ModelHeader) -> ModuleTree | None:
        """Return the tree of the given model, or of the model in the record; None without a model."""
        if self._model is not None:
            return self._tree(self._model, self._revision, _task_of(header))
        if MODULES in header.metadata:
            return ModuleTree.from_json(header.metadata[MODULES])
        record = _record_of(header)
        if record is None or record.hub_id is None:
            return None
        model = record.hub_id if record.hub_provider is None else f"{record.hub_provider}://{record.hub_id}"
        try:
            return self._tree(model, record.hub_sha, record.task)
        except HFHubIntegrationError as error:
            logger.warning("%s: its modules are inferred from the names in it only. %s", path, error)
            return None

    def _fetch_checkpoint(self, model: str, revision: str | None) -> Checkpoint:
        return fetch_checkpoint(locate(model, revision, self._access), self._access, None, weights=False)

    def _look_up_tree(self, model: str, revision: str | None, task: str | None) -> ModuleTree:
        checkpoint = self._checkpoint(model, revision)
        if self._on_building is not None:
            self._on_building(model)
        return tree_of_checkpoint(checkpoint, task, trust_remote_code=self._trusted)


def tag_file(
    path: str | os.PathLike[str],
    *,
    original: str | os.PathLike[str] | None = None,
    model: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    external_data: bool = False,
    force: bool = False,
    revision: str | None = None,
    access: HubAccess | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    trust_remote_code: bool = False,
) -> Assignment:
    """Write the module of each node into an ONNX file.

    Args:
        path: The file.
        output: The output file; None to write in place.
        external_data: Whether to move the weights to `<file>_data`.
        original: As for `Tagger`, like the next four.
        model: The model.
        revision: Its revision.
        force: Whether to replace existing tags.
        trust_remote_code: Whether code of the repo may run.
        access: Options for Hub requests. `token`, `cache_dir` and `local_files_only` are its fields, as arguments.

    Raises:
        OptimumHTPError: As `Tagger.assignment` and `Tagger.write`.
    """
    access = HubAccess.of(access, token, cache_dir, local_files_only)
    tagger = Tagger(
        original, model, revision=revision, access=access, trust_remote_code=trust_remote_code, force=force
    )
    return tagger.write(path, output, external_data=external_data)


def carried_tags(source: Path, made: Path) -> TagWriter | None:
    """Return the tags for a file that was made from a tagged file; None if that file has no tags."""
    if MODULES not in read_header(source).metadata:
        return None
    return TagWriter(Tagger(source, force=True).assignment(made), is_export=False)  # The source of the file is known.


def _standing(header: ModelHeader, graph: Graph) -> Assignment | None:
    """Return the existing tags of a file; None if there are none, or none that can be read. Those are replaced."""
    try:
        return tagged_assignment(header, graph)
    except MetadataError:
        return None


def _tree_in(graph: Graph, whole: ModuleTree | None) -> ModuleTree:
    """Return the tree of the part of a model that a graph contains; without a model, the tree built from its names."""
    if whole is not None:
        return part_tree(graph, whole)
    return dynamo_tree(graph) or ModuleTree.of_scopes(scopes_of(graph))


def _resolved(graph: Graph, tree: ModuleTree) -> Assignment:
    """Return the modules from the names in a graph, and from the shapes of parameters that lost their names."""
    resolver = ScopeResolver(tree)
    assignment = assign(graph, resolver, tree)
    owners = owners_by_shape(graph, assignment)
    return assign(graph, resolver, tree, owners) if owners else assignment


def _task_of(header: ModelHeader) -> str | None:
    record = _record_of(header)
    return record.task if record is not None else None


def _record_of(header: ModelHeader) -> ExportMetadata | None:
    try:
        return ExportMetadata.from_properties(header.metadata)
    except MetadataError:
        return None
