"""Compiles a chat template for jinja2's sandbox, with limits on its time and memory.

A template is part of a model, so it is untrusted. It cannot read attributes that begin with `_` or change its
arguments. It can use the filters below and the methods in `template_checks`. Each operation takes from the budget of
the rendering (`template_budget`).
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.template_budget import check_text, created, read, spend, units
from optimum_htp.runtime.template_checks import check_call, check_filter, check_operands

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["compiled"]

_LONGEST_DATE_FORMAT: Final = 1 << 10  # characters
_MACRO: Final = 100  # units, without its body

_SHALLOW_FILTERS: Final = frozenset(
    (
        *("abs", "attr", "count", "d", "default", "first", "float", "items", "last", "length", "list", "map"),
        *("reject", "rejectattr", "reverse", "select", "selectattr"),
    )
)
"""These do not read the items of items. They return existing values or collections of them."""
_DEEP_FILTERS: Final = frozenset(
    (
        *("capitalize", "dictsort", "e", "escape", "groupby", "indent", "int", "join", "lower", "max", "min"),
        *("replace", "round", "safe", "sort", "string", "sum", "title", "tojson", "trim", "unique", "upper"),
        "wordcount",
    )
)
_SHALLOW_TESTS: Final = frozenset(
    (
        *("boolean", "callable", "defined", "divisibleby", "escaped", "even", "false", "filter", "float", "integer"),
        *("iterable", "mapping", "none", "number", "odd", "sameas", "sequence", "string", "test", "true"),
        "undefined",
    )
)


def compiled(source: str) -> Template:
    """Return a template whose operations spend the budget of the rendering.

    Raises:
        jinja2.TemplateError: The template is damaged.
    """
    from jinja2 import nodes, pass_context
    from jinja2.ext import Extension, loopcontrols
    from jinja2.runtime import BlockReference, LoopContext, Macro
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            check_operands(operator, left, right)
            return created(super().call_binop(context, operator, left, right))

        def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
            arguments = tuple(map(_listed, arguments))
            if isinstance(function, (BlockReference, LoopContext, Macro)):
                spend(_MACRO + sum(map(units, arguments)))
            else:
                check_call(function, [*arguments, *named.values()])
            return created(super().call(context, function, *arguments, **named))

        def getitem(self, value: Any, argument: Any) -> Any:
            return super().getitem(value, argument if isinstance(argument, (str, int)) else read(argument))

    class Measured(NodeTransformer):
        """Adds filters, because a template can give another meaning to names, but not to filters."""

        def visit_Macro(self, node: Any) -> Any:  # noqa: N802 - jinja2's names
            size, memory = size_of(node.body), memory_of(node.body)
            self.generic_visit(node)
            node.body.insert(0, nodes.ExprStmt(filtered("spent!", nodes.Const(size), nodes.Const(memory))))
            return node

        visit_CallBlock = visit_Block = visit_Macro  # noqa: N815

        def visit_For(self, node: Any) -> Any:  # noqa: N802
            test = size_of(filter(None, [node.test]))
            self.visit_Macro(node)
            node.iter = filtered("counted!", node.iter, nodes.Const(1 + test))
            return node

        def visit_Concat(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            return filtered("concatenated!", nodes.List(node.nodes))

        def visit_Compare(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            node.expr = filtered("read!", node.expr)
            for operand in node.ops:
                operand.expr = filtered("read!", operand.expr)
            return node

        def visit_List(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            return filtered("created!", node)

        def visit_Tuple(self, node: Any) -> Any:  # noqa: N802
            return self.visit_List(node) if node.ctx == "load" else node

        visit_Dict = visit_List  # noqa: N815

        def visit_Getitem(self, node: Any) -> Any:  # noqa: N802
            self.generic_visit(node)
            return filtered("created!", node) if isinstance(node.arg, nodes.Slice) else node

    class Generation(Extension):
        """The tag around messages of the assistant. It has no effect on a prompt."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's form

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def size_of(parts: Iterable[Any]) -> int:
        return sum(1 for one in parts for _ in one.find_all(nodes.Node))

    def memory_of(parts: Iterable[Any]) -> int:
        texts = (text.data for one in parts for text in one.find_all(nodes.TemplateData))
        return sum(map(sys.getsizeof, texts))

    def filtered(name: str, value: Any, *arguments: Any) -> Any:
        return nodes.Filter(value, name, list(arguments), [], None, None)

    # Nothing is computed during the compilation: the optimizer is off, and `finalize` needs the context.
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=pass_context(lambda context, value: _written(value)),
        extensions=[Generation, loopcontrols],
    )
    filters = {**environment.filters, "tojson": _json}
    environment.filters = {
        name: _measured_filter(name, filters[name]) for name in sorted(_SHALLOW_FILTERS | _DEEP_FILTERS)
    }
    environment.filters |= {"counted!": _counted, "concatenated!": _concatenated, "created!": created}
    environment.filters |= {"read!": lambda value: read(_listed(value)), "spent!": spend}
    tests: dict[str, Any] = environment.tests
    environment.tests = {name: _measured_test(name, one) for name, one in tests.items()}
    del environment.globals["lipsum"]  # It generates text of any length.
    environment.globals["raise_exception"] = _reject
    environment.globals["strftime_now"] = _now
    tree = Measured().visit(environment.parse(source))
    for node in tree.find_all(nodes.Node):
        node.environment = environment
    tree.set_lineno(1)
    code = environment.compile(tree, filename="<chat template>")
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _listed(value: Any) -> Any:
    """Return the items of an iterator, so that they can be measured; other values unchanged."""
    is_loop = type(value).__module__ != "builtins"  # A loop is an iterator too, and it must go on.
    return _counted(value, 1) if isinstance(value, Iterator) and not is_loop else value


