"""Renders a chat as a prompt with the model's chat template, in jinja2's sandbox.

A template is part of a model, so it is untrusted: see `templates`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.caching import LRUCache
from optimum_htp.errors import ArgumentError, ChatTemplateError, MissingDependencyError
from optimum_htp.runtime.template_budget import check_text, limited
from optimum_htp.runtime.templates import compiled

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["rendered"]

Message = Mapping[str, Any]

_LONGEST_TEMPLATE: Final = 1 << 18  # characters
_FAILURES: Final = (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TypeError, ValueError)

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
        made = _templates.get_or_make(template, lambda: compiled(template))
        variables = {"tools": None, "documents": None, **special, **more}
        variables |= {"messages": [dict(one) for one in messages], "add_generation_prompt": not continues}
        with limited():
            text = _joined(made.generate(**variables))
    except ArgumentError:
        raise
    except (TemplateError, *_FAILURES) as error:
        raise ChatTemplateError(f"The chat template failed: {type(error).__name__}: {error}.") from error
    return _cut(text, str(messages[-1].get("content"))) if continues else text


def _joined(pieces: Iterable[str]) -> str:
    found, size = [], 0
    for piece in pieces:
        size += len(piece)
        check_text(size)
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
