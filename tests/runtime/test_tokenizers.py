"""The tokens match those of AutoTokenizer, for every class in the table."""

from __future__ import annotations

import inspect
import json

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from optimum_htp.errors import PreprocessorLoadError
from optimum_htp.runtime.tokenizer_classes import CLASS_OF_MODEL_TYPE, CLASSES, Rule, base_name
from optimum_htp.runtime.tokenizer_files import load_tokenizer

TEXTS = [
    "The big cat sat on the mat.",
    "Ünïcödé, TABS\tand  two spaces ! don't you 're",
    "",
    "日本 and cat<mask>sat [MASK] </s><s>",
    " the  cat",
    "a" * 30,
]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
CLASSIC = transformers.__version__ < "5"


def words():
    vocab = [
        "[UNK]",
        "the",
        "big",
        "cat",
        "sat",
        "on",
        "mat",
        ".",
        "!",
        "do",
        "##n",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
    ]
    made = Tokenizer(models.WordPiece({text: index for index, text in enumerate(vocab)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: index for index, text in enumerate([*alphabet, "th", "the", "Ġthe", "ca", "cat", "Ġc", "Ġcat"])}
    made = Tokenizer(models.BPE(vocab, [("t", "h"), ("th", "e"), ("Ġ", "the"), ("c", "a"), ("ca", "t"), ("Ġ", "cat")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def pieces():
    vocab = [("<unk>", 0.0), ("▁the", -2.0), ("▁cat", -2.5), ("▁", -3.0), *((c, -5.0) for c in [*LETTERS, *".,!'TB"])]
    made = Tokenizer(models.Unigram(vocab, unk_id=0))
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


def kind(name):
    known = CLASSES[name]
    if known.rule is Rule.NORMALIZER or name == "PreTrained":
        return words
    return (
        byte_level
        if known.rule is Rule.OFFSETS or name in ("GPT2", "GPTNeoX", "Qwen2", "CodeGen", "Deberta")
        else pieces
    )


def special_processor(made, known):
    """Add the special tokens of a class, as in its tokenizer.json."""
    from tokenizers import AddedToken

    for name, text in known.special.items():
        made.add_special_tokens([AddedToken(text, lstrip=name == "mask_token" and known.wide_mask, special=True)])
    first, last = known.special.get("cls_token"), known.special.get("sep_token")
    if first is None or last is None:
        return
    ids = {text: made.token_to_id(text) for text in (first, last)}
    if known.rule is Rule.OFFSETS:
        made.post_processor = processors.RobertaProcessing((last, ids[last]), (first, ids[first]), trim_offsets=False)
    else:
        made.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}", pair=f"{first} $A {last} $B:1 {last}:1", special_tokens=list(ids.items())
        )


def saved(name, folder, **settings):
    """Save tokenizer.json and tokenizer_config.json of a class, as on the Hub."""
    made, known = kind(name)(), CLASSES[name]
    special_processor(made, known)
    made.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": f"{name}Tokenizer{'Fast' if name == 'PreTrained' else ''}", "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, **settings}))
    return folder


def loaded(folder, config=None):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return load_tokenizer(files, config or {}, "model.onnx")


def assert_same(folder):
    expected, found = transformers.AutoTokenizer.from_pretrained(folder), loaded(folder)
    assert expected.padding_side == found.padding_side
    assert set(expected.model_input_names) == set(found.input_names)
    for special, token in found.ids.items():
        assert getattr(expected, f"{special}_id") == token, special
    pairs = [(one, other) for one in TEXTS[:3] for other in TEXTS[3:]]
    for batch in (TEXTS, pairs):
        ours = found.encode(batch)
        for one, text in zip(ours, batch, strict=True):
            theirs = expected(*((text,) if isinstance(text, str) else text), return_offsets_mapping=True)
            assert one.ids == theirs["input_ids"], text
            assert one.offsets == theirs["offset_mapping"], text
            if "token_type_ids" in theirs and "token_type_ids" in found.input_names:
                assert one.type_ids == theirs["token_type_ids"], text
        for one in ours:
            for skip in (True, False):
                assert found.decode(one.ids, skip_special_tokens=skip) == expected.decode(
                    one.ids, skip_special_tokens=skip
                )
    if "pad_token" in found.ids:
        theirs = expected(TEXTS, padding=True, truncation=True, max_length=9, return_tensors="np")
        ours = found.arrays(found.encode(TEXTS, truncation="longest_first", max_length=9))
        for input_name in ours.keys() & theirs.keys():
            assert ours[input_name].tolist() == theirs[input_name].tolist(), input_name


