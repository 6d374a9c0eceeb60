"""The tensors that a model's code computes from its parameters and from constants, without any input.

Exporters fold such a value into one initializer: `1 + weight`, rows of a table, the slopes of ALiBi, frequencies of
time steps. So `forward` runs once. The parameters have no content: operators on them only compute shapes, and are
recorded. Later, the recorded operators are run with the commit's tensors, if a tensor of the file may be their result.
"""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from optimum_htp.masking import get_logger
from optimum_htp.modules.proof.recipes import Read, Recipe, Run, TooManyWeightsError, UnreadableParameterError

__all__ = ["run_without_weights"]

logger = get_logger(__name__)

_MOST_READ: Final = 1 << 28  # Elements of parameters that are read for one tensor.
_MOST_KEPT: Final = 1 << 27  # Elements of constants.
# Operators of PyTorch whose result has the same elements, in this or another order.
_REORDERING: Final = frozenset(
    {"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "detach", "alias"}
    | {"clone", "contiguous", "unsqueeze", "squeeze", "_to_copy", "lift_fresh", "lift_fresh_copy"}
)


@dataclass(frozen=True, eq=False)
class _Note:
    """A tensor without content: a parameter, or the result of an operator.

    Attributes:
        number: Its number in the order of execution.
        names: Names of a parameter; empty for the result of a computation.
        operator, arguments, keywords: The computation of a result, with notes in place of tensors without content.
        output: Index of the operator's result.
        of_input: Whether it depends on an input of the model.
        is_reordered: Whether it has exactly the elements of one parameter; `names` are then the names of that
            parameter.
    """

    number: int
    names: tuple[str, ...] = ()
    operator: Any = None
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    output: int = 0
    of_input: bool = False
    is_reordered: bool = True


def run_without_weights(
    model: Any, inputs: Mapping[str, Any], sizes: Collection[int], read: Read, is_saved: Callable[[str], bool]
) -> Run:
    """Run a model without weights, and return what its code computes from parameters and constants.

    If `forward` raises an exception, the earlier results are returned.

    The model's parameters are on the meta device. `sizes` are the needed numbers of elements of results, `read`
    returns a parameter or a saved buffer, and `is_saved` whether a checkpoint contains a buffer.
    """
    import torch

    noting = _noting_class()(frozenset(sizes), read)
    failure = None
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_left_as_it_was(model))
        _take_content(model, noting, is_saved)
        stack.enter_context(_named(model, noting))
        noting.give(inputs)
        stack.enter_context(_without_errors_of_shapes())
        stack.enter_context(noting)
        try:
            model(**inputs)
        except Exception as error:  # noqa: BLE001 - what a model's code asks of its values is not known
            failure = f"{type(model).__name__} cannot be run without weights: {type(error).__name__}: {error}"
            logger.info("%s", failure)
    return Run(tuple(noting.recipes), tuple(noting.order), failure or noting.failure)


@contextmanager
def _without_errors_of_shapes() -> Iterator[None]:
    """Keep PyTorch from logging an error for each operator whose shapes it cannot compute."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _left_as_it_was(model: Any) -> Iterator[None]:
    """Undo changes of `forward` in its modules: a position table that it stores has no content."""
    states = [
        (own, dict(own)) for module in model.modules() for own in (vars(module), module._parameters, module._buffers)
    ]
    try:
        yield
    finally:
        for own, before in states:
            own.clear()
            own.update(before)


def _take_content(model: Any, noting: Any, is_saved: Callable[[str], bool]) -> None:
    """Replace saved tensors by tensors that appear to be on the CPU for the model's code.

    `_left_as_it_was` restores them.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    names: dict[int, list[str]] = {}
    places: list[tuple[dict[str, Any], str, Any]] = []
    for module_name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{module_name}." if module_name else ""
        buffers = {leaf: at for leaf, at in module._buffers.items() if is_saved(prefix + leaf)}
        for holder, tensors in ((module._parameters, dict(module._parameters)), (module._buffers, buffers)):
            for leaf, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point():
                    names.setdefault(id(tensor), []).append(prefix + leaf)
                    places.append((holder, leaf, tensor))
    blanks: dict[int, Any] = {}
    for _, _, tensor in places:
        if id(tensor) not in blanks:
            blanks[id(tensor)] = FakeTensor(mode, tensor.data.to("meta"), torch.device("cpu"))
            noting.note_parameter(blanks[id(tensor)], names[id(tensor)])
    for holder, leaf, tensor in places:
        holder[leaf] = blanks[id(tensor)]


