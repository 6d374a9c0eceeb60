"""The border of a part of a graph: its inputs, its outputs, and what it needs to be a model of its own.

A value from another part becomes an input, unless it is computed from constants only: a shape, a mask or a cast
weight that the exporter has put elsewhere is included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optimum_htp.modules.calls import ModuleCall
from optimum_htp.modules.levels import Level, subgraphs
from optimum_htp.onnxfile.operators import RANDOM

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["Border", "border_of"]


@dataclass(frozen=True)
class Border:
    """A part of a graph, and the values that cross its border.

    Attributes:
        nodes: Its nodes, and the needed nodes that depend on constants only, in the order of execution.
        initializers: The initializers that its nodes use, each by its graph and its index there.
        inputs: Values from outside that its nodes use, in the order of their first use.
        outputs: Its values that are used outside, in the order of their creation, without constants.
    """

    nodes: Sequence[tuple[Level, int]]
    initializers: Sequence[tuple[Level, int]]
    inputs: Sequence[str]
    outputs: Sequence[str]


def border_of(call: ModuleCall) -> Border:
    """Return the border of a call's nodes."""
    level, own = call.level, sorted(call.nodes)
    made = {value for index in own for value in level.nodes[index].output if value}
    constants = _Constants(level)
    along: dict[tuple[int, int], tuple[Level, int]] = {}
    initializers: dict[str, tuple[Level, int]] = {}
    inputs: dict[str, None] = {}
    waiting = [value for index in own for value in level.uses[index]]
    seen: set[str] = set()
    for value in waiting:  # It grows during the loop.
        if value in seen or value in made:
            continue
        seen.add(value)
        source = constants.source(value)
        if source is None:
            inputs[value] = None
        elif isinstance(source[1], str):
            initializers[value] = (source[0], source[0].initializers[value])
        else:
            home, maker = source
            along[len(home.place), maker] = (home, maker)
            waiting += home.uses[maker]
    used = {value for index, values in enumerate(level.uses) if index not in call.nodes for value in values}
    used |= {value.name for value in level.graph.output}
    leaving = [value for index in own for value in level.nodes[index].output if value in used]
    outputs = [value for value in leaving if constants.source(value) is None]
    nodes = [along[key] for key in sorted(along)] + [(level, index) for index in own]
    return Border(nodes, list(initializers.values()), list(inputs), outputs)


class _Constants:
    """The constant values: initializers, and values computed from them only.

    Args:
        level: The graph whose nodes use them.
    """

    def __init__(self, level: Level) -> None:
        self._levels = list(level.chain())
        self._known: dict[str, bool] = {}

    def source(self, value: str) -> tuple[Level, int] | tuple[Level, str] | None:
        """Return where a constant is from: the node that makes it, or its own name; None for other values."""
        home = self._home(value)
        if home is None or not self._is_constant(value):
            return None
        maker = home.makers.get(value)
        return (home, value) if maker is None else (home, maker)

    def _home(self, value: str) -> Level | None:
        """Return the innermost graph that has a value; None for an input."""
        for level in self._levels:
            if value in level.makers or value in level.initializers:
                return level
            if any(value == given.name for given in level.graph.input):
                return None
        return None

    def _is_constant(self, value: str) -> bool:
        waiting = [value]
        while waiting:
            one = waiting[-1]
            if one in self._known:
                waiting.pop()
                continue
            home = self._home(one)
            maker = home.makers.get(one) if home is not None else None
            if home is None or maker is None:
                self._known[one] = home is not None
                continue
            if _is_random(home.nodes[maker]):
                self._known[one] = False
                continue
            missing = [used for used in home.uses[maker] if used not in self._known]
            if missing and not set(missing) & set(waiting):
                waiting += missing
            else:
                self._known[one] = not missing and all(self._known[used] for used in home.uses[maker])
        return self._known[value]


def _is_random(node: NodeProto) -> bool:
    return node.op_type in RANDOM or any(_is_random(inner) for _, graph in subgraphs(node) for inner in graph.node)


def functions_of(
    nodes: Sequence[NodeProto], known: Mapping[tuple[str, str], Sequence[NodeProto]]
) -> frozenset[tuple[str, str]]:
    """Return the model's own functions that nodes call, directly or indirectly, by domain and name.

    Args:
        nodes: The nodes.
        known: The nodes of each function of the model.
    """
    found: set[tuple[str, str]] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        waiting += [inner for _, graph in subgraphs(node) for inner in graph.node]
        function = (node.domain, node.op_type)
        if function in known and function not in found:
            found.add(function)
            waiting += known[function]
    return frozenset(found)
