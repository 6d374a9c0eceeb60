"""Breaks in exporting: how a model's forward is called, and what caches it takes and returns."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import mends, mentions
from optimum_htp.hooks.newest.generating import CACHE, PAST, legacy_of_cache
from optimum_htp.hooks.patching import Call, replace_attribute, wrap_attribute, wrap_function

_PATCHER: Final = "optimum.exporters.onnx.model_patcher"
_SAVED: Final = "_optimum_htp_forward"
_IMAGE_SIZE: Final = "image_size"
_SAVED_SIZE: Final = "_optimum_htp_image_size"
# What classes of Optimum read of an image processor.
_SIZES: Final = {"Dinov2DummyInputGenerator": "crop_size", "DummyVisionStaticInputGenerator": "size"}


@mends(
    "optimum.exporters.onnx.convert", "optimum.onnxruntime.modeling_decoder", "optimum.onnxruntime.modeling_seq2seq"
)
def removed_generation_parameters(module: ModuleType) -> bool:
    """`PretrainedConfig._get_non_default_generation_parameters` was removed.

    transformers 5 moves such parameters out of a model's config when it loads one, so there are none left.
    Needless once optimum-onnx does not call it with transformers 5 (its newest commit does not).
    """
    from transformers import PretrainedConfig

    name = "_get_non_default_generation_parameters"
    callers = [getattr(module, "onnx_export_from_model", None)]
    for owner in _classes(module):
        callers.append(vars(owner).get("_from_pretrained"))
    present = getattr(PretrainedConfig, name, _no_parameters)
    if present is not _no_parameters or not any(mentions(caller, name) for caller in callers):
        return False
    replace_attribute(PretrainedConfig, name, _no_parameters)
    return True


@mends(_PATCHER)
def decorated_forward(module: ModuleType) -> bool:
    """Decorators of a model's forward refuse the positional arguments that tracing gives them.

    Tracing passes every input by position. In transformers 5 a forward has several decorators, which set `use_cache`
    and others by name a second time; optimum-onnx removes the outermost one only. Also, the argument and the output
    `past_key_values` are called `cache` now. So the patcher is given a forward that takes the old name, calls the
    model by names only, and returns the old name.
    Needless once ModelPatcher calls the decorated forward by names, and knows `cache`.
    """
    if mentions(module.ModelPatcher.__init__, CACHE) or not _has_cache_field():
        return False
    wrap_attribute(module.ModelPatcher, "__init__", _patching)
    wrap_attribute(module.ModelPatcher, "__exit__", _restoring)
    return True


@mends(_PATCHER)
def removed_legacy_caches(module: ModuleType) -> bool:
    """`from_legacy_cache` and `to_legacy_cache` of caches were removed.

    Needless once model_patcher.py makes caches with their constructors (its newest commit does).
    """
    if hasattr(module.DynamicCache, "from_legacy_cache") or not _calls_legacy(module):
        return False
    replace_attribute(module, "preprocess_past_key_values", _cache_of_legacy)
    postprocess = module.postprocess_past_key_values

    @functools.wraps(postprocess)
    def postprocess_past_key_values(past_key_values: Any, output_names: list[str]) -> Any:
        return postprocess(legacy_of_cache(past_key_values), output_names)

    replace_attribute(module, "postprocess_past_key_values", postprocess_past_key_values)
    return True


@mends(_PATCHER)
def more_arguments_of_layer_update(module: ModuleType) -> bool:
    """`DynamicLayer.update` gets `kwargs=`, which the function that replaces it in an export refuses.

    Needless once patched_dynamic_layer_update takes `*args, **kwargs`.
    """
    original = getattr(module, "patched_dynamic_layer_update", None)
    if original is None or _takes_anything(original) or not _takes_anything(module.DynamicLayer.update):
        return False

    @functools.wraps(original)
    def patched_dynamic_layer_update(self: Any, key_states: Any, value_states: Any, *_: Any, **__: Any) -> Any:
        return original(self, key_states, value_states)

    replace_attribute(module, "patched_dynamic_layer_update", patched_dynamic_layer_update)
    return True


@mends("optimum.exporters.onnx.convert")
def cache_use_left_in_configs(module: ModuleType) -> bool:
    """An export leaves `use_cache` switched on in the config of an encoder, which then refuses to run.

    Encoders of transformers 4 did not look at it. So the configs get their values back.
    Needless once ModelPatcher gives them back when it is left.
    """
    wrap_function(module, "onnx_export_from_model", _keeping_configs)
    return True


@mends("optimum.exporters.onnx.model_configs")
def moved_text_config(module: ModuleType) -> bool:
    """The config of ColPali has no `text_config` any more: `vlm_config` has it.

    Needless once ColPaliOnnxConfig looks for it there.
    """
    from transformers import ColPaliConfig

    exporter = getattr(module, "ColPaliOnnxConfig", None)
    normalized: Any = getattr(exporter, "NORMALIZED_CONFIG_CLASS", None)
    is_named = getattr(normalized, "keywords", {}).get("text_config") == "text_config"
    if not is_named or "text_config" in inspect.signature(ColPaliConfig.__init__).parameters:
        return False
    moved = functools.partial(normalized, text_config="vlm_config.text_config")
    replace_attribute(exporter, "NORMALIZED_CONFIG_CLASS", moved)
    return True


@mends("optimum.exporters.onnx.model_configs")
def sizes_of_image_processors(module: ModuleType) -> bool:
    """Image processors have a `size` and a `crop_size` that may be None, where those of transformers 4 have none.

    Optimum reads them for the images that it traces a model with.
    Needless once Dinov2DummyInputGenerator and DummyVisionStaticInputGenerator look for None.
    """
    from optimum.utils import input_generators

    found = [(item, name) for item, name in _SIZES.items() if hasattr(input_generators, item)]
    for item, name in found:
        wrap_attribute(getattr(input_generators, item), "__init__", functools.partial(_initialized, name))
    return bool(found)


@mends("optimum.exporters.onnx.model_configs")
def moved_check_of_image_sizes(module: ModuleType) -> bool:
    """ViT compares the size of images in its embeddings, so that an export by dynamo refuses open sizes.

    With transformers 4 its patch embeddings do, and optimum-onnx's newest commit takes the check out of these (0.1.0
    does not export by dynamo).
    Needless once ViTForImageClassificationPatcher takes it out of ViTEmbeddings.
    """
    exporter = getattr(module, "ViTForImageClassificationPatcher", None)
    if exporter is None:
        return False
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    if not mentions(ViTEmbeddings.forward, _IMAGE_SIZE):
        return False
    wrap_attribute(exporter, "__enter__", functools.partial(_taking_any_size, ViTEmbeddings))
    wrap_attribute(exporter, "__exit__", functools.partial(_taking_own_sizes, ViTEmbeddings))
    return True


def _taking_any_size(kind: type, call: Call) -> Any:
    """Answer `__enter__` of a patcher: the modules of a kind refuse no image for its size."""
    for part in call.args[0]._model.modules():
        if isinstance(part, kind):
            setattr(part, _SAVED_SIZE, getattr(part, _IMAGE_SIZE))
            setattr(part, _IMAGE_SIZE, (_AnySize(), _AnySize()))
    return call.pass_on()


def _taking_own_sizes(kind: type, call: Call) -> Any:
    """Answer `__exit__` of a patcher: the modules of a kind get back what they had."""
    for part in call.args[0]._model.modules():
        if isinstance(part, kind):
            setattr(part, _IMAGE_SIZE, vars(part).pop(_SAVED_SIZE))
    return call.pass_on()


class _AnySize:
    """Is equal to every size."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


