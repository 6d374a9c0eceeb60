"""What our commands share: errors become one sentence and an exit code, and Ctrl-C or a kill cleans up."""

from __future__ import annotations

import logging
import signal
import sys
from abc import abstractmethod
from typing import NoReturn

from optimum.commands.base import BaseOptimumCLICommand

__all__ = ["Command"]

logger = logging.getLogger(__name__)


class Command(BaseOptimumCLICommand):  # type: ignore[misc]
    """A command that ends with exit code 1 and a sentence on standard error where this package raises."""

    def run(self) -> None:
        """Run the command; raise `SystemExit` where it fails."""
        from optimum_htp.errors import HFHubIntegrationError

        signal.signal(signal.SIGTERM, _terminated)
        try:
            self.execute()
        except HFHubIntegrationError as error:
            logger.debug("The command failed", exc_info=True)
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    @abstractmethod
    def execute(self) -> None:
        """Do what the command is for."""


def _terminated(signum: int, frame: object) -> NoReturn:
    """Unwind instead of dying, so that temporary folders are removed."""
    raise SystemExit(128 + signum)
