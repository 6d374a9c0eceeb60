"""`htp info` shows the origin of local and remote files."""

from __future__ import annotations

import json

from tests.conftest import optimum_cli


def test_info_of_several_files_and_of_a_file_on_a_hub(exported, hub, empty_home):
    hub.add("org/shipped", {"m.onnx": (exported("bert") / "model.onnx").read_bytes()})
    done = optimum_cli("htp", "info", exported("t5"), "hf://org/shipped/m.onnx", "--json", **empty_home)
    document = json.loads(done.stdout)
    assert [one["record"]["hub_id"] for one in document["files"]] == ["tiny/t5"] * 4 + ["tiny/bert"]
    encoder = next(one for one in document["files"] if "encoder" in one["file"])
    assert [one["name"] for one in encoder["graph"]["inputs"]] == ["input_ids", "attention_mask"]
    assert encoder["graph"]["nodes"] > 10
