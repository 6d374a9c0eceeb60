"""Configs that name code: of other repos, of folders, and of libraries that must not be imported."""

from __future__ import annotations

import json

TRANSFORMER = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
EVIL = [TRANSFORMER, {**POOLING, "type": "evil/code--evil.Evil"}]


def tree(context):
    """An export.json with this context in the tree of the inputs."""
    spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}
    return {"export_format": "onnx", "components": {"model": {"metadata": {"in_spec": json.dumps([1, spec])}}}}


REFUSED = {
    "module of another repo": ("modules.json", EVIL),
    "module of the standard library": ("modules.json", [{"type": "this.s"}]),
    "module in the folder": ("modules.json", [{"type": "custom_st.Transformer"}]),
    "similar name": ("modules.json", [{"type": "sentence_transformers_evil.models.X"}]),
    "helper of the library": ("modules.json", [{"type": "sentence_transformers.util.misc.importlib"}]),
    "repo behind the library's name": ("modules.json", [{"type": "sentence_transformers.models--evil.X"}]),
    "line break": ("modules.json", [{"type": "sentence_transformers.models.Pooling\n"}]),
    "no type": ("modules.json", [{"path": ""}]),
    "no list": ("modules.json", {"type": "this.s"}),
    "module of a router": ("1_Router/config.json", {"types": {"a": "this.s"}, "structure": {}}),
    "module in router_config": ("1_Router/router_config.json", {"types": {"a": "evil/code--evil.Evil"}}),
    "tokenizer of words": ("0_WordEmbeddings/wordembedding_config.json", {"tokenizer_class": "this.s"}),
    "activation": ("2_Dense/config.json", {"activation_function": "this.s"}),
    "main function of torch": ("2_Dense/config.json", {"activation_function": "torch.utils.collect_env.main"}),
    "activation of a cross encoder": ("config.json", {"sentence_transformers": {"activation_fn": "os.getcwd"}}),
    "older name of that": ("config.json", {"sbert_ce_default_activation_function": "os.getcwd"}),
    "argument": ("sentence_bert_config.json", {"model_args": {"trust_remote_code": True}}),
    "kernel": ("config.json", {"attn_implementation": "evil/kernel"}),
    "kernel of a part": ("config.json", {"text_config": {"_attn_implementation": {"": "evil/kernel@main:f"}}}),
    "library of a pipeline": ("model_index.json", {"scheduler": ["this", "S"]}),
    "library in the folder": ("model_index.json", {"unet": ["my_unet", "Unet"]}),
    "pipeline in the folder": ("model_index.json", {"_class_name": ["pipeline", "Mine"]}),
    "library as a text": ("model_index.json", {"tokenizer": "os"}),
    "module of diffusers where a library is imported": ("model_index.json", {"scheduler": ["stable_diffusion", "S"]}),
    "function of transformers": ("model_index.json", {"tokenizer": ["transformers", "pipeline"]}),
    "adapter": ("adapter_config.json", {"megatron_config": {}, "megatron_core": "this"}),
    "member of an enum in a tree": ("export.json", tree('{"\\u005f_enum__": true, "fqn": "this:s", "name": "x"}')),
    "tree that is nested too deep": ("export.json", tree("[" * 200 + '{"__enum__": 1}' + "]" * 200)),
    "factory in a tree": ("export.json", tree('{"default_factory_module": "this", "default_factory_name": "s"}')),
}
