"""README's pictures: `make pictures` creates them.

The page of MiniLM's report in Chromium, light and dark, and its tree in the terminal.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import models
from tests.support.hub import LoopbackHub

REPO = "sentence-transformers/all-MiniLM-L6-v2"
SIZE = {"width": 1200, "height": 800}


def main(target: Path) -> None:
    with LoopbackHub() as hub, tempfile.TemporaryDirectory() as home:
        os.environ.update(HF_ENDPOINT=hub.url, HF_HOME=home, HF_HUB_DISABLE_XET="1", SOURCE_DATE_EPOCH="1764547200")
        hub.add(REPO, models.minilm(), pipeline_tag="sentence-similarity", card={"license": "apache-2.0"})
        cli = [sys.executable, "-m", "optimum.commands.optimum_cli"]
        quiet = {"check": True, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        out = Path(home, "out")
        subprocess.run([*cli, "export", "htp", "--model", REPO, out], **quiet)
        page = out / "report.html"
        subprocess.run([*cli, "htp", "report", out / "model.onnx", "-o", page], **quiet)
        photograph(page, target)
        command = ["htp", "info", "out/model.onnx", "--tree", "--depth", "2"]
        shown = subprocess.run([*cli, *command], cwd=home, check=True, capture_output=True, text=True).stdout
        terminal(f"$ optimum-cli {' '.join(command)}\n{shown}", target / "tree.svg")


def photograph(page: Path, target: Path) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_context(viewport=SIZE, color_scheme=scheme).new_page()
            tab.goto(page.as_uri())
            tab.screenshot(path=target / f"report-{scheme}.png")
        browser.close()


def terminal(text: str, path: Path) -> None:
    from rich.console import Console

    console = Console(record=True, width=max(map(len, text.splitlines())), file=io.StringIO())
    console.print(text, highlight=False, markup=False)
    console.save_svg(str(path), title="optimum-htp", unique_id="tree")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
