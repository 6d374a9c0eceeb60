"""ModelScope: all that is its own, from the layout of its cache to the words of its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add ModelScope. Its SDK is imported when it is first asked."""
    from optimum_htp.extras.modelscope.hub import ModelScopeHub

    return [ModelScopeHub()]
