"""Loads the tokenizer of a model from its files.

A fast tokenizer of transformers consists of the `tokenizer.json` of the model, the settings of
`tokenizer_config.json` and the behaviour of its class. If the class is not in `tokenizer_classes.py`, the tokenizer is
rejected, because one wrong token would change every result.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from optimum_htp.errors import PreprocessorLoadError
from optimum_htp.libraries.names import PREPROCESSOR_CONFIGS, TOKENIZER
from optimum_htp.parsing import json_or_none, parse_json
from optimum_htp.runtime.rejections import unsupported_preprocessor
from optimum_htp.runtime.tokenizer import Tokenizer, failures_as
from optimum_htp.runtime.tokenizer_bounds import check_charsmap, check_growth
from optimum_htp.runtime.tokenizer_classes import (
    CLASS_OF_MODEL_TYPE,
    CLASSES,
    LONGEST,
    SPECIAL_TOKENS,
    Rule,
    TokenizerClass,
    base_name,
    wrong_setting,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = ["load_tokenizer"]

_CONFIG: Final = PREPROCESSOR_CONFIGS[-1]
_unsupported: Final = partial(unsupported_preprocessor, "tokenizer")


def load_tokenizer(files: Mapping[str, bytes], config: Mapping[str, Any], name: str) -> Tokenizer:
    """Return the tokenizer of a model from the contents of its preprocessor files and its config.

    Raises:
        PreprocessorLoadError: The files are damaged, or only transformers supports this tokenizer.
    """
    import tokenizers

    settings = _object(files, _CONFIG, name)
    if TOKENIZER not in files:
        raise _unsupported(name, f"it has no {TOKENIZER}, so it is a slow tokenizer")
    class_name, known = _class_of(settings, config, name)
    if settings.get("from_slow") or (known.rule is not Rule.OFFSETS and _is_rebuilt(class_name, settings)):
        raise _unsupported(name, f"its {_CONFIG} requires a conversion from a slow tokenizer")
    what, advice = f"The {TOKENIZER} of {name} cannot be read", " Upgrade tokenizers or get the file again."
    with failures_as(PreprocessorLoadError, what, advice):
        check_charsmap(files[TOKENIZER])
        backend = tokenizers.Tokenizer.from_str(files[TOKENIZER].decode("utf-8"))
        check_growth(backend)
    padding, truncation = backend.padding, backend.truncation
    backend.no_padding()
    backend.no_truncation()
    settings = _with_legacy_tokens(settings, files, name)
    if (wrong := wrong_setting(settings)) is not None:
        raise _unsupported(name, f"its {_CONFIG} has an invalid {wrong}")
    special = {one: text for one in SPECIAL_TOKENS if (text := _token(settings, one, known, padding)) is not None}
    _add_tokens(backend, settings, special, known)
    prefix_space = bool(settings.get("add_prefix_space", known.prefix_space))
    _set_prefix_space(backend, prefix_space)
    _apply(backend, known, settings, special, prefix_space)
    ids = {one: found for one, text in special.items() if (found := backend.token_to_id(text)) is not None}
    longest = settings.get("model_max_length")
    return Tokenizer(
        backend=backend,
        special=special,
        ids=ids,
        input_names=_input_names(settings, known),
        padding_side=_side(settings.get("padding_side") or (padding or {}).get("direction"), known.padding_side),
        truncation_side=_side(settings.get("truncation_side") or (truncation or {}).get("direction"), "right"),
        longest=longest if longest and longest < LONGEST else None,
        cleans_up=settings.get("clean_up_tokenization_spaces") is True,
        chat_template=_chat_templates(settings, files),
        pad_type=3 if class_name == "XLNet" else 0,
        lock=threading.Lock(),
    )


def _object(files: Mapping[str, bytes], file: str, name: str) -> dict[str, Any]:
    content = json_or_none(files[file]) if file in files else {}
    if not isinstance(content, dict):
        raise _unsupported(name, f"its {file} is not a JSON object")
    return content


def _class_of(settings: Mapping[str, Any], config: Mapping[str, Any], name: str) -> tuple[str, TokenizerClass]:
    """Return the name and the properties of a tokenizer's class, chosen as AutoTokenizer does."""
    named = settings.get("tokenizer_class") or config.get("tokenizer_class")
    if not isinstance(named, (str, NoneType)):
        raise _unsupported(name, "its tokenizer_class is not a text")
    model_type = config.get("model_type")
    class_name = base_name(named) if isinstance(named, str) else CLASS_OF_MODEL_TYPE.get(str(model_type), "")
    known = CLASSES.get(class_name)
    if known is None:
        what = f"its class {named}" if isinstance(named, str) else f"the class of {model_type} models"
        raise _unsupported(name, f"{what} is unsupported")
    return class_name, known


