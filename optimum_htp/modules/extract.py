"""Cutting a module out of a model: an ONNX model of its own, whose inputs and outputs are what crosses its border."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from optimum_htp.errors import ArgumentError, ExtractError, MetadataError
from optimum_htp.hierarchy.parts import part_tree
from optimum_htp.hierarchy.tags import COVERAGE, MODULE, MODULES, RELATIVE_MODULE, RELATIVE_TAG, TAG, known_assignment
from optimum_htp.hierarchy.tree import ROOT, parent_of
from optimum_htp.metadata import PREFIX, ExportMetadata
from optimum_htp.modules.border import Border, border_of, functions_of
from optimum_htp.modules.calls import CallFinder, ModuleCall
from optimum_htp.modules.levels import levels_of, module_of
from optimum_htp.modules.patterns import find_modules, module_classes
from optimum_htp.modules.types import ValueTypes
from optimum_htp.onnxfile import NodeVisitor, TensorSpec, read_signature
from optimum_htp.onnxfile.graph import graph_of
from optimum_htp.onnxfile.outputs import ONNX, check_output
from optimum_htp.onnxfile.reader import header_of, opened
from optimum_htp.onnxfile.shared import unshared_path
from optimum_htp.onnxfile.submodel import Submodel, write_submodel
from optimum_htp.onnxfile.unchanged import Check, check_of, checked_before_replacing
from optimum_htp.onnxfile.wire import ByteWindow
from optimum_htp.onnxfile.without_weights import without_tensors

__all__ = ["CuttableModel", "ExtractedModule", "extract_module"]

_CHUNK: Final = 1 << 16
_SHOWN: Final = 5
_COMPARED: Final = 2  # modules of the same class
# What a record says of a whole file, or of all files of a model, and what may be a whole folder's content.
_OF_THE_WHOLE: Final = ("onnx_files", "onnx_file", "export_id", "embedded_", "submodule", "submodule_call")
_FOLDED: Final = "onnx::Conv_"  # PyTorch's name of a convolution's weight into which it folded the norm behind it


@dataclass(frozen=True)
class ExtractedModule:
    """A module that was cut out.

    Attributes:
        path: The new file.
        module, class_name: The module; its class is empty where it is not known.
        call, calls: Which of how many calls of it, from 1 on.
        nodes, initializers: How many the new file has.
        inputs, outputs: The values that cross the module's border.
    """

    path: Path
    module: str
    class_name: str
    call: int
    calls: int
    nodes: int
    initializers: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def extract_module(
    path: str | os.PathLike[str], module: str, output: str | os.PathLike[str], call: int | None = None
) -> ExtractedModule:
    """Write a module of a tagged file as an ONNX model of its own.

    Its inputs are the values that others compute for it, by their names in the whole model, its outputs those that
    others use. Only its weights are read.

    Args:
        path: A tagged ONNX file.
        module: The module's name in the whole model, or a pattern that matches one module.
        output: The new file.
        call: Which call of a module that is called several times, from 1 on, in the order of the file.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path, or not all of its data.
        MetadataError: The file has no tags, or they are not what they should be.
        UnknownModuleError: The file has no such module.
        ArgumentError: The pattern matches several modules, or there are several calls and none was chosen.
        ExtractError: What is in the file is not the module alone; the message says why.
        ProtectedFileError: The output is the file itself, or no ONNX file.
        FileChangedError: The model or its data was replaced meanwhile. Nothing was written.
        OnnxWriteError: The new file cannot be written. What was there still is.
    """
    with CuttableModel.at(path) as model:
        return model.extract(module, output, call)


class CuttableModel:
    """A tagged file that is open, to cut modules out of it; what is read of it is read once.

    Attributes:
        path: The file.
        assignment: The modules of its nodes.
        root: The module that the whole file is, where it is a part of a model.
        finder: Finds the calls of its modules.
    """

    def __init__(self, path: Path, window: ByteWindow, check: Check) -> None:
        import onnx
        from google.protobuf.message import DecodeError

        self.path = path
        self._window = window
        self._check = check
        self._header, self._graph = header_of(window), graph_of(window)
        self.assignment = known_assignment(path, self._header, self._graph)
        try:
            self._model = onnx.ModelProto.FromString(without_tensors(window))
        except DecodeError as error:
            raise window.invalid("protobuf cannot read its graph") from error
        part = part_tree(self._graph, self.assignment.tree)
        self.root = part.names.get(ROOT, ROOT)
        self.finder = CallFinder(list(levels_of(self._model.graph)), part)
        self._types = functools.cache(functools.partial(ValueTypes, self._model))

    @classmethod
    @contextmanager
    def at(cls, path: str | os.PathLike[str]) -> Iterator[CuttableModel]:
        """Open a file; the exceptions are those of `extract_module`."""
        check = check_of(path)
        with opened(path, _CHUNK) as window:
            yield cls(Path(path), window, check)

    def extract(self, module: str, output: str | os.PathLike[str], call: int | None = None) -> ExtractedModule:
        """Write a module; see `extract_module`."""
        target = unshared_path(output)
        check_output(output, ONNX, inputs=[self.path])
        name = self.named(module)
        chosen, number, count = self._call(name, call)
        self._refuse_merged(name, chosen)
        border = border_of(chosen)
        if not border.outputs:
            raise ExtractError(
                f"{self.path}: what {_called(name)} computes is used by nothing, or the export has made constants of "
                "it, so there is nothing to cut out."
            )
        submodel = self._submodel(name, border, number if count > 1 else None)
        with checked_before_replacing(self._check):
            write_submodel(self.path, self._window, submodel, target)
        inputs, outputs = read_signature(target)
        kind = self.assignment.tree.classes.get(name, "")
        sizes = len(border.nodes), len(border.initializers)
        return ExtractedModule(Path(output), name, kind, number, count, *sizes, inputs, outputs)

    def named(self, pattern: str) -> str:
        """Return the one module that a pattern means."""
        classes = module_classes(self.assignment)
        found = [pattern] if pattern and pattern in classes else find_modules(pattern, classes, self.path)
        if len(found) > 1:
            shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            raise ArgumentError(f"{pattern!r} matches {len(found)} modules of {self.path} ({shown}): name one.")
        return found[0]

    def _call(self, module: str, wanted: int | None) -> tuple[ModuleCall, int, int]:
        """Return one call of a module, its number, and how many there are."""
        if self.root.startswith(f"{module}.") and module:
            raise ExtractError(f"{self.path} has only {self.root} of {module}: cut out that, or what is in it.")
        calls = self.finder.calls(module)
        if not calls:
            raise ExtractError(f"{self.path} has nodes of {_called(module)} only inside functions.")
        if wanted is None and len(calls) > 1:
            raise ArgumentError(
                f"{self.path} has {len(calls)} calls of {_called(module)}: choose one with --call 1 to "
                f"--call {len(calls)} (call= in Python)."
            )
        number = 1 if wanted is None else wanted
        if not 0 < number <= len(calls):
            raise ArgumentError(
                f"{self.path} has {len(calls)} calls of {_called(module)}, and no call {number}. Pass --call 1."
            )
        return calls[number - 1], number, len(calls)

    def _refuse_merged(self, module: str, call: ModuleCall) -> None:
        """Refuse what is in the file of a module but is not what the module computes, because the export merged it.

        Raises:
            ExtractError: A module around it used its weights itself; or a convolution has taken in the norm behind
                it; or a transposition at its end and one behind it are both gone.
        """
        around = _called(self.assignment.tree.caller(parent_of(module)))
        user = self.finder.user(module, call)
        if user is not None:
            raise ExtractError(
                f"{self.path} has no call of {module}: its weights are used by {_called(user)}. Cut that out."
            )
        for index in call.nodes:
            node = call.level.nodes[index]
            if module_of(node) == module and any(value.startswith(_FOLDED) for value in node.input):
                raise ExtractError(
                    f"{self.path}: the export folded the normalization behind {module} into its weights, so what is "
                    f"in the file is both. Cut out the module around them, {around}."
                )
        own = _makers(call)
        others = [_makers(other) for other in self._alike(module)]
        if others and "Transpose" not in own and all(other == {"Transpose"} for other in others):
            raise ExtractError(
                f"{self.path}: the export merged the transposition at the end of {module}, which others of its class "
                f"have, with one behind it. Cut out the module around it, {around}."
            )

    def _alike(self, module: str) -> list[ModuleCall]:
        """Return calls of other modules of a module's class in the same list."""
        classes, pattern = self.assignment.tree.classes, _without_items(module)
        alike = [
            name
            for name, kind in classes.items()
            if name != module and kind and kind == classes.get(module) and _without_items(name) == pattern
        ]
        return [call for name in alike[:_COMPARED] for call in self.finder.calls(name)]

    def _submodel(self, module: str, border: Border, call: int | None) -> Submodel:
        """Return what is taken of the file for a module."""
        level = border.nodes[-1][0]
        types = self._types(level)
        inputs = {value: types.of(value) for value in border.inputs}
        unknown = [value for value, info in inputs.items() if info is None]
        if unknown:
            raise ExtractError(
                f"{self.path}: the type of {', '.join(unknown[:_SHOWN])}, which {_called(module)} takes in, is not "
                "known: an operator before it is unknown to onnx and ONNX Runtime."
            )
        outputs = {value: types.of(value) for value in border.outputs}
        nodes = [level.nodes[index] for level, index in border.nodes]
        known = {(function.domain, function.name): list(function.node) for function in self._model.functions}
        return Submodel(
            name=module or self._graph.name,
            nodes=[(level.place, index) for level, index in border.nodes],
            initializers=[(level.place, index) for level, index in border.initializers],
            inputs=[info.SerializeToString() for info in inputs.values() if info is not None],
            outputs=[_encoded(value, info) for value, info in outputs.items()],
            functions=functions_of(nodes, known),
            metadata=self._metadata(module, border, call),
            doc_string=f"{_called(module)} of {self._source()}",
            visit=self._visitor(module),
        )

    def _metadata(self, module: str, border: Border, call: int | None) -> dict[str, str]:
        """Return the whole file's properties as far as they are true of a module, and which module it is."""
        modules = [module_of(level.nodes[index]) for level, index in border.nodes]
        left_out = tuple(f"{PREFIX}{name}" for name in _OF_THE_WHOLE)
        kept = {
            key: value
            for key, value in self._header.metadata.items()
            if not key.startswith(left_out) and key not in (MODULES, COVERAGE)
        }
        which = {f"{PREFIX}submodule": module} if module else {}
        if call is not None:
            which[f"{PREFIX}submodule_call"] = str(call)
        return {**kept, **which, MODULES: self.assignment.tree.to_json(modules)}

    def _visitor(self, module: str) -> NodeVisitor:
        """Return what gives the nodes of a module their tags as seen from it, beside those of the whole model."""
        tree = self.assignment.tree
        kind = tree.classes.get(module) or module.rpartition(".")[2]
        start = len(module) + 1 if module else 0

        def visit(known: Mapping[str, str]) -> Mapping[str, str] | None:
            own = known.get(MODULE, ROOT)
            if module and own != module and not own.startswith(f"{module}."):
                return None  # a constant that was taken along
            tag = known.get(TAG, tree.tag(own)).removeprefix(tree.tag(module))
            return {**known, RELATIVE_MODULE: own[start:], RELATIVE_TAG: f"/{kind}{tag}"}

        return visit

    def _source(self) -> str:
        try:
            record = ExportMetadata.from_properties(self._header.metadata)
        except MetadataError:  # what it says stays as it is; nobody's word is taken for it here
            record = None
        return self.path.name if record is None else record.source


def _encoded(value: str, info: object) -> bytes:
    import onnx

    known = info if isinstance(info, onnx.ValueInfoProto) else onnx.ValueInfoProto(name=value)
    return bytes(known.SerializeToString())


def _makers(call: ModuleCall) -> set[str]:
    """Return the operators that make what leaves a call."""
    level = call.level
    return {level.nodes[level.makers[value]].op_type for value in border_of(call).outputs}


def _without_items(module: str) -> str:
    return ".".join(atom for atom in module.split(".") if not atom.isdigit())


def _called(module: str) -> str:
    return module or "the model itself"
