"""Store files of this version: `python -m tests.released.make`, once for each release, before its tag.

Makes a folder with the version's name and exports of tiny models, and one with files of the older HTP tools if it
is missing. Next to the files are the configs of the commit and the expected logits.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx

from benchmarks.pairs import empty_hub
from tests.support import models

HERE = Path(__file__).parent
OLDER = "modelexport-0.1"
# Their values are older than the first release; they store eight characters of the commit.
PROPERTIES = {
    "hf_model_type": "hub",
    "hf_export_version": "0.1.0",
    "hf_export_timestamp": "2025-01-31T12:00:00.123456",
    "hf_downloads": "100",
    "hf_likes": "5",
    "hf_private": "False",
    "hf_gated": "False",
    "hf_pipeline_tag": "text-classification",
    "hf_library_name": "transformers",
}


def logits(file: Path) -> Any:
    """Return the output of a file's model for a sentence, loaded by name alone."""
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(file)("the cat sat", return_tensors="pt")
    return ORTModelForSequenceClassification.from_pretrained(file)(**inputs).logits.tolist()


def main() -> None:
    os.environ["SOURCE_DATE_EPOCH"] = "1700000000"
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory() as name:
        from optimum_htp import HTPExporter, __version__, strip_metadata

        source = models.bert(Path(name) / "bert")
        repo = hub.add("tiny/bert", source, pipeline_tag="text-classification", library_name="transformers")
        commit = repo.refs["main"]
        folder = HERE / __version__
        shutil.rmtree(folder, ignore_errors=True)
        HTPExporter().export("tiny/bert", folder / "hub", task="text-classification")
        HTPExporter().export("tiny/bert", folder / "hub-bare", task="text-classification", embed="none")
        HTPExporter().export(source, folder / "local", task="text-classification")
        for config in [path for path in (folder / "local").iterdir() if path.suffix != ".onnx"]:
            config.unlink()  # the file alone contains it too
        expected = logits(folder / "hub" / "model.onnx")
        places = [folder]
        if not (HERE / OLDER).exists():
            places.append(HERE / OLDER)
            (HERE / OLDER / "hub").mkdir(parents=True)
            path = HERE / OLDER / "hub" / "model.onnx"
            strip_metadata(folder / "hub" / "model.onnx", path)
            proto = onnx.load(path)
            known = {"hf_hub_id": "tiny/bert", "hf_hub_revision": commit[:8], **PROPERTIES}
            onnx.helper.set_model_props(proto, known)
            proto.producer_name, proto.producer_version = "ModelExport-HTP", "0.1.0"
            proto.domain = "com.modelexport.htp"
            proto.doc_string = f"Exported from HuggingFace model: tiny/bert\nRevision: {commit[:8]}"
            onnx.save(proto, path)
        for place in places:
            shutil.copytree(source, place / "repo", dirs_exist_ok=True)
            about = {"repo": "tiny/bert", "commit": commit, "logits": expected}
            (place / "expected.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