@contextmanager
def _named(model: Any, noting: Any) -> Iterator[None]:
    """Record the module in which each tensor is computed."""

    def enter(name: str, *_: Any) -> None:
        noting.modules.append(name)

    def leave(*_: Any) -> None:
        noting.modules.pop()

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(functools.partial(enter, name)))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@functools.cache
def _noting_class() -> Any:
    """Return the class of the dispatch mode. PyTorch is imported on first use."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten
    from torch.utils.weak import WeakIdKeyDictionary

    class _Noting(TorchDispatchMode):  # type: ignore[misc]
        """Records how tensors are computed; see https://docs.pytorch.org/docs/stable/notes/extending.html."""

        def __init__(self, sizes: frozenset[int], read: Read) -> None:
            super().__init__()
            self.modules: list[str] = []
            self.recipes: list[Recipe] = []
            self.order: dict[tuple[str, ...], None] = {}
            self._sizes, self._read = sizes, read
            self._notes: Any = WeakIdKeyDictionary()
            self._of_input: dict[int, Any] = {}  # By the memory address, which the tensor keeps.
            self._numbers = itertools.count()
            self._read_elements = self._kept = 0
            self.failure: str | None = None

        def give(self, inputs: Any) -> None:
            for tensor in tree_leaves(inputs):
                if isinstance(tensor, torch.Tensor):
                    self._of_input[tensor.untyped_storage().data_ptr()] = tensor

        def note_parameter(self, blank: Any, names: Sequence[str]) -> None:
            self._notes[blank] = _Note(self._next(), tuple(names))

        def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if operator.namespace == "prim":
                return operator(*args, **kwargs)
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            of_input = any(map(self._is_of_input, tensors))
            arguments = tree_map(self._noted, args), tree_map(self._noted, kwargs)
            sources = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, _Note)]
            name = operator._schema.name.partition("::")[2]
            same = name in _REORDERING and len(sources) == 1 and sources[0].is_reordered
            if not same:
                self.order.update(dict.fromkeys(source.names for source in sources if source.names))
            try:
                results = operator(*args, **kwargs)
            except RuntimeError:  # PyTorch cannot compute the shapes of this operator, or they depend on values.
                results = operator(*self._filled(arguments[0]), **self._filled(arguments[1]))
            for at, result in enumerate(tree_leaves(results)):
                if not isinstance(result, torch.Tensor):
                    continue
                if not isinstance(result, FakeTensor):
                    self._add_real(operator, result, of_input)
                    continue
                note = _Note(
                    self._next(),
                    names=sources[0].names if same else (),
                    operator=operator,
                    arguments=arguments[0],
                    keywords=arguments[1],
                    output=at,
                    of_input=of_input,
                    is_reordered=same,
                )
                self._notes[result] = note
                if not of_input and not note.is_reordered:
                    self._add(operator, result, functools.partial(self._value, note), _parameters(note))
            return results

        def _add_real(self, operator: Any, result: Any, of_input: bool) -> None:
            if of_input:
                self._of_input[result.untyped_storage().data_ptr()] = result
            elif result.numel() in self._sizes and result.is_floating_point():
                self._kept += result.numel()
                if self._kept > _MOST_KEPT:
                    self.failure = "The model's code computes more constants than are kept."
                    return
                content = result.detach().clone()
                self._add(operator, result, lambda: content, ())

        def _add(self, operator: Any, result: Any, compute: Callable[[], Any], names: tuple[str, ...]) -> None:
            if result.numel() in self._sizes and result.numel() > 1 and result.is_floating_point():
                module = self.modules[-1] if self.modules else ""
                name = operator._schema.name.partition("::")[2]
                self.recipes.append(Recipe(module, name, result.numel(), names, compute))

        def _is_of_input(self, tensor: Any) -> bool:
            if isinstance(tensor, FakeTensor):
                return tensor not in self._notes or self._notes[tensor].of_input
            return tensor.untyped_storage().data_ptr() in self._of_input

        def _noted(self, leaf: Any) -> Any:
            return self._notes[leaf] if isinstance(leaf, FakeTensor) else leaf

        def _filled(self, arguments: Any) -> Any:
            """Return arguments with content, for decisions of the model's code that depend on values of weights."""
            leaves, spec = tree_flatten(arguments)
            return tree_unflatten([self._value(leaf) if isinstance(leaf, _Note) else leaf for leaf in leaves], spec)

        def _value(self, note: _Note) -> Any:
            self._read_elements = 0
            known: dict[_Note, Any] = {}
            needed = sorted(_ancestors(note), key=lambda one: one.number)

            def content(leaf: Any) -> Any:
                return known[leaf] if isinstance(leaf, _Note) else leaf

            for one in needed:
                if one.operator is None:
                    known[one] = self._parameter(one)
                    continue
                given = tree_map(content, one.arguments), tree_map(content, one.keywords)
                if one.operator._schema.is_mutable:
                    given = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, given)
                try:
                    known[one] = tree_leaves(one.operator(*given[0], **given[1]))[one.output]
                except (RuntimeError, IndexError) as error:  # The tensor of the commit has another shape.
                    raise UnreadableParameterError(str(error)) from error
            return known[note]

        def _parameter(self, note: _Note) -> Any:
            tensor = self._read(note.names)
            self._read_elements += tensor.numel()
            if self._read_elements > _MOST_READ:
                raise TooManyWeightsError(
                    "The model's code computes a tensor from more weights than are read for one tensor."
                )
            return tensor

        def _next(self) -> int:
            return next(self._numbers)

    return _Noting


def _ancestors(note: _Note) -> set[_Note]:
    """Return a note and all notes that it depends on."""
    from torch.utils._pytree import tree_leaves

    found: set[_Note] = set()
    waiting = [note]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += [leaf for leaf in tree_leaves((one.arguments, dict(one.keywords))) if isinstance(leaf, _Note)]
    return found


def _parameters(note: _Note) -> tuple[str, ...]:
    notes: Iterable[_Note] = sorted(_ancestors(note), key=lambda one: one.number)
    return tuple(one.names[0] for one in notes if one.operator is None)
