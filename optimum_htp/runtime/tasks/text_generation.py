"""Generated texts, as in transformers' `TextGenerationPipeline` and `Text2TextGenerationPipeline`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, PreprocessorLoadError, WrongTaskError
from optimum_htp.runtime.chat import rendered
from optimum_htp.runtime.generation.decoders import Decoder, EncoderDecoder, TextDecoder
from optimum_htp.runtime.generation.search import generate
from optimum_htp.runtime.generation.settings import GenerationSettings, settings_of, task_params
from optimum_htp.runtime.sessions import output_of
from optimum_htp.runtime.texts import feeds, listed, truncation_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.model import Model
    from optimum_htp.runtime.tokenizer import Tokenizer

__all__ = ["complete", "transform"]

Prompt = str | Sequence[Mapping[str, Any]]
Streamer = Callable[[str], Any]

_COMPLETING: Final = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
_TRANSFORMING: Final = {"max_new_tokens": 256, "num_beams": 4}
_UNFINISHED: Final = "\ufffd"
"""The decoded text of an incomplete character."""


def complete(
    model: Model,
    inputs: Any,
    *,
    return_full_text: bool | None = None,
    add_special_tokens: bool | None = None,
    prefix: str | None = None,
    stop_sequence: str | None = None,
    streamer: Streamer | None = None,
    **settings: Any,
) -> Any:
    """Return continuations of prompts.

    Args:
        inputs: A prompt, a chat as a list of `{"role": str, "content": str}`, or a list of either.
        return_full_text: Whether the result includes the prompt; None for yes.
        add_special_tokens: Whether the tokenizer adds special tokens to a text prompt; None for yes.
        prefix: Text before each text prompt, not part of the result; None for the prefix in the config.
        stop_sequence: A text; each of its tokens ends the result.
        streamer: Called with each new piece of the text.
        **settings: Settings of `GenerationConfig`: `max_new_tokens`, `do_sample`, `temperature`, `top_k`, `top_p`,
            `repetition_penalty`, `num_beams`, `stop_strings` and others; `seed` for the random numbers.

    Returns:
        For each prompt a list of `{"generated_text": str}`. For a chat, the value is the chat with the answer.
    """
    is_chat = isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], Mapping)
    items, is_list = ([inputs], False) if is_chat else listed(inputs)
    stop = None if stop_sequence is None else _tokens_of(model, stop_sequence)
    chosen = _settings(model, _COMPLETING, settings, stop, "text-generation")
    before = _prefix(model, "text-generation") if prefix is None else prefix
    if before:
        length = len(_tokens_of(model, before, add_special_tokens=bool(add_special_tokens)))
        chosen = _longer(chosen, length, settings)
    most = settings.get("max_length")
    is_full, found = return_full_text is None or return_full_text, []
    for prompt in items:
        text, continues = _prompt(model, prompt)
        is_plain = isinstance(prompt, str)
        (encoding,) = model.tokenizer.encode(
            [before + text if is_plain else text],
            truncation=truncation_of(None, most) if is_plain else None,
            max_length=most,
            add_special_tokens=add_special_tokens is not False and is_plain,
        )
        start = np.array([encoding.ids or [_start(chosen, model)]], dtype=np.int64)
        tokens = _generated(model, TextDecoder(model.part), start, chosen, streamer)
        shown = len(model.tokenizer.decode(encoding.ids, skip_special_tokens=True, clean_up=True))
        answers = (model.tokenizer.decode(row, skip_special_tokens=True, clean_up=True)[shown:] for row in tokens)
        found.append([{"generated_text": _whole(prompt, one, continues) if is_full else one} for one in answers])
    return found if is_list else found[0]


def transform(
    model: Model,
    inputs: Any,
    *,
    truncation: bool | str | None = None,
    stop_sequence: str | None = None,
    streamer: Streamer | None = None,
    **settings: Any,
) -> Any:
    """Return the texts that an encoder-decoder model generates from texts.

    Args:
        inputs: A text, or a list of texts.
        truncation: Whether, or how, texts are truncated to the token limit of the model.
        stop_sequence: A text whose first token ends the result.
        streamer: Called with each new piece of the text.
        **settings: As in `complete`.

    Returns:
        For a text a list of `{"generated_text": str}`. For a list of texts one object for each, or a list for each if
        `num_return_sequences` is greater than 1.
    """
    items, is_list = listed(inputs)
    stop = None if stop_sequence is None else _tokens_of(model, stop_sequence)[:1]
    chosen = _settings(model, _TRANSFORMING, settings, stop, "text2text-generation")
    before = _prefix(model, "text2text-generation")
    encodings = model.tokenizer.encode(
        [f"{before}{text}" if isinstance(text, str) else text for text in items],
        truncation=truncation_of(truncation),
    )
    encoder = next((part for name, part in model.parts.items() if "encoder_model" in name), None)
    if encoder is None:
        raise WrongTaskError(f"{model.source.name} has no encoder file. Export the model again.")
    found = []
    for encoding in encodings:
        arrays = feeds(encoder, model.tokenizer.arrays([encoding]))
        rows = max(chosen.num_beams, chosen.num_return_sequences)
        name = next(iter(encoder.outputs))
        states = np.repeat(output_of(encoder.run(arrays), name, (1, None, None), encoder.path), rows, axis=0)
        mask = np.ones((rows, len(encoding)), dtype=np.int64)
        start = np.array([[_start(chosen, model)]], dtype=np.int64)
        tokens = _generated(model, EncoderDecoder(model.parts, states, mask), start, chosen, streamer)
        found.append(
            [
                {"generated_text": model.tokenizer.decode(row, skip_special_tokens=True, clean_up=False)}
                for row in tokens
            ]
        )
    if is_list and all(len(one) == 1 for one in found):
        return [one[0] for one in found]
    return found if is_list else found[0]


def _settings(
    model: Model,
    pipeline: Mapping[str, Any],
    given: Mapping[str, Any],
    stop: Sequence[int] | None,
    task: str,
) -> GenerationSettings:
    own = model.source.generation_config()
    arguments = {**given, **({} if stop is None else {"eos_token_id": stop})}
    found = settings_of(own, model.config, pipeline, arguments, model.source.name, task)
    return replace(found, pad_token_id=model.tokenizer.ids.get("pad_token")) if found.pad_token_id is None else found


def _tokens_of(model: Model, text: str, *, add_special_tokens: bool = False) -> list[int]:
    (encoding,) = model.tokenizer.encode([text], add_special_tokens=add_special_tokens)
    if not encoding.ids:
        raise ArgumentError(f"{text!r} has no tokens.")
    found: list[int] = encoding.ids
    return found


def _prefix(model: Model, task: str) -> str:
    """Return the prefix for each text in the config; empty without one."""
    found = task_params(model.config, task).get("prefix", model.config.get("prefix"))
    return found if isinstance(found, str) else ""


def _longer(settings: GenerationSettings, length: int, given: Mapping[str, Any]) -> GenerationSettings:
    """Return the settings for prompts with a prefix of `length` tokens. Limits of the new text do not change."""
    if "max_new_tokens" not in given:
        settings = replace(settings, max_length=settings.max_length + length)
    if "min_new_tokens" not in given and "min_length" in given:
        settings = replace(settings, min_length=settings.min_length + length)
    return settings


def _start(settings: GenerationSettings, model: Model) -> int:
    """Return the start token of a text."""
    for token in (settings.decoder_start_token_id, settings.bos_token_id):
        if token is not None:
            return token
    raise PreprocessorLoadError(
        f"The generation config of {model.source.name} has no start token. Use the argument bos_token_id=."
    )


def _prompt(model: Model, prompt: Prompt) -> tuple[str, bool]:
    """Return the text of a prompt, and whether its last message is continued."""
    if isinstance(prompt, str):
        return prompt, False
    template = model.tokenizer.chat_template.get("default")
    if template is None:
        raise PreprocessorLoadError(f"{model.source.name} has no chat template. Use a text as prompt.")
    messages = list(prompt)
    continues = bool(messages) and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant"
    return rendered(template, messages, model.tokenizer.special, continues=continues), continues


def _whole(prompt: Prompt, answer: str, continues: bool) -> Any:
    if isinstance(prompt, str):
        return prompt + answer
    messages = [dict(one) for one in prompt]
    if continues:
        return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + answer}]
    return [*messages, {"role": "assistant", "content": answer}]


def _generated(
    model: Model, decoder: Decoder, start: NDArray[np.int64], settings: GenerationSettings, streamer: Streamer | None
) -> list[list[int]]:
    if streamer is not None and (settings.num_beams > 1 or settings.num_return_sequences > 1):
        raise ArgumentError("A streamer needs a single text; use num_beams=1 and num_return_sequences=1.")
    length = start.shape[1]
    if settings.limit(length) <= length:
        raise ArgumentError(
            f"The prompt has {length} tokens, but max_length is {settings.limit(length)}. Use a larger max_length, or "
            "max_new_tokens."
        )
    pieces = _Pieces(model.tokenizer, streamer) if streamer is not None else None
    stop = _stopping(model.tokenizer, settings)
    tokens = generate(decoder, start, settings, stop, pieces.add if pieces is not None else None)
    if pieces is not None:
        pieces.end()
    found: list[list[int]] = tokens.tolist()
    return found


class _Pieces:
    """Sends new text to a streamer after each token; incomplete characters wait."""

    def __init__(self, tokenizer: Tokenizer, streamer: Streamer) -> None:
        self._tokenizer, self._streamer = tokenizer, streamer
        self._tokens: list[int] = []
        self._shown = 0

    def add(self, token: int) -> None:
        self._tokens.append(token)
        text = self._text()
        if not text.endswith(_UNFINISHED):
            self._show(text)

    def end(self) -> None:
        self._show(self._text())

    def _text(self) -> str:
        return self._tokenizer.decode(self._tokens, skip_special_tokens=True)

    def _show(self, text: str) -> None:
        if len(text) > self._shown:
            self._streamer(text[self._shown :])
            self._shown = len(text)


def _stopping(tokenizer: Tokenizer, settings: GenerationSettings) -> Callable[[NDArray[np.int64]], bool]:
    """Return a function that checks whether the last token completes one of `stop_strings`."""
    given = settings.stop_strings
    stops = [given] if isinstance(given, str) else list(given or ())
    if not stops:
        return lambda tokens: False
    longest = max(map(len, stops)) + 1

    def ends(tokens: NDArray[np.int64]) -> bool:
        tail = tokens[-longest:].tolist()
        before, whole = tokenizer.decode(tail[:-1]), tokenizer.decode(tail)
        return any((at := whole.rfind(stop)) >= 0 and at + len(stop) > len(before) for stop in stops)

    return ends