def _is_rebuilt(class_name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting makes the class rebuild its tokenizer from sentencepiece."""
    return class_name in ("Llama", "T5", "MT5") and settings.get("add_prefix_space") is not None


def _with_legacy_tokens(settings: dict[str, Any], files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """Return the settings with the special tokens of `special_tokens_map.json`, as older versions wrote them."""
    if "added_tokens_decoder" in settings:
        return settings
    return {**settings, **_object(files, "special_tokens_map.json", name)}


def _content(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _token(
    settings: Mapping[str, Any], name: str, known: TokenizerClass, padding: Mapping[str, Any] | None
) -> str | None:
    if name in settings:
        return _content(settings[name])
    if name == "pad_token" and padding is not None and name not in known.special:
        return _content(padding.get("pad_token"))
    return known.special.get(name)


def _add_tokens(
    backend: tokenizers.Tokenizer, settings: Mapping[str, Any], special: Mapping[str, str], known: TokenizerClass
) -> None:
    """Add the tokens of the settings that are missing in the tokenizer or have other flags."""
    from tokenizers import AddedToken

    existing = backend.get_added_tokens_decoder().values()
    states, texts = set(map(repr, existing)), {token.content for token in existing}
    listed = settings.get("added_tokens_decoder")
    added = []
    for _, token in sorted(listed.items(), key=lambda one: int(one[0])) if isinstance(listed, dict) else ():
        made = AddedToken(**{key: value for key, value in token.items() if key != "__type"})
        if repr(made) not in states:
            made.special = made.special or made.content in special.values()
            added.append(made)
            texts.add(made.content)
    extra = settings.get("additional_special_tokens") or settings.get("extra_special_tokens") or []
    more = list(extra.values()) if isinstance(extra, dict) else list(extra) if isinstance(extra, list) else []
    for name, token in [
        *((name, settings.get(name, text)) for name, text in special.items()),
        *(("", one) for one in more),
    ]:
        text = _content(token) or special.get(name)
        if text is None or text in texts:
            continue
        texts.add(text)
        if isinstance(token, dict):
            made = AddedToken(**{key: value for key, value in token.items() if key not in ("__type", "special")})
        elif name == "mask_token" and known.wide_mask:
            made = AddedToken(text, lstrip=True, rstrip=False, normalized=False)
        else:
            made = AddedToken(text, special=True)
        made.special = True
        added.append(made)
    for made in added:
        (backend.add_special_tokens if made.special else backend.add_tokens)([made])


def _with_settings(module: Any, component: Any, settings: Mapping[str, Any]) -> Any:
    """Return a component of a tokenizer with new settings. Settings that it does not have are ignored."""
    state = parse_json(component.__getstate__()) if component is not None else {}
    changes = {key: value for key, value in settings.items() if state.get(key, value) != value}
    if not changes:
        return component
    current: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in state.items()}
    return getattr(module, current.pop("type"))(**{**current, **changes})


def _set_prefix_space(backend: tokenizers.Tokenizer, wanted: bool) -> None:
    from tokenizers import pre_tokenizers

    # a type that does not accept its own state is left unchanged, as in transformers
    with suppress(TypeError):
        backend.pre_tokenizer = _with_settings(pre_tokenizers, backend.pre_tokenizer, {"add_prefix_space": wanted})


def _apply(
    backend: tokenizers.Tokenizer,
    known: TokenizerClass,
    settings: Mapping[str, Any],
    special: Mapping[str, str],
    prefix_space: bool,
) -> None:
    """Write the settings of the tokenizer's class into the tokenizer."""
    from tokenizers import normalizers, processors

    if known.rule is Rule.NORMALIZER:
        wanted: dict[str, Any] = {
            "lowercase": bool(settings.get("do_lower_case", True)),
            "strip_accents": settings.get("strip_accents"),
            "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
        }
        backend.normalizer = _with_settings(normalizers, backend.normalizer, wanted)
    elif known.rule is Rule.OFFSETS:
        wanted = {"add_prefix_space": prefix_space, "trim_offsets": bool(settings.get("trim_offsets", True))}
        backend.post_processor = _with_settings(processors, backend.post_processor, wanted)
    elif known.rule is Rule.TEMPLATE:
        tokens = {
            one: special[f"{one}_token"]
            for one, default in (("bos", known.adds_bos), ("eos", False))
            if settings.get(f"add_{one}_token", default)
        }

        def around(text: str, index: int) -> str:
            before = f"{tokens['bos']}:{index} " if "bos" in tokens else ""
            return f"{before}{text}:{index}" + (f" {tokens['eos']}:{index}" if "eos" in tokens else "")

        backend.post_processor = processors.TemplateProcessing(
            single=around("$A", 0),
            pair=f"{around('$A', 0)} {around('$B', 1)}",
            special_tokens=[(text, backend.token_to_id(text)) for text in tokens.values()],
        )


def _input_names(settings: Mapping[str, Any], known: TokenizerClass) -> tuple[str, ...]:
    named = settings.get("model_input_names")
    own = ["input_ids", *(["token_type_ids"] if known.types else []), *(["attention_mask"] if known.masks else [])]
    names = named if isinstance(named, list) else own
    return tuple(one for one in ("input_ids", "attention_mask", "token_type_ids") if one in names)


def _side(value: Any, default: str) -> Any:
    return value if value in ("right", "left") else default


def _chat_templates(settings: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the chat templates, by name. Template files override the config."""
    found = {}
    named = settings.get("chat_template")
    if isinstance(named, str):
        found["default"] = named
    elif isinstance(named, list):
        found = {
            one["name"]: one["template"] for one in named if isinstance(one, dict) and {"name", "template"} <= {*one}
        }
    for name, content in files.items():
        if name == "chat_template.jinja":
            found["default"] = content.decode("utf-8", "replace")
        elif (other := re.fullmatch(r"additional_chat_templates/([\w.-]+)\.jinja", name)) is not None:
            found[other[1]] = content.decode("utf-8", "replace")
    return found
