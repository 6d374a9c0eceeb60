"""Breaks in `generate` of Optimum's models: missing methods, cache objects and attention masks."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import bridges, mentions
from optimum_htp.hooks.patching import Call, classes_of, replace_attribute, wrap_attribute

__all__ = ["CACHE", "PAST", "fill_cache", "is_empty", "legacy_of_cache", "new_cache"]

CACHE: Final = "cache"
PAST: Final = "past_key_values"
_GENERATING: Final = ("optimum.onnxruntime.modeling_decoder", "optimum.onnxruntime.modeling_seq2seq")
_FORWARD: Final = "forward"
_PREPARE: Final = "_prepare_cache_for_generation"
_REORDER: Final = "_reorder_cache"
_ENCODE: Final = "_maybe_prepare_encoder_kwargs_for_generation"
_MASK: Final = "attention_mask"
# Models of old exporters whose cache tensors are not (batch, heads, length, size). Their caches stay tuples.
_OTHER_LAYOUTS: Final = ("old_bloom_modeling", "old_gpt_bigcode_modeling")


@bridges("optimum.onnxruntime.modeling")
def methods_that_generate_calls(module: ModuleType) -> bool:
    """`generate` calls methods of PreTrainedModel that ORTModel does not have.

    Obsolete once ORTModel has them.
    """
    from transformers import GenerationMixin, PreTrainedModel

    answers = {
        "is_remote_code": classmethod(lambda cls: False),
        "get_experts_implementation": lambda self: {},
        "set_experts_implementation": lambda self, implementation: None,
    }
    added = False
    for name, answer in answers.items():
        if not hasattr(PreTrainedModel, name) or hasattr(GenerationMixin, name) or hasattr(module.ORTModel, name):
            continue
        replace_attribute(module.ORTModel, name, answer)
        added = True
    return added


@bridges("optimum.onnxruntime.modeling")
def modalities_that_pipelines_show(module: ModuleType) -> bool:
    """`repr` of a pipeline reads `model.input_modalities`, which ORTModel does not have.

    Obsolete once ORTModel has it.
    """
    from transformers import PreTrainedModel

    name = "input_modalities"
    if not hasattr(PreTrainedModel, name) or hasattr(module.ORTModel, name):
        return False
    replace_attribute(module.ORTModel, name, property(_input_modality))
    return True


@bridges(*_GENERATING)
def cache_objects_in_generate(module: ModuleType) -> bool:
    """`generate` keeps a cache object, passes it as `cache`, and reads it from the outputs.

    ORTModels take and return tuples of tensors, named `past_key_values`. So `generate` starts with an empty cache
    object. A forward that gets a cache object unpacks it, and stores its output in the same object. Other calls of
    forward return tuples as before.
    Obsolete once forward takes and returns cache objects named `cache`.
    """
    from transformers import GenerationMixin

    if CACHE not in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters:
        return False
    owners = [owner for owner in classes_of(module) if issubclass(owner, GenerationMixin)]
    if any(
        CACHE in inspect.signature(vars(owner)[_FORWARD]).parameters for owner in owners if _FORWARD in vars(owner)
    ):
        return False
    for owner in owners:
        for name, hook in (
            (_FORWARD, _hook_forward),
            (_PREPARE, _hook_prepare_cache),
            (_REORDER, _hook_reorder_cache),
        ):
            if name in vars(owner):
                wrap_attribute(owner, name, hook)
    return True


@bridges("optimum.onnxruntime.modeling_decoder")
def dropped_attention_mask(module: ModuleType) -> bool:
    """`generate` drops an attention mask of ones, which an ONNX file can have as an input.

    Obsolete once ORTModelForCausalLM makes the mask for files with this input.
    """
    from transformers import GenerationMixin

    if not mentions(GenerationMixin.generate, "_mask_length"):
        return False
    wrap_attribute(module.ORTModelForCausalLM, "prepare_inputs_for_generation", _hook_prepare_inputs)
    return True


@bridges("optimum.onnxruntime.modeling_seq2seq")
def no_attention_mask_for_encoders(module: ModuleType) -> bool:
    """`generate` makes no attention mask for encoder-decoder models, which an ONNX file can have as an input.

    Obsolete once ORTModelForConditionalGeneration makes the mask for files with this input.
    """
    owner = module.ORTModelForConditionalGeneration
    original = getattr(owner, _ENCODE, None)
    if original is None or _ENCODE in vars(owner):
        return False

    def with_mask(self: Any, inputs_tensor: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        import torch

        needed = _MASK in self.encoder.input_names or "encoder_attention_mask" in self.decoder.input_names
        if needed and model_kwargs.get(_MASK) is None:
            shape, device = inputs_tensor.shape[:2], inputs_tensor.device
            model_kwargs = {**model_kwargs, _MASK: torch.ones(shape, dtype=torch.long, device=device)}
        return original(self, inputs_tensor, model_kwargs, *args, **kwargs)

    replace_attribute(owner, _ENCODE, with_mask)
    return True


def _input_modality(model: Any) -> str:
    names = {"pixel_values": "image", "input_values": "audio", "input_features": "audio"}
    given = getattr(model, "main_input_name", None) or next(iter(model.input_names), "")
    return names.get(given, "text")


def _hook_forward(call: Call) -> Any:
    """Hook of `forward`: accepts `cache`, and fills and returns a given cache object."""
    cache = call.kwargs.get(CACHE)
    if cache is None:
        cache = call.get(PAST)
    is_object = hasattr(cache, "get_seq_length")
    if not is_object and call.kwargs.get(CACHE) is None:
        return call.pass_on()
    past = legacy_of_cache(cache) if not is_object or not is_empty(cache) else None
    outputs = call.pass_on_with(call.subject, (CACHE,), **{PAST: past})
    layers = outputs.get(CACHE)
    if is_object and isinstance(layers, tuple):
        fill_cache(cache, layers)
        outputs[CACHE] = cache
    return outputs


def _hook_prepare_inputs(call: Call) -> Any:
    """Hook of `prepare_inputs_for_generation`: adds an attention mask of ones."""
    import torch

    model, inputs = call.args[0], call.pass_on()
    tokens, cache = inputs.get("input_ids"), inputs.get(CACHE)
    if inputs.get(_MASK) is not None or tokens is None or _MASK not in model.input_names:
        return inputs
    past = cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache[0][1].shape[-2] if cache else 0
    inputs[_MASK] = torch.ones((tokens.shape[0], past + tokens.shape[1]), dtype=torch.long, device=tokens.device)
    return inputs


def _hook_prepare_cache(call: Call) -> Any:
    """Hook of `_prepare_cache_for_generation`: starts with an empty cache object."""
    model = call.args[0]
    generation_config, model_kwargs = (*call.args[1:3], None, None)[:2]
    if not isinstance(model_kwargs, dict) or generation_config.use_cache is False or not model.can_use_cache:
        return call.pass_on()
    if any(getattr(model, name, False) for name in _OTHER_LAYOUTS):
        return call.pass_on()
    if model_kwargs.get(CACHE) is None:
        model_kwargs[CACHE] = new_cache(with_cross_attention=model.config.is_encoder_decoder)
    return None


def _hook_reorder_cache(call: Call) -> Any:
    """Hook of `_reorder_cache`: calls the method of the cache object."""
    cache = call.get(PAST)
    if not hasattr(cache, "reorder_cache"):
        return call.pass_on()
    cache.reorder_cache(call.get("beam_idx"))
    return cache


def legacy_of_cache(cache: Any) -> Any:
    """Return the layers of a cache object as a tuple of tuples of tensors. Other values are returned unchanged."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    if isinstance(cache, EncoderDecoderCache):
        halves = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=False)
        return tuple((own.keys, own.values, cross.keys, cross.values) for own, cross in halves)
    if isinstance(cache, DynamicCache):
        return tuple((layer.keys, layer.values) for layer in cache.layers)
    return cache


def new_cache(*, with_cross_attention: bool) -> Any:
    """Return an empty cache with layers that keep all tokens."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache()) if with_cross_attention else DynamicCache()


def is_empty(cache: Any) -> bool:
    """Whether a cache contains no tensors."""
    own = getattr(cache, "self_attention_cache", cache)
    return not any(layer.is_initialized for layer in own.layers)


def fill_cache(cache: Any, layers: tuple[tuple[Any, ...], ...]) -> None:
    """Replace the tensors of a cache, without copies."""
    cross = getattr(cache, "cross_attention_cache", None)
    _fill(getattr(cache, "self_attention_cache", cache), [layer[:2] for layer in layers])
    if cross is not None:
        _fill(cross, [layer[2:] for layer in layers])
        cache.is_updated = dict.fromkeys(range(len(layers)), True)


def _fill(cache: Any, layers: list[tuple[Any, ...]]) -> None:
    from transformers.cache_utils import DynamicLayer

    while len(cache.layers) < len(layers):
        cache.layers.append(DynamicLayer())
    for layer, (keys, values) in zip(cache.layers, layers, strict=False):
        if not layer.is_initialized:
            layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
