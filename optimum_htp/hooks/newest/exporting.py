"""Breaks in exporting: calls of a model's forward, caches, configs and image sizes."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from optimum_htp.hooks.newest.breaks import bridges, mentions
from optimum_htp.hooks.newest.generating import CACHE, PAST, legacy_of_cache
from optimum_htp.hooks.patching import Call, classes_of, replace_attribute, wrap_attribute, wrap_function

_PATCHER: Final = "optimum.exporters.onnx.model_patcher"
_SAVED: Final = "_optimum_htp_forward"
_IMAGE_SIZE: Final = "image_size"
_SAVED_SIZE: Final = "_optimum_htp_image_size"
# The attribute of an image processor that each class of Optimum reads.
_SIZES: Final = {"Dinov2DummyInputGenerator": "crop_size", "DummyVisionStaticInputGenerator": "size"}


@bridges(
    "optimum.exporters.onnx.convert", "optimum.onnxruntime.modeling_decoder", "optimum.onnxruntime.modeling_seq2seq"
)
def removed_generation_parameters(module: ModuleType) -> bool:
    """`PretrainedConfig._get_non_default_generation_parameters` was removed.

    transformers 5 moves these parameters out of a model's config when it loads one, so none are left.
    Obsolete once optimum-onnx does not call it with transformers 5 (its newest commit does not).
    """
    from transformers import PretrainedConfig

    name = "_get_non_default_generation_parameters"
    callers = [getattr(module, "onnx_export_from_model", None)]
    callers += [vars(owner).get("_from_pretrained") for owner in classes_of(module)]
    present = getattr(PretrainedConfig, name, _no_parameters)
    if present is not _no_parameters or not any(mentions(caller, name) for caller in callers):
        return False
    replace_attribute(PretrainedConfig, name, _no_parameters)
    return True


@bridges(_PATCHER)
def decorated_forward(module: ModuleType) -> bool:
    """Decorators of a model's forward reject the positional arguments of tracing.

    Tracing passes every input by position. In transformers 5 a forward has several decorators, which set `use_cache`
    and others by name a second time; optimum-onnx removes only the outermost one. Also, the argument and the output
    `past_key_values` are now called `cache`. So the patcher gets a forward that accepts the old name, calls the model
    by names only, and returns the old name.
    Obsolete once ModelPatcher calls the decorated forward by names, and supports `cache`.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPast

    if mentions(module.ModelPatcher.__init__, CACHE) or CACHE not in BaseModelOutputWithPast.__dataclass_fields__:
        return False
    wrap_attribute(module.ModelPatcher, "__init__", _hook_patcher_init)
    wrap_attribute(module.ModelPatcher, "__exit__", _hook_patcher_exit)
    return True


@bridges(_PATCHER)
def removed_legacy_caches(module: ModuleType) -> bool:
    """`from_legacy_cache` and `to_legacy_cache` of caches were removed.

    Obsolete once model_patcher.py makes caches with their constructors (its newest commit does).
    """
    functions = (module.preprocess_past_key_values, module.postprocess_past_key_values)
    calls_legacy = any(mentions(function, "from_legacy_cache", "to_legacy_cache") for function in functions)
    if hasattr(module.DynamicCache, "from_legacy_cache") or not calls_legacy:
        return False
    replace_attribute(module, "preprocess_past_key_values", _cache_of_legacy)
    postprocess = module.postprocess_past_key_values

    @functools.wraps(postprocess)
    def postprocess_past_key_values(past_key_values: Any, output_names: list[str]) -> Any:
        return postprocess(legacy_of_cache(past_key_values), output_names)

    replace_attribute(module, "postprocess_past_key_values", postprocess_past_key_values)
    return True


@bridges(_PATCHER)
def more_arguments_of_layer_update(module: ModuleType) -> bool:
    """`DynamicLayer.update` gets `kwargs=`, which the function that replaces it in an export rejects.

    Obsolete once patched_dynamic_layer_update takes `*args, **kwargs`.
    """
    original = getattr(module, "patched_dynamic_layer_update", None)
    if original is None or _takes_anything(original) or not _takes_anything(module.DynamicLayer.update):
        return False

    @functools.wraps(original)
    def patched_dynamic_layer_update(self: Any, key_states: Any, value_states: Any, *_: Any, **__: Any) -> Any:
        return original(self, key_states, value_states)

    replace_attribute(module, "patched_dynamic_layer_update", patched_dynamic_layer_update)
    return True


@bridges("optimum.exporters.onnx.convert")
def cache_use_left_in_configs(module: ModuleType) -> bool:
    """An export leaves `use_cache` on in the config of an encoder, which then fails.

    Encoders of transformers 4 ignore the value. So the configs get their values back.
    Obsolete once ModelPatcher restores the values on exit.
    """
    wrap_function(module, "onnx_export_from_model", _hook_export)
    return True


