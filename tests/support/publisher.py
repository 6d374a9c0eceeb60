"""A process that publishes the files of a folder, and can be stopped at any rename.

`python -m tests.support.publisher SOURCE OUTPUT [--rounds N] [--at RENAME {kill,interrupt,fail}] [--hold]`
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from optimum_htp.onnxfile import read_metadata
from optimum_htp.onnxfile.replace_files import Watch
from optimum_htp.onnxfile.staging import publish, staging_folder

PARTS = ("decoder_model.onnx", "decoder_with_past_model.onnx", "encoder_model.onnx")


def write_model(folder: Path, version: str, names: Sequence[str] = PARTS) -> Path:
    """Write a stamped model of several files, and its config."""
    folder.mkdir(parents=True)
    value = helper.make_tensor_value_info
    for name in names:
        graph = helper.make_graph(
            [helper.make_node("Relu", ["x"], ["y"])],
            "part",
            [value("x", TensorProto.FLOAT, ["batch", 2])],
            [value("y", TensorProto.FLOAT, ["batch", 2])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        record = {
            "hf_model_type": "local",
            "hf_task": "text2text-generation-with-past",
            "hf_onnx_files": str(list(names)).replace("'", '"'),
            "hf_onnx_file": name,
            "hf_export_id": version,
        }
        helper.set_model_props(model, record)
        (folder / name).parent.mkdir(exist_ok=True)
        onnx.save(model, folder / name)
    (folder / "config.json").write_text(f'"{version}"')
    return folder


def versions(folder: Path, names: Sequence[str] = PARTS, watch: Watch | None = None) -> set[str]:
    """Return the versions of the files in a folder."""
    found = set()
    for name in names:
        if watch is not None:
            watch.see(folder / name)
        found.add(read_metadata(folder / name)["hf_export_id"])
    return found | {(folder / "config.json").read_text().strip('"')}


def publish_copy(source: Path, output: Path) -> None:
    """Publish a copy of a folder as an export is published."""
    with staging_folder(output) as staging:
        shutil.copytree(source, staging / "output")
        publish(staging / "output", output)


def _stop_at(rename: int, how: str) -> None:
    seen = 0

    def hook(event: str, _: object) -> None:
        nonlocal seen
        if event != "os.rename":
            return
        seen += 1
        if seen == rename:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt if how == "interrupt" else OSError(5, "made to fail")

    sys.addaudithook(hook)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--at", nargs=2)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    if given.at:
        _stop_at(int(given.at[0]), given.at[1])
    if given.hold:
        with staging_folder(given.output) as staging:
            print(staging.name, flush=True)
            sys.stdin.read()
        return
    print("ready", flush=True)
    for _ in range(given.rounds):
        publish_copy(given.source, given.output)


if __name__ == "__main__":
    main()
