"""ModelScope: the layout of its cache, its requests and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from optimum_htp.hookspecs import hookimpl

if TYPE_CHECKING:
    from optimum_htp.hubs.base import Hub


@hookimpl
def optimum_htp_hubs() -> Sequence[Hub]:
    """Add ModelScope. Its SDK is imported at the first request."""
    from optimum_htp.extras.modelscope.hub import ModelScopeHub

    return [ModelScopeHub()]
