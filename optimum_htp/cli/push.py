"""`optimum-cli htp push DIR|FILE... REPO`, and the options that export and inject have of it."""

from __future__ import annotations

import dataclasses
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optimum.commands.base import CommandInfo

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json
from optimum_htp.cli.files import add_hub_arguments, hub_access

if TYPE_CHECKING:
    from optimum_htp.delivery.push import PushResult

__all__ = ["PushCommand", "add_push_arguments", "add_push_options", "privacy", "pushed", "show_push"]


class PushCommand(Command):
    """Puts files, what belongs to them and a model card into a repo, in one commit."""

    COMMAND = CommandInfo(
        name="push", help="Push stamped ONNX files to the Hugging Face Hub, with a model card, in one commit."
    )

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Declare the arguments."""
        parser.add_argument("files", nargs="+", metavar="FILE", help="Stamped ONNX files, or folders of them.")
        parser.add_argument("repo", metavar="REPO", help="Repo on the Hub (ORG/NAME); created where there is none.")
        add_push_options(parser)
        parser.add_argument("--message", help="Message of the commit.")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        add_hub_arguments(parser)

    def execute(self) -> None:
        """Push, and say where the files are."""
        from optimum_htp.delivery.push import push

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
        else:
            show_push(done)


def add_push_arguments(parser: Any) -> None:
    """Declare what an export or a stamp takes to push its files at once."""
    parser.add_argument("--push-to-hub", metavar="REPO", help="Then push the files to this repo of the Hub.")
    add_push_options(parser)


def pushed(args: Namespace, files: Sequence[str | Path]) -> PushResult | None:
    """Push the files that a command wrote, where it was asked to."""
    if args.push_to_hub is None:
        return None
    from optimum_htp.delivery.push import push
    from optimum_htp.hubs import HubAccess

    access = HubAccess(cache_dir=args.cache_dir)
    options = {"private": privacy(args), "create_pr": args.create_pr, "layout": args.layout}
    return push(files, args.push_to_hub, access=access, **options)


def privacy(args: Namespace) -> bool | None:
    """Return whether a new repo is private; None where that depends on the model."""
    return True if args.private else False if args.public else None


def show_push(done: PushResult) -> None:
    """Say what was pushed where."""
    if not done.changed:
        show(f"Nothing to push: {done.repo_id} has these {len(done.files)} files already: {done.url}")
        return
    show(f"Pushed {len(done.files)} files to {done.repo_id}: {done.url}")
    for name in done.files:
        show(f"  {name}")


def add_push_options(parser: Any) -> None:
    """Declare how files are pushed."""
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
        choices=("optimum", "transformers.js"),
        default="optimum",
        help="Names in the repo: those on disk (default), or onnx/model.onnx and its like with configs at the root.",
    )
