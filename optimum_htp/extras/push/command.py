"""`optimum-cli htp push DIR|FILE... REPO`, and `--push-to-hub` of export and inject."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import amount, show, show_json
from optimum_htp.cli.options import add_hub_arguments, add_json_argument, hub_access
from optimum_htp.commands import Destination
from optimum_htp.extras.push import LAYOUTS, OPTIMUM

__all__ = ["PushCommand", "PushDestination", "add_push_options", "privacy"]


class PushCommand(Command):
    """Uploads files, their configs and a model card to a repo, in one commit."""

    examples = (
        "htp push out/ me/tiny-bert-onnx",
        "htp push out/ me/tiny-bert-onnx --create-pr --json",
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="ONNX files with a record, or folders of them.")
        parser.add_argument("repo", metavar="REPO", help="Repo on the Hub (ORG/NAME); created if missing.")
        add_push_options(parser)
        parser.add_argument("--message", help='Message of the commit (default: "Add" and the file names).')
        add_json_argument(parser)
        add_hub_arguments(parser)

    def execute(self) -> None:
        """Push, and print the URL of the repo."""
        from optimum_htp.extras.push.pushing import push

        done = push(
            self.args.files,
            self.args.repo,
            private=privacy(self.args),
            create_pr=self.args.create_pr,
            layout=self.args.layout,
            message=self.args.message,
            access=hub_access(self.args),
        )
        if self.args.json:
            show_json(dataclasses.asdict(done))
            return
        for line in PushDestination().lines(dataclasses.asdict(done)):
            show(line)


class PushDestination(Destination):
    """`--push-to-hub` of export and inject."""

    name = "push"

    def add_arguments(self, parser: Any) -> None:
        """Declare the options."""
        parser.add_argument("--push-to-hub", metavar="REPO", help="Push the written files to this repo of the Hub.")
        add_push_options(parser)

    def send(self, args: Namespace, files: Sequence[str | Path]) -> Mapping[str, Any] | None:
        """Push the files."""
        if args.push_to_hub is None:
            return None
        from optimum_htp.extras.push.pushing import push
        from optimum_htp.hubs import HubAccess

        access = HubAccess(cache_dir=args.cache_dir)
        options = {"private": privacy(args), "create_pr": args.create_pr, "layout": args.layout}
        return dataclasses.asdict(push(files, args.push_to_hub, access=access, **options))

    def lines(self, result: Mapping[str, Any]) -> Sequence[str]:
        """Return lines about the pushed files and their URL."""
        repo, url, files = result["repo_id"], result["url"], result["files"]
        if not result["changed"]:
            these = "this file" if len(files) == 1 else f"these {len(files)} files"
            return [f"Nothing to push: {repo} already contains {these}: {url}"]
        return [f"Pushed {amount(len(files), 'file')} to {repo}: {url}", *(f"  {name}" for name in files)]


def privacy(args: Namespace) -> bool | None:
    """Return whether a new repo is private; None if that depends on the model."""
    return True if args.private else False if args.public else None


def add_push_options(parser: Any) -> None:
    """Declare the options of a push."""
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="If the repo is created, make it private.")
    visibility.add_argument(
        "--public",
        action="store_true",
        help="If the repo is created, do not make it private, even if the model is private or gated.",
    )
    parser.add_argument("--create-pr", action="store_true", help="Open a pull request instead of a commit to main.")
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        default=OPTIMUM,
        help="File layout in the repo: as on disk (default), or as transformers.js expects (onnx/model.onnx).",
    )