def _counted(items: Iterable[Any], each: int) -> list[Any]:
    """Return items, and spend units for each."""
    found = []
    for item in items:
        spend(each)
        found.append(item)
    return found


def _written(value: Any) -> str:
    """Return a value as the text in the output."""
    return str(created(value if isinstance(value, str) else str(read(value))))


def _concatenated(parts: Sequence[Any]) -> str:
    """Return the result of the operator `~`."""
    texts = [str(read(part)) for part in parts]
    check_text(sum(map(len, texts)))
    return str(created("".join(texts)))


def _measured_test(name: str, test: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test that spends units."""

    @functools.wraps(test)
    def measured_test(*arguments: Any) -> Any:
        spend(1)
        if name not in _SHALLOW_TESTS:
            arguments = tuple(read(_listed(one)) for one in arguments)
        return test(*arguments)

    return measured_test


def _measured_filter(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that spends units and checks the limits."""
    before = 1 if hasattr(filter_, "jinja_pass_arg") else 0  # jinja2 passes its context to some filters

    @functools.wraps(filter_)
    def measured_filter(*arguments: Any, **named: Any) -> Any:
        value, *given = map(_listed, arguments[before:])
        read([*given, *named.values()])
        texts = sum(len(one) for one in (*given, *named.values()) if isinstance(one, str))
        spend(units(value) * (1 + texts // 8))  # An argument can be a path of attributes, read for each item.
        if name in _DEEP_FILTERS:
            read(value)
            check_filter(name, value, given, named)
        result = filter_(*arguments[:before], value, *given, **named)
        return created(result) if name in _DEEP_FILTERS or name == "list" else result

    return measured_filter


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON, as the filter `tojson` of transformers' chat templates does."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(form: str) -> str:
    if len(form) > _LONGEST_DATE_FORMAT:
        raise ValueError("a date format exceeds the limit")
    return datetime.now().strftime(form)


def _reject(message: str) -> None:
    raise ArgumentError(f"The chat template rejects the chat: {message}")
