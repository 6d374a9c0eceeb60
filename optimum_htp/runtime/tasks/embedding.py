"""Embeddings of tokens, as in transformers' `FeatureExtractionPipeline`, and of sentences.

Sentence embeddings are computed by the modules in the `modules.json` of the model, as in sentence_transformers.
Unsupported modules are rejected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, ConfigLoadError, MissingDependencyError, WrongTaskError
from optimum_htp.libraries.names import CONFIG, SENTENCE_MODULES, WEIGHTS
from optimum_htp.parsing import is_inside
from optimum_htp.runtime.rejections import WITH_OPTIMUM
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
    """Return the first output of a model per token.

    Args:
        inputs: A text, or a list of texts.
        truncation: Whether, or how, texts are truncated to the token limit of the model.
        batch_size: Number of texts per run.

    Returns:
        For each text nested lists of shape (1, token, size).
    """
    items, is_list = listed(inputs)
    encodings = model.tokenizer.encode(items, truncation=truncation_of(truncation))
    name = next(iter(model.part.outputs))
    found = []
    for run in runs(model, encodings, batch_size):
        if name not in run.outputs:
            raise WrongTaskError(f"The output {name} of {run.path} has no batch axis. Use run(...).")
        found.append([run.outputs[name].tolist()])  # with the padding of its batch, as in transformers
    return results(found, is_list)


def similarities(model: Model, source: str, sentences: str | Sequence[str], **options: Any) -> Any:
    """Return the similarity of sentences to one sentence.

    Args:
        source: The sentence.
        sentences: A sentence to compare with, or a list of sentences.
        **options: Options of `encode`.

    Returns:
        A number for a sentence, a list of numbers for a list: the similarity function of the model (default: cosine).
    """
    items, is_list = listed(sentences)
    vectors = encode(model, [source, *items], **options)
    settings = model.source.json(_SETTINGS, dict) or {}
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
        raise _unsupported(model, f"the similarity function {kind!r}", _SETTINGS)
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
    """Return the embeddings of texts: the same as `SentenceTransformer.encode`.

    Args:
        texts: A text, or a list of texts.
        prompt: A prefix for each text.
        prompt_name: The name of a prompt of the model; None for its default prompt.
        normalize_embeddings: Whether embeddings are scaled to length 1.
        batch_size: Number of texts per run.

    Returns:
        An array of shape (size,) for a text, (text, size) for a list.
    """
    items, is_list = listed(texts)
    before = _prompt(model, prompt, prompt_name)
    lengths = model.source.json(_LENGTHS, dict) or {}
    lowers = lengths.get("do_lower_case") is True
    if not all(isinstance(item, str) for item in items):
        raise ArgumentError("Embeddings need a text or a list of texts.")
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
            found[index] = _normalized(vector) if normalize_embeddings else vector
    vectors: NDArray[Any] = np.stack(found) if found else np.zeros((0, 0), np.float32)
    return vectors if is_list else vectors[0]


def _longest(model: Model, lengths: Mapping[str, Any]) -> int | None:
    """Return the token limit of a text, as in the Transformer module of sentence_transformers."""
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
    settings = model.source.json(_SETTINGS, dict) or {}
    name = name or settings.get("default_prompt_name")
    if name is None:
        return ""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts.get(name), str):
        raise ArgumentError(f"{model.source.name} has no prompt {name!r}, only {', '.join(prompts) or 'none'}.")
    return str(prompts[name])


def _modules(model: Model, has_prompt: bool) -> Callable[[Run], Any]:
    """Return the function that computes an embedding from the outputs of a run."""
    listing = model.source.json(SENTENCE_MODULES, list)
    if listing is None:
        raise ConfigLoadError(
            f"{model.source.name} has no {SENTENCE_MODULES}, so it has no sentence embeddings. Call the model for "
            "token embeddings, or export a sentence_transformers model."
        )
    kinds = [_kind(model, one) for one in listing]
    output = next((name for name in _TOKENS if name in model.part.outputs), next(iter(model.part.outputs)))
    if len(kinds) < 2 or kinds[0][0] != "Transformer" or kinds[1][0] != "Pooling":
        raise _unsupported(model, f"the module {kinds[1][0]}" if len(kinds) > 1 else "a list without Pooling")
    pool = _pooling(model, kinds[1][1], has_prompt)
    later = [_module(model, kind, path) for kind, path in kinds[2:]]

    def vector(run: Run) -> Any:
        found = pool(run.tokens(output).astype(np.float32), np.array(run.encoding.attention_mask))
        for module in later:
            found = module(found)
        return found

    return vector


def _kind(model: Model, content: Any) -> tuple[str, str]:
    """Return the class name and the folder of a module. Foreign classes and folders outside the model are rejected."""
    kind, path = (content.get("type"), content.get("path")) if isinstance(content, dict) else (None, None)
    if not isinstance(kind, str) or not kind.startswith(_OWN_MODULES):
        raise _unsupported(model, f"the module {kind}")
    if not isinstance(path, str) or not (path == "" or is_inside(path)):
        raise _unsupported(model, f"the folder {path!r}")
    return kind.rpartition(".")[2], path


def _unsupported(model: Model, what: str, file: str = SENTENCE_MODULES) -> ConfigLoadError:
    return ConfigLoadError(
        f"{file} of {model.source.name} has {what}, which is not supported. {WITH_OPTIMUM} "
        f"`sentence_transformers.SentenceTransformer({model.source.name!r}, backend='onnx')`."
    )


def _settings(model: Model, path: str) -> dict[str, Any]:
    name = str(PurePosixPath(path, CONFIG))
    return model.source.json(name, dict) or {}


def _pooling(model: Model, path: str, has_prompt: bool) -> Callable[[Any, Any], Any]:
    settings = _settings(model, path)
    named = settings.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named) if isinstance(named, list) else []
    modes = modes or [mode for key, mode in _OLD_MODES.items() if settings.get(key) is True]
    if not settings or not modes or (unknown := [mode for mode in modes if mode not in _POOLS]):
        raise _unsupported(
            model, f"the pooling {unknown[0]!r}" if modes and settings else "a Pooling without a config"
        )
    if has_prompt and settings.get("include_prompt") is False:
        raise _unsupported(model, "a Pooling that excludes the prompt")
    pools = [_POOLS[mode] for mode in modes]
    return lambda tokens, mask: np.concatenate([pool(tokens, mask) for pool in pools])


# Keys of configs before sentence_transformers 5.4, in the order of concatenation.
_OLD_MODES: Final = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _sums(tokens: Any, weights: Any) -> tuple[Any, Any]:
    column = weights[:, None].astype(np.float32)
    return (tokens * column).sum(axis=0), np.maximum(column.sum(axis=0), _TINY)


def _mean(tokens: Any, weights: Any) -> Any:
    total, count = _sums(tokens, weights)
    return total / count


def _mean_of_root(tokens: Any, mask: Any) -> Any:
    total, count = _sums(tokens, mask)
    return total / np.sqrt(count)


_POOLS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "cls": lambda tokens, mask: tokens[0],
    "max": lambda tokens, mask: np.where(mask[:, None] == 0, -1e9, tokens).max(axis=0),
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_of_root,
    "weightedmean": lambda tokens, mask: _mean(tokens, mask * np.arange(1, len(tokens) + 1)),
    "lasttoken": lambda tokens, mask: tokens[np.flatnonzero(mask)[-1]],
}
"""The pooling functions, by name."""


def _normalized(vector: Any) -> Any:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _module(model: Model, kind: str, path: str) -> Module:
    if kind == "Normalize":
        return _normalized
    if kind == "Dense":
        return _dense(model, path)
    raise _unsupported(model, f"the module {kind}")


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
        raise _unsupported(model, f"a Dense with the activation {activation}")
    file = model.source.file(name)
    if file is None:
        raise ConfigLoadError(
            f"{model.source.name} does not contain the weights of the module {path}. Copy {name} of its model next to "
            "the file."
        )
    try:
        from safetensors.numpy import load_file
    except ImportError as error:
        raise MissingDependencyError(f"Reading {file} needs safetensors. Run `pip install safetensors`.") from error
    weights = load_file(file)
    matrix, bias, activate = weights["linear.weight"], weights.get("linear.bias"), _ACTIVATIONS[activation]
    return lambda vector: activate(vector @ matrix.T if bias is None else vector @ matrix.T + bias)
