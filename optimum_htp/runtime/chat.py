"""Renders a chat as a prompt with the model's chat template, in jinja2's sandbox.

A template is part of a model, so it is untrusted. It cannot read attributes that begin with `_` or change its
arguments, and the number of loop iterations and the size of texts are limited.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import ArgumentError, ChatTemplateError, MissingDependencyError

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["rendered"]

Message = Mapping[str, Any]

_LONGEST_TEMPLATE: Final = 1 << 18  # characters
_LONGEST_TEXT: Final = 1 << 22  # characters of a text that a template creates, or items of a list
_MOST_ITERATIONS: Final = 200_000  # of all loops together
_LARGEST_WIDTH: Final = 1 << 12  # characters of padding or indentation
_LARGEST_JSON_INDENT: Final = 16  # characters per level
_FILTERS: Final = frozenset(
    (
        *("abs", "attr", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float"),
        *("groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min"),
        *("reject", "rejectattr", "replace", "reverse", "round", "safe", "select", "selectattr", "sort", "string"),
        *("sum", "title", "tojson", "trim", "unique", "upper", "wordcount"),
    )
)
_EXPANDING: Final = frozenset(
    (
        *("capitalize", "e", "escape", "indent", "join", "lower", "replace", "safe", "string", "sum", "title"),
        *("tojson", "trim", "upper", "wordcount"),
    )
)
"""The filters whose result can be much larger than the memory of their value."""
_PADDING: Final = ("center", "expandtabs", "ljust", "rjust", "zfill")
_FORMATTING: Final = ("format", "format_map", "translate")

_templates: Final[LRUCache[str, Template]] = LRUCache(16)


def rendered(
    template: str, messages: Sequence[Message], special: Mapping[str, Any], *, continues: bool, **more: Any
) -> str:
    """Return the prompt of a chat.

    Args:
        template: The model's chat template.
        messages: The chat: each message is `{"role": str, "content": str}`.
        special: The special tokens, by the names that templates use.
        continues: Whether to continue the last message instead of answering it.
        **more: Further variables of the template.

    Raises:
        ArgumentError: The messages are invalid, or the template rejects them.
        ChatTemplateError: The template is damaged or exceeds a limit.
    """
    if not messages or not all(isinstance(one, Mapping) and isinstance(one.get("role"), str) for one in messages):
        raise ArgumentError('A chat must be a list of {"role": ..., "content": ...}.')
    try:
        from jinja2 import TemplateError
    except ImportError as error:
        raise MissingDependencyError("Chats need jinja2. Run `pip install jinja2`.") from error
    if len(template) > _LONGEST_TEMPLATE:
        raise ChatTemplateError(f"The chat template has {len(template)} characters; the limit is {_LONGEST_TEMPLATE}.")
    try:
        made = _templates.get_or_make(template, lambda: _compiled(template))
        budget = _Budget()
        text = _joined(
            made.generate(
                messages=[dict(one) for one in messages],
                add_generation_prompt=not continues,
                **{"tools": None, "documents": None, **special, **more},
                _counted=budget.counted,
                _concatenated=budget.concatenated,
            )
        )
    except ArgumentError:
        raise
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise ChatTemplateError(f"The chat template failed: {type(error).__name__}: {error}.") from error
    return _cut(text, str(messages[-1].get("content"))) if continues else text


def _joined(pieces: Iterable[str]) -> str:
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        if size > _LONGEST_TEXT:
            raise ValueError(f"its output has more than {_LONGEST_TEXT} characters")
        found.append(piece)
    return "".join(found)


def _cut(text: str, last: str) -> str:
    """Return a prompt up to the end of its last message, as `apply_chat_template` of transformers does."""
    stripped = last.strip()
    if stripped not in text:
        raise ArgumentError("The chat template leaves out the last message, so the message cannot be continued.")
    start = text.rindex(stripped)
    whole = last.lstrip()
    return text[: start + len(whole)] if text[start : start + len(whole)] == last else text[: start + len(stripped)]


class _Budget:
    """The limits of one rendering."""

    def __init__(self) -> None:
        self._iterations = 0

    def counted(self, items: Any) -> list[Any]:
        """Return the items of a loop, and count them."""
        found = []
        for item in items:
            self._iterations += 1
            if self._iterations > _MOST_ITERATIONS:
                raise ValueError(f"its loops have more than {_MOST_ITERATIONS} iterations")
            found.append(item)
        return found

    def concatenated(self, *parts: Any) -> str:
        """Return the result of the operator `~`."""
        return _joined(str(_bounded(part)) for part in parts)


def _sized(value: Any) -> int:
    return len(value) if isinstance(value, (str, list, tuple)) else 0


def _weight(value: Any) -> int:
    """Return about the number of characters of a value as a text; not all are counted if they exceed the limit.

    The same list can be many times in a list, so a small value can be a very long text.
    """
    found, rest = 0, [value]
    while rest and found <= _LONGEST_TEXT:
        one = rest.pop()
        if isinstance(one, (str, bytes)):
            found += len(one)
        elif isinstance(one, Collection):
            found += 3 * len(one)  # each item with a separator
            if found <= _LONGEST_TEXT:
                rest += [*one, *one.values()] if isinstance(one, Mapping) else one
        else:
            found += one.bit_length() // 3 + 1 if isinstance(one, int) else 1
    return found


def _bounded(value: Any) -> Any:
    """Return a value that is not too large as a text."""
    if (len(value) if isinstance(value, str) else _weight(value)) > _LONGEST_TEXT:
        raise ValueError("a text or a list exceeds the limit")
    return value


def _check_call(function: Any, arguments: Sequence[Any]) -> None:
    """Reject method calls of texts whose result is much larger than their arguments."""
    function = getattr(function, "__wrapped__", function)  # jinja2 wraps `format`.
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if not isinstance(owner, str):
        return
    if name in _FORMATTING:
        raise ValueError(f"it calls {name}")
    if name in _PADDING and any(isinstance(one, int) and one > _LARGEST_WIDTH for one in arguments):
        raise ValueError(f"it pads a text to more than {_LARGEST_WIDTH} characters")
    if name == "replace":
        _check_replaced(owner, *arguments[1:2])
    if name == "join":
        _check_joined(owner, *arguments[:1])


def _check_replaced(text: Any, new: Any = "") -> None:
    if (len(str(text)) + 1) * len(str(new)) > _LONGEST_TEXT:
        raise ValueError("a replacement exceeds the text limit")


def _check_joined(separator: Any, items: Any = ()) -> None:
    if isinstance(items, Collection) and _weight(items) + len(items) * len(str(separator)) > _LONGEST_TEXT:
        raise ValueError("a joined text exceeds the text limit")


def _check_indented(text: Any, arguments: Sequence[Any]) -> None:
    width = max((one if isinstance(one, int) else len(str(one)) for one in arguments), default=0)
    if width > _LARGEST_WIDTH:
        raise ValueError(f"it indents by more than {_LARGEST_WIDTH} characters")
    if (len(str(text).splitlines()) + 1) * width > _LONGEST_TEXT:
        raise ValueError("an indented text exceeds the text limit")


def _compiled(source: str) -> Template:
    """Return a template that counts its loop iterations and characters."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.visitor import NodeTransformer

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(("*", "**", "+", "%"))

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator == "%" and isinstance(left, str):
                raise ValueError("it formats a text with %")
            if operator == "+" and _sized(left) + _sized(right) > _LONGEST_TEXT:
                raise ValueError("a text or a list exceeds the limit")
            if operator == "*" and max(_sized(left), _sized(right)):
                times = right if _sized(left) else left
                if isinstance(times, int) and times * max(_sized(left), _sized(right)) > _LONGEST_TEXT:
                    raise ValueError("a text or a list exceeds the limit")
            if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
                bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
                if bits > _LARGEST_WIDTH:
                    raise ValueError("a number exceeds the limit")
            return super().call_binop(context, operator, left, right)

        def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(getattr(function, "__self__", None), str):
                arguments = tuple(map(_listed, arguments))
            _check_call(function, (*arguments, *named.values()))
            return super().call(context, function, *arguments, **named)

    class Bounded(NodeTransformer):
        def visit_For(self, node: Any, *arguments: Any) -> Any:  # noqa: N802 - jinja2's name
            self.generic_visit(node, *arguments)
            node.iter = _called("_counted", [node.iter])
            return node

        def visit_Concat(self, node: Any, *arguments: Any) -> Any:  # noqa: N802 - jinja2's name
            self.generic_visit(node, *arguments)
            return _called("_concatenated", node.nodes)

    class Generation(Extension):
        """The tag around messages of the assistant. It has no effect on a prompt."""

        tags = {"generation"}  # noqa: RUF012 - jinja2's form

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def _called(name: str, arguments: list[Any]) -> Any:
        return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, finalize=_bounded, extensions=[Generation, loopcontrols]
    )
    filters = {**environment.filters, "tojson": _json}
    environment.filters = {name: _guarded(name, one) for name, one in filters.items() if name in _FILTERS}
    del environment.globals["lipsum"]  # It generates text of any length.
    environment.globals["raise_exception"] = _reject
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    tree = Bounded().visit(environment.parse(source))
    for node in tree.find_all(nodes.Node):
        node.environment = environment
    tree.set_lineno(1)
    code = environment.compile(tree, filename="<chat template>")
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def _listed(value: Any) -> Any:
    """Return the items of an iterator, so that they can be checked; other values unchanged."""
    return list(value) if isinstance(value, Iterator) else value


def _guarded(name: str, filter_: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that checks the limits."""
    if name not in _EXPANDING:
        return filter_
    before = 1 if name in ("replace", "join") else 0  # jinja2 passes its context to these before the value

    @functools.wraps(filter_)
    def guarded(*arguments: Any, **named: Any) -> Any:
        value, *given = map(_listed, arguments[before:])
        _bounded(value)
        everything = [*map(_bounded, given), *map(_bounded, named.values())]
        if name == "replace":
            _check_replaced(value, named.get("new", given[1] if len(given) > 1 else ""))
        elif name == "join":
            _check_joined(named.get("d", given[0] if given else ""), value)
        elif name == "indent":
            _check_indented(value, everything)
        return filter_(*arguments[:before], value, *given, **named)

    return guarded


def _json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Return JSON, as the filter `tojson` of transformers' chat templates does."""
    if indent is not None and indent > _LARGEST_JSON_INDENT:
        raise ValueError(f"it indents JSON by more than {_LARGEST_JSON_INDENT} characters")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _reject(message: str) -> None:
    raise ArgumentError(f"The chat template rejects the chat: {message}")
