"""`optimum-cli htp acme`: the models of Acme's Hub."""

import os
from pathlib import Path

from optimum_htp.cli.base import Command
from optimum_htp.cli.display import show, show_json


class AcmeCommand(Command):
    @staticmethod
    def parse_args(parser):
        parser.add_argument("--json", action="store_true")

    def execute(self):
        folder = Path(os.environ["ACME_HUB"])
        names = sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.glob("*/?*.git"))
        if self.args.json:
            show_json({"models": names})
        for name in () if self.args.json else names:
            show(name)
