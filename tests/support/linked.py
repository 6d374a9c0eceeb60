"""A new virtual environment with exactly the versions in a requirements file, from this one instead of an index.

The files of each distribution are linked, so nothing else can be imported there: neither this package nor a missing
dependency.
"""

from __future__ import annotations

import sysconfig
import venv
from collections import Counter
from importlib import metadata
from pathlib import Path


def linked_environment(folder: Path, requirements: Path) -> Path:
    """Make the environment; return its interpreter.

    Raises:
        AssertionError: The file names another version than the one here.
    """
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    distributions = []
    for line in requirements.read_text().splitlines():
        if line and not line.startswith(("#", "-")):
            name, version = line.split("==")
            distributions.append(metadata.distribution(name))
            assert distributions[-1].version.partition("+")[0] == version
    homes = Counter(home for one in distributions for home in {file.parts[0] for file in one.files or ()})
    linked = set()
    for one in distributions:
        for file in one.files or ():
            # The folder of one distribution is linked; files in shared folders (`optimum`) are linked one by one.
            place = Path(file.parts[0]) if homes[file.parts[0]] == 1 and one.name != "optimum-onnx" else Path(file)
            if place in linked or place.parts[0] == ".." or "__pycache__" in place.parts:
                continue
            linked.add(place)
            (site / place).parent.mkdir(parents=True, exist_ok=True)
            (site / place).symlink_to(Path(str(one.locate_file(place))).resolve())
    return folder / "bin" / "python"
