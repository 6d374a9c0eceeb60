"""`make demo`: the main use from end to end, with a local Hub and without a network.

It publishes a tiny model on a Hub on this machine, exports it with the real command, and loads the file in a new
process with an empty cache, with Optimum's own class.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import models
from tests.support.hub import LoopbackHub

REPO = "demo/tiny-bert"
LOAD = """
from optimum.onnxruntime import ORTModelForSequenceClassification
import torch

model = ORTModelForSequenceClassification.from_pretrained("out/model.onnx")
logits = model(input_ids=torch.tensor([[2, 7, 8, 9, 3]]), attention_mask=torch.ones(1, 5, dtype=torch.long)).logits
print(type(model).__name__, "answers", model.config.id2label[logits.argmax().item()])
print("logits", [round(value, 4) for value in logits[0].tolist()])
"""
COMPARE = """
from transformers import AutoModelForSequenceClassification
import sys, torch

model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
logits = model(input_ids=torch.tensor([[2, 7, 8, 9, 3]])).logits
print("logits", [round(value, 4) for value in logits[0].tolist()])
"""


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


def main() -> None:
    cli = str(Path(sys.executable).with_name("optimum-cli"))
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as scratch:
        folder = models.bert(Path(scratch) / "model")
        hub.add(REPO, folder, pipeline_tag="text-classification", library_name="transformers", card={"license": "mit"})
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
        env["HF_HUB_DISABLE_XET"] = "1"

        def run(*command: str, cache: str) -> None:
            subprocess.run(command, env={**env, "HF_HOME": str(Path(scratch) / cache)}, check=True)

        say(f"A Hub on this machine ({hub.url}) has the model {REPO}.")
        say(f"$ optimum-cli export htp --model {REPO} out/")
        run(cli, "export", "htp", "--model", REPO, "out", cache="first")
        say("$ ls out")
        run("ls", "out", cache="first")
        say("$ optimum-cli htp info out/model.onnx --tree --depth 4")
        run(cli, "htp", "info", "out/model.onnx", "--tree", "--depth", "4", cache="first")
        say("A new process with an empty cache loads the file through Optimum's own class:")
        print(LOAD, flush=True)
        run(sys.executable, "-c", LOAD, cache="second")
        say("The output of PyTorch for the same input:")
        run(sys.executable, "-c", COMPARE, str(folder), cache="third")


if __name__ == "__main__":
    main()
