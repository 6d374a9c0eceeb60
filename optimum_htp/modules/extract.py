"""Extracts a module as an ONNX model of its own.

Its inputs and outputs are the values that cross the module's border.
"""

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
from optimum_htp.modules.levels import levels_of
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
_COMPARED: Final = 2  # Modules of the same class.
# Keys of a record about a whole file, or about all files of a model, and keys that may contain a whole folder.
_OF_THE_WHOLE: Final = ("onnx_files", "onnx_file", "export_id", "embedded_", "submodule", "submodule_call")
_FOLDED: Final = "onnx::Conv_"  # PyTorch's name of a convolution's weight with a folded batch norm.


@dataclass(frozen=True)
class ExtractedModule:
    """An extracted module.

    Attributes:
        path: The new file.
        module, class_name: The module; its class is empty if it is unknown.
        call, calls: The number of the call, from 1 on, and the number of calls.
        nodes, initializers: The numbers in the new file.
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

    Its inputs are the values from outside, with their names in the whole model; its outputs are the values that are
    used outside. Only its weights are read.

    Args:
        path: A tagged ONNX file.
        module: The module's name in the whole model, or a pattern that matches one module.
        output: The new file.
        call: The number of the call, from 1 on, in the order of the file, for a module that is called several times.

    Raises:
        OnnxFileNotFoundError, InvalidOnnxFileError: There is no ONNX model at the path, or data is missing.
        MetadataError: The file has no tags, or they are invalid.
        UnknownModuleError: The file has no such module.
        ArgumentError: The pattern matches several modules, or there are several calls and `call` is None.
        ExtractError: The module cannot be separated from others; the message contains the reason.
        ProtectedFileError: The output is the file itself, or not an ONNX file.
        FileChangedError: The model or its data was replaced meanwhile. Nothing was written.
        OnnxWriteError: The new file cannot be written. An existing file is unchanged.
    """
    with CuttableModel.at(path) as model:
        return model.extract(module, output, call)


class CuttableModel:
    """An open tagged file from which modules are extracted. Its content is read once.

    Attributes:
        path: The file.
        assignment: The modules of its nodes.
        root: The module that the whole file contains, if it is a part of a model.
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
                f"{self.path}: no node uses the results of {_called(name)}, or the export has replaced them by "
                "constants, so there is nothing to extract."
            )
        submodel = self._submodel(name, border, number if count > 1 else None)
        with checked_before_replacing(self._check):
            write_submodel(self.path, self._window, submodel, target)
        inputs, outputs = read_signature(target)
        kind = self.assignment.tree.classes.get(name, "")
        sizes = len(border.nodes), len(border.initializers)
        return ExtractedModule(Path(output), name, kind, number, count, *sizes, inputs, outputs)

    def named(self, pattern: str) -> str:
        """Return the single module that matches a pattern."""
        classes = module_classes(self.assignment)
        found = [pattern] if pattern and pattern in classes else find_modules(pattern, classes, self.path)
        if len(found) > 1:
            shown = ", ".join(found[:_SHOWN]) + (", …" if len(found) > _SHOWN else "")
            raise ArgumentError(
                f"{pattern!r} matches {len(found)} modules of {self.path} ({shown}). Pass one of them."
            )
        return found[0]

    def _call(self, module: str, wanted: int | None) -> tuple[ModuleCall, int, int]:
        """Return one call of a module, its number, and the number of calls."""
        if self.root.startswith(f"{module}.") and module:
            raise ExtractError(f"{self.path} contains only {self.root} of {module}. Extract that, or a module in it.")
        calls = self.finder.calls(module)
        if not calls:
            raise ExtractError(f"{self.path} has nodes of {_called(module)} only inside functions.")
        if wanted is None and len(calls) > 1:
            raise ArgumentError(
                f"{self.path} has {len(calls)} calls of {_called(module)}. Select one with --call 1 to --call "
                f"{len(calls)} (call= in Python)."
            )
        number = 1 if wanted is None else wanted
        if not 0 < number <= len(calls):
            raise ArgumentError(
                f"{self.path} has no call {number} of {_called(module)}. Pass a number from 1 to {len(calls)}."
            )
        return calls[number - 1], number, len(calls)

    def _refuse_merged(self, module: str, call: ModuleCall) -> None:
        """Reject nodes that do not compute the module's result only, because the export merged them with others.

        Raises:
            ExtractError: An outer module used its weights directly, a convolution contains the following norm, or a
                transposition at its end was merged with the next one.
        """
        around = _called(self.assignment.tree.caller(parent_of(module)))
        user = self.finder.user(module, call)
        if user is not None:
            raise ExtractError(
                f"{self.path} has no call of {module}: {_called(user)} uses its weights. Extract that module."
            )
        for index in call.nodes:
            node = call.level.nodes[index]
            if call.level.modules[index] == module and any(value.startswith(_FOLDED) for value in node.input):
                raise ExtractError(
                    f"{self.path}: the export folded the normalization after {module} into its weights, so the file "
                    f"contains only both together. Extract the module around them, {around}."
                )
        own = _makers(call)
        others = [_makers(other) for other in self._alike(module)]
        if others and "Transpose" not in own and all(other == {"Transpose"} for other in others):
            raise ExtractError(
                f"{self.path}: the export merged the transposition at the end of {module}, which other modules of its "
                f"class have, with the next one. Extract the module around it, {around}."
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
        """Return the content of the file to write for a module."""
        level = border.nodes[-1][0]
        types = self._types(level)
        inputs = {value: types.of(value) for value in border.inputs}
        unknown = [value for value, info in inputs.items() if info is None]
        if unknown:
            raise ExtractError(
                f"{self.path}: the type of {', '.join(unknown[:_SHOWN])}, an input of {_called(module)}, is unknown, "
                "because onnx and ONNX Runtime do not know an operator before it."
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
        """Return the whole file's properties that are also true for a module, and the properties of the module."""
        modules = [level.modules[index] for level, index in border.nodes]
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
        """Return the function that adds tags relative to the module to the nodes' tags in the whole model."""
        tree = self.assignment.tree
        kind = tree.classes.get(module) or module.rpartition(".")[2]
        start = len(module) + 1 if module else 0

        def visit(known: Mapping[str, str]) -> Mapping[str, str] | None:
            own = known.get(MODULE, ROOT)
            if module and own != module and not own.startswith(f"{module}."):
                return None  # An included constant.
            tag = known.get(TAG, tree.tag(own)).removeprefix(tree.tag(module))
            return {**known, RELATIVE_MODULE: own[start:], RELATIVE_TAG: f"/{kind}{tag}"}

        return visit

    def _source(self) -> str:
        try:
            record = ExportMetadata.from_properties(self._header.metadata)
        except MetadataError:  # Invalid tags are copied unchanged.
            record = None
        return self.path.name if record is None else record.source


def _encoded(value: str, info: object) -> bytes:
    import onnx

    known = info if isinstance(info, onnx.ValueInfoProto) else onnx.ValueInfoProto(name=value)
    return bytes(known.SerializeToString())


def _makers(call: ModuleCall) -> set[str]:
    """Return the operators that make the outputs of a call."""
    level = call.level
    return {level.nodes[level.makers[value]].op_type for value in border_of(call).outputs}


def _without_items(module: str) -> str:
    return ".".join(atom for atom in module.split(".") if not atom.isdigit())


def _called(module: str) -> str:
    return module or "the model itself"