@bridges("optimum.exporters.onnx.model_configs")
def moved_text_config(module: ModuleType) -> bool:
    """`text_config` moved from the config of ColPali into its `vlm_config`.

    Obsolete once ColPaliOnnxConfig reads it there.
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


@bridges("optimum.exporters.onnx.model_configs")
def sizes_of_image_processors(module: ModuleType) -> bool:
    """`size` and `crop_size` of image processors can be None; in transformers 4 the attributes were missing then.

    Optimum reads them for the images with which it traces a model.
    Obsolete once Dinov2DummyInputGenerator and DummyVisionStaticInputGenerator handle None.
    """
    from optimum.utils import input_generators

    found = [(item, name) for item, name in _SIZES.items() if hasattr(input_generators, item)]
    for item, name in found:
        wrap_attribute(getattr(input_generators, item), "__init__", functools.partial(_hook_generator_init, name))
    return bool(found)


@bridges("optimum.exporters.onnx.model_configs")
def moved_check_of_image_sizes(module: ModuleType) -> bool:
    """ViT checks the size of images in its embeddings, so an export by dynamo rejects dynamic sizes.

    In transformers 4 the patch embeddings check it, and optimum-onnx's newest commit removes the check from these
    (0.1.0 does not export by dynamo).
    Obsolete once ViTForImageClassificationPatcher removes the check from ViTEmbeddings.
    """
    exporter = getattr(module, "ViTForImageClassificationPatcher", None)
    if exporter is None:
        return False
    from transformers.models.vit.modeling_vit import ViTEmbeddings

    if not mentions(ViTEmbeddings.forward, _IMAGE_SIZE):
        return False
    wrap_attribute(exporter, "__enter__", functools.partial(_hook_size_check_enter, ViTEmbeddings))
    wrap_attribute(exporter, "__exit__", functools.partial(_hook_size_check_exit, ViTEmbeddings))
    return True


def _hook_size_check_enter(kind: type, call: Call) -> Any:
    """Hook of a patcher's `__enter__`: modules of a class accept images of every size."""
    for part in call.args[0]._model.modules():
        if isinstance(part, kind):
            setattr(part, _SAVED_SIZE, getattr(part, _IMAGE_SIZE))
            setattr(part, _IMAGE_SIZE, (_AnySize(), _AnySize()))
    return call.pass_on()


def _hook_size_check_exit(kind: type, call: Call) -> Any:
    """Hook of a patcher's `__exit__`: modules of a class get their sizes back."""
    for part in call.args[0]._model.modules():
        if isinstance(part, kind):
            setattr(part, _IMAGE_SIZE, vars(part).pop(_SAVED_SIZE))
    return call.pass_on()


class _AnySize:
    """Equals every size."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


def _hook_generator_init(name: str, call: Call) -> None:
    """Hook of an image generator's `__init__`: uses the size of the image processor if it has one."""
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
    """A model's outputs by their old names, as items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _hook_export(call: Call) -> Any:
    """Hook of `onnx_export_from_model`: restores `use_cache` in the configs of the model's modules."""
    parts: list[Any] = list(getattr(call.get("model"), "modules", list)())
    configs = {id(part.config): part.config for part in parts if hasattr(getattr(part, "config", None), "use_cache")}
    before = [(config, config.use_cache) for config in configs.values()]
    try:
        return call.pass_on()
    finally:
        for config, use_cache in before:
            config.use_cache = use_cache


def _hook_patcher_init(call: Call) -> Any:
    """Hook of `ModelPatcher.__init__`: gives the model a forward with the old names."""
    patcher, model = call.args[0], call.get("model")
    forward = getattr(model, "forward", None)
    classic = _classic_forward(forward) if forward is not None else None
    if classic is None:
        return call.pass_on()
    saved = vars(model).get("forward")
    model.forward = classic
    try:
        return call.pass_on()
    finally:
        setattr(patcher, _SAVED, saved)
        _restore_forward(model, saved)


def _hook_patcher_exit(call: Call) -> Any:
    """Hook of `ModelPatcher.__exit__`: gives the model its own forward back."""
    patcher = call.args[0]
    result = call.pass_on()
    if hasattr(patcher, _SAVED):
        _restore_forward(patcher._model, getattr(patcher, _SAVED))
    return result


def _restore_forward(model: Any, saved: Any) -> None:
    if saved is None:
        vars(model).pop("forward", None)
    else:
        model.forward = saved


def _classic_forward(forward: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return a forward with the names that optimum-onnx uses, or None if the forward has them."""
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
    """Return a cache object for a tuple of layers (two tensors each, or four with cross attention)."""
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


def _takes_anything(function: Any) -> bool:
    return any(item.kind is item.VAR_KEYWORD for item in inspect.signature(function).parameters.values())
