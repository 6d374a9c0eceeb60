"""Determines by name, use and layer class which tensors of the commit the tensors of a file must be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, Final

from optimum_htp.hierarchy.scopes import scope_of
from optimum_htp.hierarchy.tree import EXPERTS, is_inside, parent_of, shared_path
from optimum_htp.modules.proof.commit_tensors import CommitTensors
from optimum_htp.modules.proof.findings import Evidence, WeightFinding
from optimum_htp.modules.proof.layouts import Difference, Layout, Order, compare
from optimum_htp.modules.proof.model_code import ModelCode
from optimum_htp.modules.proof.uses import Use, contradicts, expectations, parameter_of, plain_name
from optimum_htp.onnxfile import Graph
from optimum_htp.onnxfile.contents import StoredTensor
from optimum_htp.onnxfile.operators import CONVOLUTIONS, Role, role_of

__all__ = ["MOST_TRIED", "Expected"]

MOST_TRIED: Final = 1024
"""Maximum number of tensors of one size that are compared with one weight."""

# The input that a matrix is multiplied with from the right.
_PRODUCTS: Final = frozenset(
    {"MatMul", "FusedMatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"}
)
_CONVOLVED: Final = CONVOLUTIONS | {"ConvInteger", "QLinearConv"}
_OF_ANY_CODE: Final = frozenset(
    {"Add", "Mul"}
)  # A layer's own code may use these for other values than its parameters.
_KEEPING: Final = frozenset({"Identity", "Cast", "DequantizeLinear"})


class Expected:
    """Determines for a file's tensors which tensors of the commit they must be, and in which order of axes."""

    def __init__(
        self, graph: Graph, uses: Mapping[str, Sequence[Use]], tensors: CommitTensors, code: ModelCode
    ) -> None:
        self._graph = graph
        self._uses = uses
        self._tensors = tensors
        self._code = code

    def uses(self, tensor: StoredTensor) -> Sequence[Use]:
        """Return the uses of a tensor."""
        return self._uses.get(tensor.name, ())

    def first_use(self, name: str) -> int:
        """Return the index in the graph of the first node that uses a tensor; 0 without one."""
        return min((use.node for use in self._uses.get(name, ())), default=0)

    def is_elsewhere(self, name: str, module: str) -> bool:
        """Whether the names of a tensor's nodes belong to another module of the commit."""
        scopes = (scope_of(self._graph.nodes[use.node].name) for use in self._uses.get(name, ()))
        paths = {".".join(scope) for scope in scopes if scope}
        return any(
            not _has(module, path) and any(_has(other, path) for other in self._tensors.modules) for path in paths
        )

    def modules(self, tensor: StoredTensor) -> list[str]:
        """Return the modules that use a tensor."""
        modules = (use.module for use in self.uses(tensor))
        return list(dict.fromkeys(module for module in modules if module is not None))

    def module(self, tensor: StoredTensor) -> str | None:
        """Return the innermost module around the uses of a tensor; None without tags."""
        modules = self.modules(tensor)
        return functools.reduce(shared_path, modules) if modules else None

    def groups(self, tensor: StoredTensor, size: int | None = None) -> list[list[str]]:
        """Return for the name and for each use of a tensor the tensors of the commit that it may be.

        `size` is its number of elements, if its shape does not determine it.
        """
        found = expectations(tensor.name, tensor.size if size is None else size, self.uses(tensor), self._tensors)
        readable = ([key for key in group if self._tensors.is_readable(key)] for group in found)
        return [group for group in readable if group]

    def is_certain(self, groups: Iterable[Sequence[str]]) -> bool:
        """Whether a name or a use determines which tensor it must be, so it cannot be anything else."""
        return any(len(group) == 1 for group in groups)

    def is_named(self, tensor: StoredTensor, size: int | None = None) -> bool:
        """Whether a tensor has the name of a tensor of the commit, or a name that several may have in a part."""
        size = tensor.size if size is None else size
        return any(self._tensors[key].size == size for key in self._tensors.spelled(plain_name(tensor.name)))

    def is_said(self, tensor: StoredTensor, size: int | None = None) -> bool:
        """Whether the name, or operator and module, determine which tensor it must be; the size alone does not."""
        size = tensor.size if size is None else size
        return self.is_named(tensor, size) or any(
            use.op_type not in _OF_ANY_CODE and parameter_of(use, size, self._tensors) is not None
            for use in self.uses(tensor)
        )

    def order(self, tensor: StoredTensor, key: str) -> Order | None:
        """Return the order in which a tensor must have the elements of a tensor of the commit; None for any order.

        The shape determines it unless sizes are equal. Then the operator determines how it reads its input, and the
        layer's class how the commit's tensor is arranged: a `Linear` has its outputs first, transformers' `Conv1D`
        has them last.
        """
        sizes = [size for size in self._tensors[key].shape if size != 1]
        if len({*sizes}) == len(sizes):
            return None
        orders = {self._order_of(use, key, len(sizes)) for use in self.uses(tensor)}
        return orders.pop() if len(orders) == 1 else None

    def _order_of(self, use: Use, key: str, rank: int) -> Order | None:
        transposed = use.passed.count("Transpose")
        if not _KEEPING.issuperset({*use.passed} - {"Transpose"}) or (transposed and rank != 2):
            return None
        if use.op_type in CONVOLUTIONS and use.position == 1:
            return None if transposed else Order.SAME
        if rank != 2 or use.op_type not in _PRODUCTS:
            return None
        outputs_first = self._code.has_outputs_first(key)
        if outputs_first is None:
            return None
        integers = self._graph.nodes[use.node].integers
        right = use.position != 0
        flipped = bool(integers.get("transB" if right else "transA")) or use.op_type == "MatMulNBits"
        same = (outputs_first != right) ^ flipped ^ (transposed % 2 == 1)
        return Order.SAME if same else Order.REVERSED

    def tables(self, tensor: StoredTensor) -> list[str]:
        """Return the tensors whose rows a tensor may contain: those of the modules in which it is used.

        A newer transformers may have moved a table to the outer module. A weight with all rows in another order is a
        changed weight. If no module is known, all tables are returned.
        """
        modules = self.modules(tensor)
        if not modules:
            return [key for key in self._tensors if self._tensors.is_readable(key) and self._is_table(key, tensor)]
        inside = dict.fromkeys(key for module in modules for key in self._tensors.within(module))
        owned = {key for module in modules for key in self._tensors.owned(module).values()}
        candidates = [key for key in inside | dict.fromkeys(owned) if self._tensors.is_readable(key)]
        return [
            key
            for key in candidates
            if key in owned or not key.endswith((".weight", ".bias")) or tensor.size < self._tensors[key].size
        ]

    def _is_table(self, key: str, tensor: StoredTensor) -> bool:
        shape = self._tensors[key].shape
        return len(shape) >= 2 and shape[-1] in tensor.shape and tensor.size != self._tensors[key].size

    def is_added_bias(self, tensor: StoredTensor, groups: Sequence[Sequence[str]]) -> bool:
        """Whether a tensor is a bias of a convolution that has none in the commit: folding a batch norm adds it."""
        return not groups and any(use.op_type in CONVOLUTIONS and use.position == 2 for use in self.uses(tensor))

    def is_of_experts(self, tensor: StoredTensor) -> bool:
        """Whether a tensor contains the experts of a layer, which are separate tensors in the commit."""
        module = self.module(tensor)
        is_there = module is not None and EXPERTS in module.split(".")
        return is_there and any(f".{EXPERTS}.0." in key for key in self._tensors)

    def is_convolved(self, tensor: StoredTensor) -> bool:
        """Whether a tensor is the weight or the bias of a convolution, into which a batch norm may be folded."""
        return any(
            use.op_type in _CONVOLVED and (len(tensor.shape) > 2 or role_of(use.op_type, use.position) is Role.BIAS)
            for use in self.uses(tensor)
        )

    def is_multiplied(self, use: Use, scale: StoredTensor, weight: StoredTensor) -> bool:
        """Whether a product may be that of integers and their scale.

        Its other input is a computed scale, or the module has the weight, or no other tensor of the scale's size.
        """
        if any(value in self._scales for value in self._graph.nodes[use.node].inputs):
            return True
        owned = self._tensors.owned(use.module).values() if use.module is not None else ()
        sizes = {self._tensors[key].size for key in owned}
        return weight.size in sizes or scale.size not in sizes

    @functools.cached_property
    def _scales(self) -> frozenset[str]:
        """The computed scales: the second result of `DynamicQuantizeLinear`."""
        nodes = (node for node in self._graph.nodes if node.op_type == "DynamicQuantizeLinear")
        return frozenset(value for node in nodes for value in node.outputs[1:2])

    def is_recipe_of(self, module: str, tensor: StoredTensor, parameters: Sequence[str]) -> bool:
        """Whether the file may use a tensor that a module computes in the same, an outer or an inner module.

        The module has its name in the model.
        """
        places = self.modules(tensor)
        homes = {module, *(parent_of(name) for name in parameters)}
        return not places or any(
            is_inside(place, home) or home.startswith(f"{place}.") for place in places for home in homes
        )

    def compare(
        self, tensor: StoredTensor, array: Any, dtype: str, key: str, *, likely: bool = True
    ) -> Layout | Difference:
        """Compare a tensor, or a part of it, with one of the commit in the order that its users expect."""
        entry = self._tensors[key]
        return compare(array, dtype, entry, self.reader(key), likely=likely, order=self.order(tensor, key))

    def reader(self, key: str) -> Callable[[int, int], bytes]:
        """Return a function that reads bytes of a tensor of the commit: start, length."""
        return functools.partial(self._tensors.read, key)

    def by_value(
        self, tensor: StoredTensor, array: Any, dtype: str, tried: Container[str]
    ) -> tuple[str, Layout] | None:
        """Return the tensor of the commit with the values of a tensor, or of a part of it; None without one.

        `array` is its content, or that of the part. Tensors in `tried` are left out.
        """
        for key in self._tensors.sizes.get(array.size, [])[:MOST_TRIED]:
            if key not in tried and not any(contradicts(use, key) for use in self.uses(tensor)):
                layout = self.compare(tensor, array, dtype, key, likely=False)
                if isinstance(layout, Layout):
                    return key, layout
        return None

    def finding(
        self, tensor: StoredTensor, evidence: Evidence, how: str, keys: tuple[str, ...] = (), *, by_value: bool = False
    ) -> WeightFinding:
        """Return a finding about a tensor."""
        return WeightFinding(tensor.name, self.module(tensor), evidence, how, keys, tensor.size, by_value)


def _has(module: str, path: str) -> bool:
    """Whether a module is equal to or inside the one that the end of a path names."""
    return f".{path}." in f".{module}."
