"""`python -m tests.support.requirements [EXTRA]`: the requirements of this package, without Optimum's packages.

Those are installed with --no-deps if transformers is newer than optimum-onnx permits.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

_NAME = re.compile(r"[\w.-]+")
_OWN = "optimum-htp["


def requirements(extra: str | None) -> list[str]:
    """Return the requirements in pyproject.toml, with those of an extra and of the extras in it."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    found, wanted = list(project["dependencies"]), [extra] if extra else []
    while wanted:
        for item in project["optional-dependencies"][wanted.pop()]:
            if item.startswith(_OWN):
                wanted += item[len(_OWN) : -1].split(",")
            else:
                found.append(item)
    return [item for item in found if _NAME.match(item)[0] not in ("optimum", "optimum-onnx")]


if __name__ == "__main__":
    print("\n".join(requirements(*sys.argv[1:2] or [None])))
