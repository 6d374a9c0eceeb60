"""Pushing files to a Hub, in one commit, with a model card.

The layouts of a repo: as on disk, or as transformers.js expects.
"""

from typing import Final

__all__ = ["LAYOUTS", "OPTIMUM", "TRANSFORMERS_JS"]

OPTIMUM: Final = "optimum"
TRANSFORMERS_JS: Final = "transformers.js"
LAYOUTS: Final = (OPTIMUM, TRANSFORMERS_JS)
