"""Models of one layer for transformers' own exporters: each layer more takes the same time again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support import models
from tests.support.zoo import ZOO

_LAYERS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")


@dataclass(frozen=True)
class Traced:
    """A model that is exported by transformers.

    Attributes:
        model: The name of its class.
        make: Saves it with a number of layers.
        pipeline_tag: Of its repo.
    """

    model: str
    make: Callable[[Path], object]
    pipeline_tag: str

    def save(self, folder: Path) -> None:
        """Save the model with one layer."""
        import transformers

        self.make(folder)
        config = transformers.AutoConfig.from_pretrained(folder)
        one = {name: 1 for name in _LAYERS if hasattr(config, name)}
        getattr(transformers, self.model).from_pretrained(folder, **one).save_pretrained(folder)


MODELS = {
    "bert": Traced("BertForSequenceClassification", models.bert, "text-classification"),
    "gpt2": Traced("GPT2LMHeadModel", models.gpt2, "text-generation"),
    "t5": Traced("T5ForConditionalGeneration", models.t5, "text2text-generation"),
    "whisper": Traced("WhisperForConditionalGeneration", ZOO["whisper"].save, "automatic-speech-recognition"),
}


def export(name: str, repo_id: str, folder: Path) -> None:
    """Export a model of the Hub. The classifier is exported by the command line; its output is next to the folder."""
    from optimum_htp import HTPExporter
    from tests.conftest import optimum_cli

    if name != "bert":
        HTPExporter().export(repo_id, folder, engine="transformers")
        return
    done = optimum_cli("export", "htp", "-m", repo_id, "--engine", "transformers", "--json", folder)
    folder.with_name(f"{folder.name}.json").write_text(done.stdout)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def says_nothing_of_this_machine(path):
    import transformers

    content = path.read_bytes()
    places = (sys.prefix, str(Path(transformers.__file__).parent), str(Path.home()), str(Path.cwd()), "site-packages")
    return not any(place.encode() in content for place in places)


def changed(source, target, name, change):
    """A copy of a model with other values of one weight."""
    import onnx

    model = onnx.load(source)
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, target)
    return target
