"""Outputs of PyTorch's submodules, and values inside a graph in ONNX Runtime, for the same inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers

from tests.support.animals import Animal, inputs

__all__ = ["LAYER", "Observed", "inner_values", "observed", "run"]

LAYER = "bert.encoder.layer.0"


@dataclass
class Observed:
    """The input and output tensors of a call of a module."""

    given: list[np.ndarray] = field(default_factory=list)
    returned: list[np.ndarray] = field(default_factory=list)


def torch_model(animal: Animal, folder: Path) -> Any:
    """Return a model of the zoo in evaluation mode."""
    return getattr(transformers, animal.model).from_pretrained(folder).eval()


def submodule_calls(model: Any, run_it: Any) -> dict[str, list[Observed]]:
    """Return every call of every submodule while a model runs, including those of `forward`, in order."""
    calls: dict[str, list[Observed]] = defaultdict(list)

    def watched(name: str, forward: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen = Observed(list(_tensors((args, kwargs))))
            calls[name].append(seen)
            result = forward(*args, **kwargs)
            seen.returned = list(_tensors(result))
            return result

        return call

    modules = dict(model.named_modules())
    for name, module in modules.items():
        module.forward = watched(name, module.forward)
    try:
        with torch.no_grad():
            run_it()
    finally:
        for module in modules.values():
            del module.forward
    return calls


def _tensors(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, torch.Tensor):
        yield value.detach().numpy().copy()
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


def inner_values(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return every value of a graph that its nodes make, and the inputs."""
    model = onnx.load(path)
    known = {value.name for value in model.graph.output}
    made = [value for node in model.graph.node for value in node.output if value and value not in known]
    model.graph.output.extend(onnx.ValueInfoProto(name=value) for value in made)
    session = _session(model.SerializeToString())
    names = [one.name for one in session.get_outputs()]
    return {**feeds, **dict(zip(names, session.run(None, feeds), strict=True))}


def run(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run a model with those of the given values that it accepts."""
    session = _session(str(path))
    taken = {one.name: feeds[one.name] for one in session.get_inputs()}
    return dict(zip([one.name for one in session.get_outputs()], session.run(None, taken), strict=True))


def _session(model: Any) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def feeds_of(path: Path, values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return inputs of a file: those of the model's kind, an empty past, positions."""
    feeds = {}
    tokens = values.get("input_ids", values.get("decoder_input_ids"))
    for one in onnx.load(path, load_external_data=False).graph.input:
        dims = [dim.dim_value or dim.dim_param for dim in one.type.tensor_type.shape.dim]
        if one.name in values:
            feeds[one.name] = values[one.name].numpy()
        elif one.name.startswith("past_key_values"):
            shape = [size if isinstance(size, int) else len(tokens) if "batch" in size else 0 for size in dims]
            feeds[one.name] = np.zeros(shape, np.float32)
        elif one.name == "position_ids":
            feeds[one.name] = np.arange(tokens.shape[1])[None].repeat(len(tokens), 0)
        elif one.name == "token_type_ids":
            feeds[one.name] = np.zeros(tokens.shape, np.int64)
        elif one.name == "use_cache_branch":
            feeds[one.name] = np.array([False])
        else:
            raise AssertionError(f"nothing is known of the input {one.name} of {path}")
    return feeds


def observed(animal: Animal, folder: Path, path: Path) -> tuple[dict[str, list[Observed]], dict[str, np.ndarray]]:
    """Return the calls of PyTorch's submodules and the inner values of one file of a model, for the same inputs."""
    model = torch_model(animal, folder)
    values = inputs(animal)
    if path.name.startswith("decoder"):
        with torch.no_grad():
            states = model.get_encoder()(**values).last_hidden_state
        tokens = torch.randint(5, 20, (2, 3), generator=torch.Generator().manual_seed(1))
        mask = values.get("attention_mask")
        given = {"decoder_input_ids": tokens, **({} if mask is None else {"attention_mask": mask})}
        calls = submodule_calls(
            model,
            lambda: model(encoder_outputs=(states,), use_cache=True, **given),
        )
        values = {"input_ids": tokens, "encoder_hidden_states": states, "encoder_attention_mask": mask}
        if animal.kind == "patches":  # its decoder has another mask
            values["attention_mask"] = torch.ones_like(tokens)
        values = {name: value for name, value in values.items() if value is not None}
    elif path.name.startswith("encoder"):
        calls = submodule_calls(model, lambda: model.get_encoder()(**values))
    else:
        if any(one.name == "position_ids" for one in onnx.load(path, load_external_data=False).graph.input):
            tokens = values["input_ids"]
            values["position_ids"] = torch.arange(tokens.shape[1])[None].repeat(len(tokens), 1)
        calls = submodule_calls(model, lambda: model(**values))
    return calls, inner_values(path, feeds_of(path, values))
