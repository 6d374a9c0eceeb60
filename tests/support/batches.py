"""The batch command in a process, and its journal."""

from __future__ import annotations

import json

from tests.conftest import run
from tests.support.environments import python_of_users

CLI = python_of_users().with_name("optimum-cli")


def batch(*arguments, check=True, cli=CLI, **env):
    """Run the command in a new process: a batch forks its own."""
    done = run(cli, "htp", "batch", *arguments, "--json", check=check, **env)
    return {model["output"]: model for model in json.loads(done.stdout)["models"]}


def journal(folder):
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text().splitlines()]