of_tokenizer_json = pytest.mark.skipif(
    not CLASSIC, reason="transformers 5 rebuilds known classes from their vocabulary; the reference is tokenizer.json"
)
NAMES = [name for name in CLASSES if name not in ("TokenizersBackend", "RetriBert")]


@of_tokenizer_json
@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_class_match_transformers(name, tmp_path):
    assert_same(saved(name, tmp_path))


@of_tokenizer_json
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Bert", {"do_lower_case": False}),
        ("Bert", {"do_lower_case": True, "strip_accents": False}),
        ("DistilBert", {"tokenize_chinese_chars": False, "padding_side": "left", "truncation_side": "left"}),
        ("Roberta", {"add_prefix_space": True}),
        ("Roberta", {"trim_offsets": False}),
        ("GPT2", {"add_prefix_space": True}),
        ("GPTNeoX", {"add_bos_token": True, "add_eos_token": True}),
        ("Llama", {"add_bos_token": False, "add_eos_token": True}),
        ("Gemma", {"add_eos_token": True}),
        ("Bert", {"clean_up_tokenization_spaces": True}),
        (
            "Bert",
            {
                "mask_token": {
                    "content": "<mask>",
                    "lstrip": True,
                    "rstrip": False,
                    "normalized": False,
                    "single_word": False,
                    "__type": "AddedToken",
                }
            },
        ),
        ("PreTrained", {"pad_token": "[UNK]", "model_input_names": ["input_ids", "attention_mask"]}),
        (
            "PreTrained",
            {
                "added_tokens_decoder": {
                    "0": {
                        "content": "[UNK]",
                        "special": True,
                        "lstrip": False,
                        "rstrip": False,
                        "normalized": False,
                        "single_word": False,
                    },
                    "70": {
                        "content": "<mask>",
                        "special": True,
                        "lstrip": True,
                        "rstrip": False,
                        "normalized": False,
                        "single_word": False,
                    },
                },
                "mask_token": "<mask>",
            },
        ),
        ("Qwen2", {"additional_special_tokens": ["<s>", "</s>"]}),
    ],
)
def test_tokens_with_settings_match_transformers(name, settings, tmp_path):
    assert_same(saved(name, tmp_path, **settings))


def test_class_is_found_by_model_type(tmp_path):
    folder = saved("DistilBert", tmp_path)
    (folder / "tokenizer_config.json").write_text("{}")
    assert loaded(folder, {"model_type": "distilbert"}).input_names == ("input_ids", "attention_mask")
    assert loaded(folder, {"model_type": "bert"}).input_names == ("input_ids", "attention_mask", "token_type_ids")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"tokenizer_class": "NllbTokenizer"}, "NllbTokenizer"),
        ({"tokenizer_class": "LlamaTokenizer", "add_prefix_space": True}, "slow tokenizer"),
        ({"tokenizer_class": "BertTokenizer", "from_slow": True}, "slow tokenizer"),
        ({}, "the class of strange models"),
    ],
)
def test_unsupported_tokenizer_is_rejected(content, reason, tmp_path):
    folder = saved("Bert", tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    with pytest.raises(PreprocessorLoadError, match=reason) as caught:
        loaded(folder, {"model_type": "strange"})
    assert "OptimumONNXModel.from_onnx(" in str(caught.value)


def test_slow_tokenizer_is_rejected(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(PreprocessorLoadError, match="slow tokenizer"):
        loaded(tmp_path)


def test_damaged_tokenizer_is_rejected(tmp_path):
    folder = saved("Bert", tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(PreprocessorLoadError, match=r"tokenizer\.json of model\.onnx cannot be read"):
        loaded(folder)


@pytest.mark.skipif(not CLASSIC, reason="the table contains the classes of transformers 4.57")
@pytest.mark.parametrize("name", NAMES)
def test_table_matches_the_installed_class(name):
    cls, known = getattr(transformers, f"{name}TokenizerFast"), CLASSES[name]
    parameters = inspect.signature(cls.__init__).parameters.values()
    special = {
        one.name: one.default for one in parameters if one.name.endswith("_token") and isinstance(one.default, str)
    }
    assert special == dict(known.special)
    assert known.padding_side == cls.padding_side
    assert ("token_type_ids" in cls.model_input_names) == known.types
    assert ("attention_mask" in cls.model_input_names) == known.masks
    assert ("lstrip=True" in inspect.getsource(cls.__init__)) == known.wide_mask


@pytest.mark.skipif(not CLASSIC, reason="the table contains the classes of transformers 4.57")
@pytest.mark.parametrize("model_type", CLASS_OF_MODEL_TYPE)
def test_classes_of_model_types_match_transformers(model_type):
    names = TOKENIZER_MAPPING_NAMES[model_type]
    assert CLASS_OF_MODEL_TYPE[model_type] in [base_name(one) for one in names if one is not None]
