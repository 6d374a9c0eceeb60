"""Stamping 200 files of other exporters, against a loop of onnx.load and onnx.save over them.

    python -m benchmarks.injecting [--quick] [--json]

Ours is the real command, including its start, with an empty cache. The peer is one process with `onnx` imported. It
writes one property into each file and syncs it, as our command does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.pairs import empty_hub, traffic
from benchmarks.rows import Row, main, paired, single

FILES = 200


def loop(paths: list[Path]) -> None:
    import onnx

    for path in paths:
        model = onnx.load(path)
        model.metadata_props.add(key="hf_hub_id", value="bench/bert")
        onnx.save(model, path)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def rows(quick: bool) -> Iterator[Row]:
    count, rounds = (40, 1) if quick else (FILES, 3)
    with empty_hub() as (hub, home):
        from optimum_htp import HTPExporter, strip_metadata
        from tests.support import models

        model = models.bert(home / "bert", hidden=256)
        hub.add("bench/bert", model, pipeline_tag="text-classification")
        file = HTPExporter().export("bench/bert", home / "out", task="text-classification", hierarchy=False).files[0]
        strip_metadata(file)
        size = f"{file.stat().st_size / 1e6:.0f} MB"
        pairs = []
        for _ in range(rounds):
            places = {who: home / who for who in ("ours", "theirs")}
            for place in places.values():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                for index in range(count):
                    shutil.copy(file, place / f"{index:03}.onnx")
            os.sync()
            start = time.perf_counter()
            with traffic(hub) as sent:
                subprocess.run(
                    [
                        *(
                            sys.executable,
                            "-m",
                            "optimum.commands.optimum_cli",
                            "htp",
                            "inject",
                            "--model",
                            "bench/bert",
                        ),
                        *sorted(places["ours"].iterdir()),
                    ],
                    env={**os.environ, "HF_HOME": str(places["ours"] / "home")},
                    capture_output=True,
                    check=True,
                )
            middle = time.perf_counter()
            loop(sorted(places["theirs"].iterdir()))
            pairs.append((middle - start, time.perf_counter() - middle))
        against = "a loop of onnx.load + onnx.save"
        yield paired(f"inject {count} files of {size}", pairs, against, target=1.0)
        yield single(
            f"inject {count} files: requests", sent.requests, count, "one for each file", unit="requests", target=0.5
        )


if __name__ == "__main__":
    main(__doc__, rows)