def _initialized(name: str, call: Call) -> None:
    """Answer `__init__` of a generator of images: their size is the processor's where it has one."""
    from optimum.utils.input_generators import DummyVisionInputGenerator
    from optimum.utils.save_utils import maybe_load_preprocessors

    generator = call.args[0]
    DummyVisionInputGenerator.__init__(*call.args, **call.kwargs)
    for processor in maybe_load_preprocessors(call.get("normalized_config")._name_or_path)[-1:]:
        size = getattr(processor, name, None) or {}
        generator.height = size.get("height", generator.height)
        generator.width = size.get("width", generator.width)


def _no_parameters(self: Any) -> dict[str, Any]:
    return {}


class _Outputs(dict[str, Any]):
    """A model's outputs by their old names, also as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _keeping_configs(call: Call) -> Any:
    """Answer `onnx_export_from_model`: the configs of the model's parts are as they were after it."""
    parts: list[Any] = list(getattr(call.get("model"), "modules", list)())
    configs = {id(part.config): part.config for part in parts if hasattr(getattr(part, "config", None), "use_cache")}
    before = [(config, config.use_cache) for config in configs.values()]
    try:
        return call.pass_on()
    finally:
        for config, use_cache in before:
            config.use_cache = use_cache


def _patching(call: Call) -> Any:
    """Answer `ModelPatcher.__init__`: it finds a forward that can be called in the old way."""
    patcher, model = call.args[0], call.get("model")
    forward = getattr(model, "forward", None)
    classic = _classic_forward(forward) if forward is not None else None
    if classic is None:
        return call.pass_on()
    with_own = vars(model)
    saved = with_own.get("forward")
    model.forward = classic
    try:
        return call.pass_on()
    finally:
        setattr(patcher, _SAVED, saved)
        _give_back(model, saved)


