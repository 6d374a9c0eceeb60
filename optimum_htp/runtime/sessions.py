"""ONNX Runtime sessions of a model's files, with numpy arrays in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, InferenceError, WrongTaskError
from optimum_htp.loading.mapped import open_session

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

__all__ = ["Arrays", "Part", "SessionSettings", "Tensor", "output_of"]

Arrays = Mapping[str, "NDArray[Any]"]

_DTYPES: Final[Mapping[str, Any]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True)
class SessionSettings:
    """Settings of ONNX Runtime sessions, as in `load`."""

    providers: Sequence[Any]
    provider_options: Any
    session_options: onnxruntime.SessionOptions | None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model.

    Attributes:
        dtype: Its numpy type; None if numpy has no such type.
        shape: The size of each axis, or the name of a variable size.
    """

    name: str
    dtype: Any
    shape: tuple[int | str | None, ...]


class Part:
    """The session of one ONNX file. Several threads can call it at the same time.

    Raises:
        InvalidOnnxFileError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        self.path: Final = path
        self.session: Final = open_session(
            path, settings.session_options, list(settings.providers), settings.provider_options
        )
        self.inputs: Final = {one.name: one for one in map(_tensor, self.session.get_inputs())}
        self.outputs: Final = {one.name: one for one in map(_tensor, self.session.get_outputs())}
        self._names: Final = list(self.outputs)

    def run(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Return the outputs for inputs, by name. Inputs are converted to the types of the file.

        Raises:
            ArgumentError: An input is missing, unknown or of another shape.
            InferenceError: ONNX Runtime fails.
        """
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

        if (unknown := feeds.keys() - self.inputs.keys()) or (missing := self.inputs.keys() - feeds.keys()):
            what = f"has no input {sorted(unknown)[0]!r}" if unknown else f"needs the input {sorted(missing)[0]!r}"
            raise ArgumentError(f"{self.path} {what}. Its inputs are {', '.join(self.inputs)}.")
        try:
            given = {name: np.asarray(value, dtype=self.inputs[name].dtype) for name, value in feeds.items()}
        except (OverflowError, TypeError, ValueError) as error:
            raise ArgumentError(f"{self.path} does not take these inputs: {error}") from error
        try:
            return dict(zip(self._names, self.session.run(self._names, given), strict=True))
        except InvalidArgument as error:
            raise ArgumentError(f"{self.path} does not take these inputs: {error}") from error
        except (Fail, RuntimeException) as error:
            raise InferenceError(f"ONNX Runtime failed on {self.path}: {error}") from error


def output_of(outputs: Arrays, name: str, axes: Sequence[int | None], path: Path) -> NDArray[Any]:
    """Return an output of a file after a check of its shape: the size of each axis; None for any size except 0.

    Raises:
        WrongTaskError: The output is missing, has another shape, or has no floating-point numbers.
    """
    array = outputs.get(name)
    if (
        array is None
        or array.dtype.kind != "f"
        or array.ndim != len(axes)
        or not all(size > 0 and wanted in (None, size) for size, wanted in zip(array.shape, axes, strict=True))
    ):
        what = f"no output {name}" if array is None else f"{name} of type {array.dtype} and shape {array.shape}"
        raise WrongTaskError(f"{path} returns {what}, which does not fit the task. Use run(...).")
    return array


def _tensor(value: Any) -> Tensor:
    return Tensor(value.name, _DTYPES.get(value.type), tuple(value.shape))
