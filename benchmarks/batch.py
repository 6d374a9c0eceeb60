"""A batch of tiny models, two at a time, against a shell's loop over `optimum-cli export onnx`.

    python -m benchmarks.batch [--models 12]

Also told: the seconds that a job takes beyond its export, and the requests to the Hub for each file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pairs import empty_hub
from tests.support import models

CLI = Path(sys.executable).with_name("optimum-cli")
KINDS = ("bert", "gpt2", "vit")


def run(*command: object) -> float:
    start = time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(count: int) -> None:
    with empty_hub() as (hub, _), tempfile.TemporaryDirectory() as place:
        names = []
        for index in range(count):
            kind = KINDS[index % len(KINDS)]
            folder = Path(place, "models", kind)
            if not folder.exists():
                folder.mkdir(parents=True)
                getattr(models, kind)(folder)
            hub.add(f"tiny/{kind}-{index}", folder, pipeline_tag=TAGS[kind], library_name="transformers")
            names.append(f"tiny/{kind}-{index}")
        listed, out = Path(place, "models.txt"), Path(place, "out")
        listed.write_text("\n".join(names))
        with hub.recorded() as requests:
            ours = run(CLI, "htp", "batch", listed, out, "--jobs", 2)
        theirs = sum(run(CLI, "export", "onnx", "--model", name, Path(place, "theirs", name)) for name in names)
        ends = [json.loads(line) for line in (out / "batch.jsonl").read_text().splitlines()]
        exports = sum(entry["seconds"] for entry in ends if entry["event"] == "end")
        files = len({request.path for request in requests if "/resolve/" in request.path})
        again = run(CLI, "htp", "batch", listed, out, "--jobs", 2)
    print(f"{count} models: {ours:.1f} s; a loop over optimum-cli export onnx {theirs:.1f} s: {theirs / ours:.2f} x")
    print(f"beyond two exports at a time: {(ours - exports / 2) / count:.2f} s a model; a second run {again:.1f} s")
    more = (len(requests) - 2 * files) / count
    print(f"requests: {len(requests)} for {files} files ({more:.1f} a model beyond two a file)")


TAGS = {"bert": "text-classification", "gpt2": "text-generation", "vit": "image-classification"}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=12)
    main(parser.parse_args().models)
