"""Vectors of texts: of tokens, as `FeatureExtractionPipeline` of transformers gives them, and of sentences.

The vector of a sentence is made by the modules that `modules.json` of its model names, as sentence_transformers runs
them. A module that is not known here is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, ConfigLoadError, MissingDependencyError, WrongTaskError
from optimum_htp.libraries.names import CONFIG, SENTENCE_MODULES, WEIGHTS
from optimum_htp.parsing import is_inside
from optimum_htp.runtime.texts import Run, batches, listed, results, runs, truncation_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from optimum_htp.runtime.model import Model

__all__ = ["encode", "features", "similarities"]

Vector = "NDArray[np.float32]"
Module = Callable[[Any], Any]

_SETTINGS: Final = "config_sentence_transformers.json"
_LENGTHS: Final = "sentence_bert_config.json"
_OWN_MODULES: Final = "sentence_transformers."
_POOLED: Final = "sentence_embedding"
_TOKENS: Final = ("last_hidden_state", "token_embeddings")
_BATCH: Final = 32
_TINY: Final = 1e-9


def features(model: Model, inputs: Any, *, truncation: bool | str | None = None, batch_size: int = 1) -> Any:
    """Return what a model gives for each token of texts: for each text nested lists of shape (1, token, size).

    Args:
        model: The model.
        inputs: A text, or a list of texts.
        truncation: Whether, or how, texts are cut to what the model takes.
        batch_size: How many texts are run at once.
    """
    items, is_list = listed(inputs)
    encodings = model.tokenizer.encode(items, truncation=truncation_of(truncation))
    name = next(iter(model.part.outputs))
    found = []
    for run in runs(model, encodings, batch_size):
        if name not in run.outputs:
            raise WrongTaskError(f"{run.path} gives {name} that is not of texts. Use run(...).")
        found.append([run.outputs[name].tolist()])  # with what pads it in its batch, as in transformers
    return results(found, is_list)


def similarities(model: Model, source: str, sentences: str | Sequence[str], **options: Any) -> Any:
    """Return how like sentences are to one: for each a number, of the kind that the model names (cosine, if none).

    Args:
        model: The model.
        source: The sentence.
        sentences: The sentences that it is compared with, or one of them.
        **options: Of `encode`.
    """
    items, is_list = listed(sentences)
    vectors = encode(model, [source, *items], **options)
    settings = model.source.json(_SETTINGS, _SETTINGS, needed=False) or {}
    kind = settings.get("similarity_fn_name") or "cosine"
    first, others = vectors[0], vectors[1:]
    if kind == "cosine":
        found = others @ first / np.maximum(np.linalg.norm(others, axis=1) * np.linalg.norm(first), _TINY)
    elif kind in ("dot", "dot_product"):
        found = others @ first
    elif kind == "euclidean":
        found = -np.linalg.norm(others - first, axis=1)
    elif kind == "manhattan":
        found = -np.abs(others - first).sum(axis=1)
    else:
        raise ConfigLoadError(f"{_SETTINGS} of {model.source.name} names the similarity {kind!r}, which is not known.")
    return results(found.tolist(), is_list)


def encode(
    model: Model,
    texts: str | Sequence[str],
    *,
    prompt: str | None = None,
    prompt_name: str | None = None,
    normalize_embeddings: bool = False,
    batch_size: int = _BATCH,
) -> NDArray[Any]:
    """Return the vectors of texts, as `SentenceTransformer.encode` does.

    Args:
        model: The model.
        texts: A text, or a list of texts.
        prompt: What is put before each text.
        prompt_name: The prompt of the model that is put there; None for the one that it names, if it does.
        normalize_embeddings: Whether the vectors get the length 1.
        batch_size: How many texts are run at once.

    Returns:
        An array of shape (size,) for a text, (text, size) for a list.

    Raises:
        ConfigLoadError: It is not a model of sentence_transformers, or has a module that is not known here.
        ArgumentError: It has no prompt of that name, or an input is no text.
    """
    items, is_list = listed(texts)
    before = _prompt(model, prompt, prompt_name)
    lengths = model.source.json(_LENGTHS, _LENGTHS, needed=False) or {}
    lowers = lengths.get("do_lower_case") is True
    if not all(isinstance(item, str) for item in items):
        raise ArgumentError("Vectors are made of texts: give a text, or a list of texts.")
    cleaned = [(before + item).strip() for item in items]
    encodings = model.tokenizer.encode(
        [text.lower() for text in cleaned] if lowers else cleaned,
        truncation="longest_first",
        max_length=_longest(model, lengths),
    )
    order = sorted(range(len(items)), key=lambda index: -len(encodings[index]))
    pooled = None if _POOLED in model.part.outputs else _modules(model, bool(before))
    found: list[Any] = [None] * len(items)
    for batch in batches(order, batch_size):
        for index, run in zip(batch, runs(model, [encodings[one] for one in batch], batch_size), strict=True):
            vector = run.outputs[_POOLED] if pooled is None else pooled(run)
            found[index] = vector / max(float(np.linalg.norm(vector)), 1e-12) if normalize_embeddings else vector
    vectors: NDArray[Any] = np.stack(found) if found else np.zeros((0, 0), np.float32)
    return vectors if is_list else vectors[0]


def _longest(model: Model, lengths: Mapping[str, Any]) -> int | None:
    """Return the most tokens of a text, as the Transformer module of sentence_transformers finds it."""
    named = lengths.get("max_seq_length")
    if isinstance(named, int):
        return named
    positions = model.config.get("max_position_embeddings")
    if isinstance(positions, int) and model.tokenizer.longest is not None:
        return min(positions, model.tokenizer.longest)
    return model.tokenizer.longest


def _prompt(model: Model, prompt: str | None, name: str | None) -> str:
    if prompt is not None:
        return prompt
    settings = model.source.json(_SETTINGS, _SETTINGS, needed=False) or {}
    name = name or settings.get("default_prompt_name")
    if name is None:
        return ""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts.get(name), str):
        raise ArgumentError(f"{model.source.name} has no prompt {name!r}: it has {', '.join(prompts) or 'none'}.")
    return str(prompts[name])


def _modules(model: Model, has_prompt: bool) -> Callable[[Run], Any]:
    """Return what makes the vector of a text of what the model gives for it."""
    listing = model.source.json_list(SENTENCE_MODULES)
    if listing is None:
        raise ConfigLoadError(
            f"{model.source.name} has no {SENTENCE_MODULES}, so nothing says how it makes vectors of sentences. Call "
            "the model for vectors of tokens, or export a model of sentence_transformers."
        )
    kinds = [_kind(model, one) for one in listing]
    output = next((name for name in _TOKENS if name in model.part.outputs), next(iter(model.part.outputs)))
    if len(kinds) < 2 or kinds[0][0] != "Transformer" or kinds[1][0] != "Pooling":
        raise _unknown(model, kinds[1][0] if len(kinds) > 1 else "a missing Pooling")
    pool = _pooling(model, kinds[1][1], has_prompt)
    later = [_module(model, kind, path) for kind, path in kinds[2:]]

    def vector(run: Run) -> Any:
        found = pool(run.tokens(output).astype(np.float32), np.array(run.encoding.attention_mask))
        for module in later:
            found = module(found)
        return found

    return vector


def _kind(model: Model, content: Any) -> tuple[str, str]:
    """Return the class and the folder of a module in the list.

    Raises:
        ConfigLoadError: It is not from sentence_transformers, or its folder is outside the model's.
    """
    kind, path = (content.get("type"), content.get("path")) if isinstance(content, dict) else (None, None)
    if not isinstance(kind, str) or not kind.startswith(_OWN_MODULES):
        raise _unknown(model, f"the module {kind}")
    if not isinstance(path, str) or not (path == "" or is_inside(path)):
        raise _unknown(model, f"the folder {path!r}")
    return kind.rpartition(".")[2], path


def _unknown(model: Model, what: str) -> ConfigLoadError:
    return ConfigLoadError(
        f"{SENTENCE_MODULES} of {model.source.name} has {what}, which is not known here. Load the model with "
        f"SentenceTransformer({model.source.name!r}, backend='onnx')."
    )


def _settings(model: Model, path: str) -> dict[str, Any]:
    name = str(PurePosixPath(path, CONFIG))
    return model.source.json(name, name, needed=False) or {}


def _pooling(model: Model, path: str, has_prompt: bool) -> Callable[[Any, Any], Any]:
    settings = _settings(model, path)
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
    modes = modes or [mode for key, mode in _OLD_MODES.items() if settings.get(key) is True]
    if not settings or not modes or (unknown := [mode for mode in modes if mode not in _POOLS]):
        raise _unknown(model, f"the pooling {unknown[0]!r}" if modes and settings else "a Pooling without a config")
    if has_prompt and settings.get("include_prompt") is False:
        raise _unknown(model, "a Pooling that leaves the prompt out")
    pools = [_POOLS[mode] for mode in modes]
    return lambda tokens, mask: np.concatenate([pool(tokens, mask) for pool in pools])


# Of configs before sentence_transformers 5.4, in the order in which several are put together.
_OLD_MODES: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _weighted(tokens: Any, mask: Any) -> Any:
    weights = np.arange(1, len(tokens) + 1, dtype=np.float32)[:, None] * mask[:, None]
    return (tokens * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), _TINY)


def _sums(tokens: Any, mask: Any) -> tuple[Any, Any]:
    weights = mask[:, None].astype(np.float32)
    return (tokens * weights).sum(axis=0), np.maximum(weights.sum(axis=0), _TINY)


def _mean(tokens: Any, mask: Any) -> Any:
    total, count = _sums(tokens, mask)
    return total / count


def _mean_of_root(tokens: Any, mask: Any) -> Any:
    total, count = _sums(tokens, mask)
    return total / np.sqrt(count)


_POOLS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "cls": lambda tokens, mask: tokens[0],
    "max": lambda tokens, mask: np.where(mask[:, None] == 0, -1e9, tokens).max(axis=0),
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_of_root,
    "weightedmean": _weighted,
    "lasttoken": lambda tokens, mask: tokens[np.flatnonzero(mask)[-1]],
}
"""Poolings by name."""


def _module(model: Model, kind: str, path: str) -> Module:
    if kind == "Normalize":
        return lambda vector: vector / max(float(np.linalg.norm(vector)), 1e-12)
    if kind == "Dense":
        return _dense(model, path)
    raise _unknown(model, f"the module {kind}")


_ACTIVATIONS: Final[Mapping[str, Module]] = {
    "Tanh": np.tanh,
    "Identity": lambda value: value,
    "ReLU": lambda value: np.maximum(value, 0),
    "Sigmoid": lambda value: 1 / (1 + np.exp(-value)),
}


def _dense(model: Model, path: str) -> Module:
    settings, name = _settings(model, path), str(PurePosixPath(path, WEIGHTS))
    activation = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if activation not in _ACTIVATIONS:
        raise _unknown(model, f"a Dense with the activation {activation}")
    file = model.source.file(name)
    if file is None:
        raise ConfigLoadError(
            f"{model.source.name} does not carry the weights of the module {path}: copy {name} of its model beside it."
        )
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingDependencyError(f"Reading {file} needs safetensors. Run `pip install safetensors`.") from error
    weights = load_file(file)
    matrix, bias, activate = weights["linear.weight"], weights.get("linear.bias"), _ACTIVATIONS[activation]
    return lambda vector: activate(vector @ matrix.T if bias is None else vector @ matrix.T + bias)
