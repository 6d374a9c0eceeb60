"""Compiles a chat template for jinja2's sandbox, with limits on its time and memory.

A template is part of a model, so it is untrusted. It cannot read attributes that begin with `_` or change its
arguments. Filters, tests and methods are those in the tables below. Each operation is measured (`template_budget`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import ArgumentError
from optimum_htp.runtime.template_budget import check_text, created, measured, read, spend, units

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["compiled"]

_LARGEST_WIDTH: Final = 1 << 12  # characters of padding or indentation
_LARGEST_NUMBER: Final = 1 << 12  # bits
_LARGEST_INTEGER_TEXT: Final = 1 << 12  # digits; Python needs quadratic time for them
_LARGEST_PRECISION: Final = 100  # digits after the point
_LARGEST_JSON_INDENT: Final = 16  # characters per level
_LONGEST_DATE_FORMAT: Final = 1 << 10  # characters
_CALL: Final = 32  # units
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
_BY_WORD: Final = ("title", "wordcount")  # These make a list of all words.
_LONGEST_TITLE: Final = 1 << 18  # characters
_SORTING: Final = ("dictsort", "groupby", "sort")
_COMPARISONS_PER_ITEM: Final = 20  # of sorting
_TEXT_METHODS: Final = frozenset(
    (
        *("capitalize", "casefold", "center", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii"),
        *("isdecimal", "isdigit", "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "join"),
        *("ljust", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex"),
        *("rjust", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase"),
        *("title", "upper", "zfill"),
    )
)
_PADDING: Final = ("center", "ljust", "rjust", "zfill")


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
            _check_operands(operator, left, right)
            return created(super().call_binop(context, operator, left, right))

        def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
            arguments = tuple(map(_listed, arguments))
            if isinstance(function, (BlockReference, LoopContext, Macro)):
                spend(_MACRO + sum(map(units, arguments)))
            else:
                _check_call(function, [*arguments, *named.values()])
            return created(super().call(context, function, *arguments, **named))

        def getitem(self, value: Any, argument: Any) -> Any:
            return super().getitem(value, argument if isinstance(argument, (str, int)) else read(argument))

    class Measured(NodeTransformer):
        """Adds filters, because a template can give another meaning to names, but not to filters."""

        def visit_Macro(self, node: Any) -> Any:  # noqa: N802 - jinja2's names
            size = size_of(node.body)
            self.generic_visit(node)
            node.body.insert(0, nodes.ExprStmt(filtered("spent!", nodes.Const(size))))
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

    def filtered(name: str, value: Any, *arguments: Any) -> Any:
        return nodes.Filter(value, name, list(arguments), [], None, None)

    # Nothing is computed during the compilation: the optimizer is off, and `finalize` needs the context.
    environment = Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        finalize=pass_context(lambda context, value: read(value)),
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


def _concatenated(parts: Sequence[Any]) -> str:
    """Return the result of the operator `~`."""
    texts = [str(read(part)) for part in parts]
    check_text(sum(map(len, texts)))
    return str(created("".join(texts)))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if operator == "%" and isinstance(left, (str, bytes)):
        raise ValueError("it formats a text with %")
    spend(units(left) + units(right))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _LARGEST_NUMBER:
            raise ValueError("a number exceeds the limit")
    elif operator == "*":
        items, times = (right, left) if isinstance(left, int) else (left, right)
        if isinstance(items, Collection) and isinstance(times, int):
            size = measured(items)
            check_text((size.characters + size.items) * times)


def _check_call(function: Any, arguments: Sequence[Any]) -> None:
    """Spend units for a call, and reject methods that can create large values."""
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps `format`.
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    spend(_CALL)
    read(list(arguments))
    if isinstance(owner, str):
        _check_text_method(owner, name, arguments)
    elif isinstance(owner, (list, tuple)):
        read(owner)
    elif owner is not None and type(owner).__module__ == "builtins" and not isinstance(owner, Mapping):
        raise ValueError(f"it calls {name} of {type(owner).__name__}")


def _check_text_method(text: str, name: str, arguments: Sequence[Any]) -> None:
    if name not in _TEXT_METHODS:
        raise ValueError(f"it calls {name} of a text")
    searched = max((len(one) for one in arguments if isinstance(one, str)), default=0)
    spend(units(text) * (1 + searched // 8))  # A search from the end needs the product.
    if name in _PADDING and any(isinstance(one, int) and one > _LARGEST_WIDTH for one in arguments):
        raise ValueError(f"it pads a text to more than {_LARGEST_WIDTH} characters")
    if name == "replace":
        _check_replaced(text, *arguments)
    if name == "join":
        _check_joined(text, *arguments[:1])


def _check_replaced(text: str, old: Any = "", new: Any = "", count: Any = -1) -> None:
    found = str(text).count(str(old))
    if isinstance(count, int) and count >= 0:
        found = min(found, count)
    check_text(len(text) + found * len(str(new)))


def _check_joined(separator: Any, items: Any = ()) -> None:
    size = measured(items)
    check_text(size.characters + size.items * len(str(separator)))


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
            _check_filter(name, value, given, named)
        result = filter_(*arguments[:before], value, *given, **named)
        return created(result) if name in _DEEP_FILTERS or name == "list" else result

    return measured_filter


def _check_filter(name: str, value: Any, given: Sequence[Any], named: Mapping[str, Any]) -> None:
    everything = [*given, *named.values()]
    if name in _SORTING:
        spend(measured(value).items * _COMPARISONS_PER_ITEM)
    elif name in _BY_WORD:
        if measured(value).characters > _LONGEST_TITLE:
            raise ValueError(f"it finds the words of a text with more than {_LONGEST_TITLE} characters")
        spend(measured(value).characters)
    elif name == "replace":
        _check_replaced(str(value), **{**dict(zip(("old", "new", "count"), given, strict=False)), **named})
    elif name == "join":
        _check_joined(named.get("d", given[0] if given else ""), value)
    elif name == "indent":
        _check_indented(str(value), everything)
    elif name == "tojson":
        _check_json(value, everything)
    elif name == "int" and isinstance(value, str) and len(value) > _LARGEST_INTEGER_TEXT:
        raise ValueError(f"it reads a number of {len(value)} digits")
    elif name == "round" and any(isinstance(one, int) and abs(one) > _LARGEST_PRECISION for one in everything):
        raise ValueError(f"it rounds to more than {_LARGEST_PRECISION} digits")
    elif name == "sum" and any(isinstance(one, Collection) and not isinstance(one, str) for one in everything):
        raise ValueError("it adds up lists")


def _check_indented(text: str, arguments: Sequence[Any]) -> None:
    width = max((one if isinstance(one, int) else len(str(one)) for one in arguments), default=0)
    if width > _LARGEST_WIDTH:
        raise ValueError(f"it indents by more than {_LARGEST_WIDTH} characters")
    check_text((len(text.splitlines()) + 1) * width)


def _check_json(value: Any, arguments: Sequence[Any]) -> None:
    indent = max((one for one in arguments if isinstance(one, int)), default=0)
    if indent > _LARGEST_JSON_INDENT:
        raise ValueError(f"it indents JSON by more than {_LARGEST_JSON_INDENT} characters")
    separators = sum(len(str(item)) for one in arguments if isinstance(one, (list, tuple)) for item in one)
    size = measured(value)
    check_text(size.characters + size.items * (separators + indent * size.depth))


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
