"""How text is generated: the model's generation config, the defaults of the pipeline and the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, Final

from optimum_htp.errors import ArgumentError, ConfigLoadError, OptionError

__all__ = ["GenerationSettings", "settings_of", "task_params"]

_DEFAULT_LENGTH: Final = 20  # tokens
_MOST_ROWS: Final = 1000
# What the answer does not depend on.
_IGNORED: Final = frozenset(
    (
        *("_from_model_config", "cache_implementation", "cache_config", "use_cache", "transformers_version"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"),
        *("return_legacy_cache", "compile_config", "disable_compile", "low_memory", "is_assistant"),
        *(
            "num_assistant_tokens",
            "num_assistant_tokens_schedule",
            "assistant_confidence_threshold",
            "trust_remote_code",
        ),
        *("assistant_early_exit", "assistant_lookbehind", "target_lookbehind", "max_matching_ngram_size"),
        *("prompt_lookup_num_tokens", "prefill_chunk_size", "chat_format"),
    )
)

# Settings that are not known here, with the values that change nothing.
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
    """The settings of `GenerationConfig` of transformers that are known here, with its names and defaults."""

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
    seed: int | None = field(default=None)
    """Of the random numbers; transformers takes PyTorch's."""

    @property
    def ends(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return _listed(self.eos_token_id)

    @property
    def padding(self) -> int:
        """The token behind the end of a text that is done before others."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.ends[0] if self.ends else 0

    def limit(self, prompt: int) -> int:
        """Return the most tokens of a text with its prompt of so many tokens."""
        return self.max_length if self.max_new_tokens is None else prompt + self.max_new_tokens

    def least(self, prompt: int) -> int:
        """Return the fewest tokens of a text with its prompt of so many tokens."""
        return self.min_length if self.min_new_tokens is None else max(self.min_length, prompt + self.min_new_tokens)


def _listed(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else tuple(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and value.bit_length() < 63


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _are_whole(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(map(_is_whole, value))


_KINDS: Final[Mapping[tuple[str, ...], Callable[[Any], bool]]] = {
    ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "num_return_sequences"): _is_size,
    ("top_k", "no_repeat_ngram_size", "seed"): _is_size,
    ("length_penalty", "temperature", "top_p", "min_p", "repetition_penalty"): _is_number,
    ("forced_bos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id"): _is_whole,
    ("eos_token_id", "forced_eos_token_id"): lambda value: _is_whole(value) or _are_whole(value),
    ("suppress_tokens", "begin_suppress_tokens"): _are_whole,
    ("bad_words_ids",): lambda value: (
        isinstance(value, (list, tuple)) and all(_are_whole(one) and len(one) > 0 for one in value)
    ),
    ("stop_strings",): lambda value: (
        all(isinstance(one, str) and one for one in ([value] if isinstance(value, str) else value))
        if isinstance(value, (str, list, tuple))
        else False
    ),
    ("early_stopping",): lambda value: isinstance(value, bool) or value == "never",
}
"""What tells whether a value is one of these settings; None is one where it is the default."""

_KNOWN: Final = {one.name: one.default for one in fields(GenerationSettings)}


def settings_of(
    config: Mapping[str, Any],
    model_config: Mapping[str, Any],
    pipeline: Mapping[str, Any],
    given: Mapping[str, Any],
    name: str,
    task: str,
) -> GenerationSettings:
    """Return the settings of a call, as the pipelines of transformers find them.

    Args:
        config: The model's generation config; empty for one that has none.
        model_config: The model's config, which has the settings of older models.
        pipeline: What the pipeline sets.
        given: The arguments of the call.
        name: The file that messages name.
        task: The pipeline's.

    Raises:
        OptionError: An argument is not known here.
        ConfigLoadError: The model's config has a setting that is not known here.
        ArgumentError: A number is out of bounds, or contradicts another one.
    """
    if unknown := sorted(given.keys() - _KNOWN.keys()):
        raise OptionError(f"{unknown[0]}= is not known without transformers: {name} takes {', '.join(_KNOWN)}.")
    own = config or {key: value for key, value in model_config.items() if key in _KNOWN or key in _NEUTRAL}
    special = task_params(model_config, task)
    if strange := sorted(
        key
        for key, value in (*own.items(), *((key, special[key]) for key in special.keys() & _NEUTRAL.keys()))
        if key not in _KNOWN and key not in _IGNORED and value and value != _NEUTRAL.get(key)
    ):
        raise ConfigLoadError(
            f"The generation config of {name} sets {strange[0]}, which is not known without transformers. Load the "
            "file with Optimum."
        )
    values = {key: value for key, value in own.items() if key in _KNOWN and value is not None}
    values.update(pipeline)
    if values.get("max_length", _DEFAULT_LENGTH) != _DEFAULT_LENGTH and "max_new_tokens" in pipeline:
        values.pop("max_new_tokens")
    values.update((key, value) for key, value in special.items() if key in _KNOWN)
    values.update((key, value) for key, value in given.items() if key in _KNOWN)
    if values.get("max_new_tokens") is None and values.get("max_length", _DEFAULT_LENGTH) == _DEFAULT_LENGTH:
        values["max_new_tokens"] = None if given.get("max_length") is not None else _DEFAULT_LENGTH
    return _checked(GenerationSettings(**values))


def task_params(model_config: Mapping[str, Any], task: str) -> Mapping[str, Any]:
    """Return what the config of an older model sets for a pipeline: settings, and a `prefix` of texts."""
    found = model_config.get("task_specific_params")
    found = found.get(task) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _checked(settings: GenerationSettings) -> GenerationSettings:
    """Refuse settings that mean nothing.

    Raises:
        ArgumentError: One is out of bounds, or contradicts another one.
    """
    for kinds, is_one in _KINDS.items():
        for key in kinds:
            value = getattr(settings, key)
            if not is_one(value) and (value is not None or _KNOWN[key] is not None):
                raise ArgumentError(f"{key}= does not take {value!r}.")
    for key in ("max_length", "num_beams", "num_return_sequences", "max_new_tokens"):
        value = getattr(settings, key)
        if value is not None and value < 1:
            raise ArgumentError(f"{key}={value!r} has to be a whole number of at least 1.")
    if max(settings.num_beams, settings.num_return_sequences) > _MOST_ROWS:
        raise ArgumentError(f"There are at most {_MOST_ROWS} num_beams and num_return_sequences without transformers.")
    if settings.temperature == 0:
        settings = replace(settings, do_sample=False, temperature=1.0)
    if not settings.temperature > 0 or not settings.repetition_penalty > 0:
        raise ArgumentError("temperature and repetition_penalty have to be above 0.")
    if settings.do_sample and not all(
        0 <= value <= 1 for value in (settings.top_p, settings.min_p) if value is not None
    ):
        raise ArgumentError("top_p and min_p have to be between 0 and 1.")
    if settings.do_sample and settings.num_beams > 1:
        raise ArgumentError(
            "Beams are not sampled without transformers: give num_beams=1, do_sample=False, or use Optimum's pipeline."
        )
    if settings.num_return_sequences > settings.num_beams and not settings.do_sample:
        raise ArgumentError(
            f"num_return_sequences={settings.num_return_sequences} needs do_sample=True, or as many num_beams."
        )
    return settings