def _restoring(call: Call) -> Any:
    """Answer `ModelPatcher.__exit__`: the model gets its own forward back."""
    patcher = call.args[0]
    result = call.pass_on()
    if hasattr(patcher, _SAVED):
        _give_back(patcher._model, getattr(patcher, _SAVED))
    return result


def _give_back(model: Any, saved: Any) -> None:
    if saved is None:
        vars(model).pop("forward", None)
    else:
        model.forward = saved


def _classic_forward(forward: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a forward with the names that optimum-onnx knows; None where that is what it is."""
    signature = inspect.signature(forward)
    parameters = signature.parameters
    renamed = CACHE in parameters and PAST not in parameters
    if not renamed and not hasattr(forward, "__wrapped__"):
        return None
    if any(item.kind in (item.VAR_POSITIONAL, item.POSITIONAL_ONLY) for item in parameters.values()):
        return None
    names = {PAST: CACHE} if renamed else {}
    presented = signature.replace(
        parameters=[
            item.replace(name=PAST) if renamed and item.name == CACHE else item for item in parameters.values()
        ]
    )
    positions = list(presented.parameters)

    def classic_forward(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(positions, args, strict=False)), **kwargs}
        outputs = forward(**{names.get(name, name): value for name, value in given.items()})
        if renamed and isinstance(outputs, dict):
            return _Outputs((PAST if name == CACHE else name, value) for name, value in outputs.items())
        return outputs

    classic_forward.__signature__ = presented  # type: ignore[attr-defined]
    return classic_forward


def _cache_of_legacy(past_key_values: Any) -> Any:
    """Return the cache of a tuple of layers: two tensors each, or four with cross attention."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    if not isinstance(past_key_values, (list, tuple)) or not isinstance(past_key_values[0], (list, tuple)):
        return past_key_values
    size = len(past_key_values[0])
    if size == 2:
        return DynamicCache(past_key_values)
    if size != 4:
        raise ValueError(f"past_key_values should have either 2 or 4 elements, but it has {size} elements.")
    parts = (DynamicCache([layer[:2] for layer in past_key_values]), [layer[2:] for layer in past_key_values])
    cache = EncoderDecoderCache(parts[0], DynamicCache(parts[1]))
    cache.is_updated = dict.fromkeys(range(len(past_key_values)), True)
    return cache


def _calls_legacy(module: ModuleType) -> bool:
    functions = (module.preprocess_past_key_values, module.postprocess_past_key_values)
    return any(mentions(function, "from_legacy_cache", "to_legacy_cache") for function in functions)


def _takes_anything(function: Any) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def _has_cache_field() -> bool:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    return CACHE in BaseModelOutputWithPast.__dataclass_fields__


def _classes(module: ModuleType) -> list[type]:
    return [item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__]
