"""Inner values of an ONNX file: the model gets more outputs, and ONNX Runtime computes a few of them at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optimum_htp.errors import ComparisonError
from optimum_htp.onnxfile import Graph, contained_files, read_without_weights
from optimum_htp.onnxfile.operators import RANDOM
from optimum_htp.onnxfile.wire import encode_bytes_field
from optimum_htp.profiling.runtime import DATA_FOLDER, can_map_weights

__all__ = ["OnnxValues", "refuse_random"]

_GRAPH: Final = 7  # Field of ModelProto.
_OUTPUT: Final = 12  # Field of GraphProto.
_NAME: Final = 1  # Field of ValueInfoProto.


class OnnxValues:
    """Runs a file on some inputs.

    Unknown inputs are ignored. `wanted` are inner values that will be requested, `known` the file's own outputs.

    Raises:
        ComparisonError: ONNX Runtime does not load the file, or inputs are missing.
        InvalidOnnxFileError: The file has external data outside its folder.
    """

    def __init__(self, path: Path, feeds: Mapping[str, Any], wanted: Sequence[str], known: Sequence[str]) -> None:
        import onnxruntime

        # Protobuf readers merge a message that occurs twice, so the graph gets outputs without a change of its bytes.
        outputs = b"".join(
            encode_bytes_field(_OUTPUT, encode_bytes_field(_NAME, value.encode()))
            for value in dict.fromkeys(wanted)
            if value not in known
        )
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        external = contained_files(path)
        # Weights are mapped, not copied.
        lean = read_without_weights(path) if can_map_weights() and not external else None
        options.add_session_config_entry(DATA_FOLDER, str(path.resolve().parent if external or lean else path.parent))
        content = path.read_bytes() if lean is None else lean.content
        try:
            self._session = onnxruntime.InferenceSession(
                content + encode_bytes_field(_GRAPH, outputs), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ComparisonError(f"ONNX Runtime does not load {path}: {error}") from error
        self._path = path
        taken = {given.name for given in self._session.get_inputs()}
        if missing := sorted(taken - feeds.keys()):
            raise ComparisonError(
                f"{path} has inputs without values: {', '.join(missing)}. Pass a .npz file with them: --inputs FILE."
            )
        self._feeds = {name: feeds[name] for name in taken}
        self._outputs = {given.name for given in self._session.get_outputs()}

    def values(self, names: Sequence[str]) -> dict[str, Any]:
        """Return values by name; only tensors of floats.

        Raises:
            ComparisonError: ONNX Runtime does not run the file on these inputs.
        """
        asked = [name for name in dict.fromkeys(names) if name in self._outputs]
        if not asked:
            return {}
        try:
            found = self._session.run(asked, self._feeds)
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            raise ComparisonError(f"{self._path} does not run on these inputs: {error}") from error
        pairs = zip(asked, found, strict=True)
        return {name: array for name, array in pairs if getattr(getattr(array, "dtype", None), "kind", "") == "f"}


def refuse_random(path: Path, graph: Graph, modules: Sequence[str]) -> None:
    """Reject a model whose values differ between runs.

    Raises:
        ComparisonError: A node generates random numbers.
    """
    for node, module in zip(graph.nodes, modules, strict=True):
        if node.op_type in RANDOM:
            raise ComparisonError(
                f"{path} generates random numbers ({node.op_type} in {module or 'the model'}), so two runs of it "
                "cannot be compared. `optimum-cli htp verify --weights` compares its weights."
            )
