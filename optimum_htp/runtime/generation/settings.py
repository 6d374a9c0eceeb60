"""Generation settings from the model's generation config, the defaults of the pipeline and the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from typing import Any, Final

from optimum_htp.errors import ArgumentError, ConfigLoadError, OptionError
from optimum_htp.runtime.rejections import check_number, with_optimum

__all__ = ["GenerationSettings", "settings_of", "task_params"]

_DEFAULT_LENGTH: Final = 20  # tokens
_MOST_ROWS: Final = 1000
# Settings without effect on the result.
_IGNORED: Final = frozenset(
    (
        *("_from_model_config", "cache_implementation", "cache_config", "use_cache", "transformers_version"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("return_legacy_cache", "compile_config", "disable_compile", "low_memory", "is_assistant"),
        *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
        *("trust_remote_code", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind"),
        *("max_matching_ngram_size", "prompt_lookup_num_tokens", "prefill_chunk_size", "chat_format"),
    )
)

# Unsupported settings, with the values that have no effect.
_NEUTRAL: Final = {
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "top_h": None,
    "typical_p": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """The supported settings of transformers' `GenerationConfig`, with the same names and defaults."""

    max_length: int = _DEFAULT_LENGTH
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: bool | str = False
    length_penalty: float = 1.0
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    pad_token_id: int | None = None
    decoder_start_token_id: int | None = None
    stop_strings: str | Sequence[str] | None = None
    seed: int | None = None
    """Seed of numpy's random numbers. transformers uses PyTorch's."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return _listed(self.eos_token_id)

    @property
    def padding(self) -> int:
        """The token after the end of a text that is shorter than others."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.ends[0] if self.ends else 0

    def limit(self, prompt: int) -> int:
        """Return the maximum length of a text, including a prompt of `prompt` tokens."""
        return self.max_length if self.max_new_tokens is None else prompt + self.max_new_tokens

    def least(self, prompt: int) -> int:
        """Return the minimum length of a text, including a prompt of `prompt` tokens."""
        return self.min_length if self.min_new_tokens is None else max(self.min_length, prompt + self.min_new_tokens)


def _listed(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() < 63


def _is_size(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _are_integers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_integer, value))


_CHECKS: Final[Mapping[tuple[str, ...], Callable[[Any], bool]]] = {
    ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences"): _is_size,
    ("top_k", "no_repeat_ngram_size", "seed"): _is_size,
    ("length_penalty", "temperature", "top_p", "min_p", "repetition_penalty"): _is_number,
    ("forced_bos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"): _is_integer,
    ("eos_token_id", "forced_eos_token_id"): lambda value: _is_integer(value) or _are_integers(value),
    ("suppress_tokens", "begin_suppress_tokens"): _are_integers,
    ("bad_words_ids",): lambda value: (
        isinstance(value, (list, tuple)) and all(_are_integers(one) and len(one) > 0 for one in value)
    ),
    ("stop_strings",): lambda value: (
        all(isinstance(one, str) and one for one in ([value] if isinstance(value, str) else value))
        if isinstance(value, (str, list, tuple))
        else False
    ),
    ("early_stopping",): lambda value: isinstance(value, bool) or value == "never",
}
"""Checks of values. None is also valid if it is the default."""

_KNOWN: Final = {one.name: one.default for one in fields(GenerationSettings)}


def settings_of(
    config: Mapping[str, Any],
    model_config: Mapping[str, Any],
    pipeline: Mapping[str, Any],
    given: Mapping[str, Any],
    name: str,
    task: str,
) -> GenerationSettings:
    """Return the settings of a call, merged as in transformers' pipelines.

    Args:
        config: The model's generation config; empty if it has none.
        model_config: The model's config, which contains the settings of older models.
        pipeline: Defaults of the pipeline.
        given: Arguments of the call.
        name: The model's file, for messages.
        task: The task of the pipeline, for `task_specific_params` and messages.

    Raises:
        OptionError: An argument is unsupported.
        ConfigLoadError: The model's config has an unsupported setting.
        ArgumentError: A value is invalid, or two values contradict each other.
    """
    if unknown := sorted(given.keys() - _KNOWN.keys()):
        raise OptionError(
            f"{unknown[0]}= is not supported; supported are {', '.join(_KNOWN)}. {with_optimum(name, task)}"
        )
    own = config or {key: value for key, value in model_config.items() if key in _KNOWN or key in _NEUTRAL}
    special = task_params(model_config, task)
    if unsupported := sorted(
        key
        for key, value in (*own.items(), *((key, special[key]) for key in special.keys() & _NEUTRAL.keys()))
        if key not in _KNOWN and key not in _IGNORED and value and value != _NEUTRAL.get(key)
    ):
        raise ConfigLoadError(
            f"The generation config of {name} sets {unsupported[0]}, which is not supported. "
            f"{with_optimum(name, task)}"
        )
    values = {key: value for key, value in own.items() if key in _KNOWN and value is not None}
    values.update(pipeline)
    if values.get("max_length", _DEFAULT_LENGTH) != _DEFAULT_LENGTH and "max_new_tokens" in pipeline:
        values.pop("max_new_tokens")
    values.update((key, value) for key, value in special.items() if key in _KNOWN)
    values.update(given)
    if values.get("max_new_tokens") is None and values.get("max_length", _DEFAULT_LENGTH) == _DEFAULT_LENGTH:
        values["max_new_tokens"] = None if given.get("max_length") is not None else _DEFAULT_LENGTH
    return _checked(GenerationSettings(**values), with_optimum(name, task))


def task_params(model_config: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return the `task_specific_params` of an older model's config: settings, and a `prefix` for texts."""
    found = model_config.get("task_specific_params")
    found = found.get(task) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _checked(settings: GenerationSettings, alternative: str) -> GenerationSettings:
    """Return the settings after checks."""
    for names, is_valid in _CHECKS.items():
        for key in names:
            value = getattr(settings, key)
            if not is_valid(value) and (value is not None or _KNOWN[key] is not None):
                raise ArgumentError(f"{key}={value!r} is invalid.")
    for key in ("max_length", "num_beams", "num_return_sequences", "max_new_tokens"):
        check_number(key, getattr(settings, key), 1)
    if max(settings.num_beams, settings.num_return_sequences) > _MOST_ROWS:
        raise ArgumentError(f"num_beams and num_return_sequences must be at most {_MOST_ROWS} here. {alternative}")
    if settings.temperature == 0:
        settings = replace(settings, do_sample=False, temperature=1.0)
    if not settings.temperature > 0 or not settings.repetition_penalty > 0:
        raise ArgumentError("temperature and repetition_penalty must be greater than 0.")
    if settings.do_sample and not all(
        0 <= value <= 1 for value in (settings.top_p, settings.min_p) if value is not None
    ):
        raise ArgumentError("top_p and min_p must be between 0 and 1.")
    if settings.do_sample and settings.num_beams > 1:
        raise ArgumentError(
            f"Beam search with sampling is not supported; use num_beams=1 or do_sample=False. {alternative}"
        )
    if settings.num_return_sequences > settings.num_beams and not settings.do_sample:
        raise ArgumentError(
            f"num_return_sequences={settings.num_return_sequences} needs do_sample=True or at least as many num_beams."
        )
    return settings
