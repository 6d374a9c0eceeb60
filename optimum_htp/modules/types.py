"""Types and shapes of a model's inner values, found without its weights.

onnx infers them on the model without tensors. For the operators of ONNX Runtime, which onnx does not know, a session
is used in which the missing weights are inputs; they are never read.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.modules.levels import Level

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TypeProto, ValueInfoProto

__all__ = ["ValueTypes"]

_INVENTED: Final = "unk__"  # onnx's name for an unknown dimension.
_EXTERNAL: Final = 1


class ValueTypes:
    """Looks up the types of the values in a graph.

    Each graph is inferred as a model of its own, because onnx confuses values of the same name in two branches.

    Args:
        model: The model without the content of large tensors.
        level: The graph.
    """

    def __init__(self, model: ModelProto, level: Level) -> None:
        self._model = model
        self._level = level
        self._outer = None if level.outer is None else ValueTypes(model, level.outer)

    def of(self, value: str) -> ValueInfoProto | None:
        """Return the type and shape of a value; None if not even its type is known.

        An unknown dimension has neither size nor name.
        """
        import onnx

        kind = self._inferred.get(value)
        if kind is None and self._outer is not None and (known := self._outer.of(value)) is not None:
            return known
        if kind is None and value in self._level.makers:
            kind = self._asked.get(value)
        return None if kind is None else onnx.ValueInfoProto(name=value, type=_cleaned(kind))

    @functools.cached_property
    def _alone(self) -> ModelProto:
        """The graph as a model, with its outside values as inputs."""
        import onnx

        if self._outer is None:
            return self._model
        alone = onnx.ModelProto()
        alone.CopyFrom(self._model)
        alone.graph.CopyFrom(self._level.graph)
        for value in dict.fromkeys(value for values in self._level.uses for value in values):
            if value in self._level.makers or value in self._level.initializers:
                continue
            home = next((level for level in self._level.chain() if value in level.initializers), None)
            if home is not None:
                alone.graph.initializer.append(home.graph.initializer[home.initializers[value]])
            elif (known := self._outer.of(value)) is not None:
                alone.graph.input.append(known)
        return alone

    @functools.cached_property
    def _inferred(self) -> dict[str, TypeProto]:
        import onnx

        try:
            return _declared(onnx.shape_inference.infer_shapes(self._alone, data_prop=True).graph)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return _declared(self._alone.graph)  # Only the types in the file are known.

    @functools.cached_property
    def _asked(self) -> dict[str, TypeProto]:
        """The types in ONNX Runtime of the values that onnx does not know."""
        import onnx
        from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

        missing = [value for value in self._level.makers if value not in self._inferred]
        model = onnx.ModelProto()
        model.CopyFrom(self._alone)
        graph = model.graph
        tensors = list(graph.initializer)
        del graph.initializer[:]
        listed = {value.name for value in graph.input}
        for tensor in tensors:
            if _is_whole(tensor):
                graph.initializer.append(tensor)
            elif tensor.name not in listed:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        del graph.output[:]
        graph.output.extend(onnx.ValueInfoProto(name=value) for value in missing)
        options = SessionOptions()
        options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            session = InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            return {}  # ONNX Runtime rejects the model without tensors, so fewer types are known.
        return {output.name: proto for output in session.get_outputs() if (proto := _type_of(output)) is not None}


def _declared(graph: GraphProto) -> dict[str, TypeProto]:
    """Return the types that a graph declares."""
    values = (*graph.value_info, *graph.output, *graph.input)
    return {value.name: value.type for value in values if value.type.WhichOneof("value") is not None}


def _is_whole(tensor: Any) -> bool:
    """Whether a tensor still has its content."""
    if tensor.data_location == _EXTERNAL:
        return False
    content = (tensor.raw_data, tensor.float_data, tensor.int32_data, tensor.string_data, tensor.int64_data)
    return 0 in tensor.dims or any(content) or any((tensor.double_data, tensor.uint64_data))


def _type_of(value: Any) -> TypeProto | None:
    """Return the type of a session's output, in ONNX Runtime's notation `tensor(float)`."""
    import onnx

    text = str(value.type)
    name = _NAMES.get(text.removeprefix("tensor(").removesuffix(")"))
    if not text.startswith("tensor(") or name is None:
        return None
    shape = [size if isinstance(size, (int, str)) else None for size in value.shape]
    return onnx.helper.make_tensor_type_proto(onnx.TensorProto.DataType.Value(name), shape)


_NAMES: Final = {
    "float": "FLOAT",
    "double": "DOUBLE",
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "bool": "BOOL",
    "string": "STRING",
    **{f"{sign}int{bits}": f"{sign}INT{bits}".upper() for sign in ("", "u") for bits in (4, 8, 16, 32, 64)},
}


def _cleaned(kind: TypeProto) -> TypeProto:
    """Return a type without invented names of dimensions."""
    import onnx

    cleaned = onnx.TypeProto()
    cleaned.CopyFrom(kind)
    if cleaned.HasField("tensor_type") and cleaned.tensor_type.HasField("shape"):
        for dimension in cleaned.tensor_type.shape.dim:
            if dimension.dim_param.startswith(_INVENTED):
                dimension.ClearField("dim_param")
    return cleaned
