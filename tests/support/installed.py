"""Environments with an installed wheel of this package."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import run
from tests.support.environments import NOT_NEEDED, linked


class Environment:
    """A virtual environment with the requirements of this package, but without this package."""

    def __init__(self, folder: Path) -> None:
        ours = ("optimum_htp", "_editable", "__editable__")
        # These files are in Optimum's namespace.
        self.site_packages = linked(folder, copied=("optimum",), leaving_out=(*ours, *NOT_NEEDED))
        self.python = folder / "bin" / "python"
        for path in self.site_packages.glob("optimum/**/register_htp.py"):
            path.unlink()

    def install(self, wheel: Path) -> None:
        run(sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps", "--no-index", wheel)

    def run(self, code: str, check: bool = True, **env: str):
        return run(self.python, "-c", code, cwd=self.site_packages.parent, check=check, **env)

    def cli(self, *arguments: str, check: bool = True, **env: str):
        start = "from optimum.commands.optimum_cli import main; main()"
        return self.run(f"import sys; sys.argv = {['optimum-cli', *arguments]!r}; {start}", check=check, **env)
