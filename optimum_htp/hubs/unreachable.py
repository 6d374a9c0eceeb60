"""Unreachable servers: such errors are recognized and reported at once."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

__all__ = ["CLIENT_LOGGER", "asked_server", "causes", "failing_at_once", "heard", "is_unreachable", "proxy_of"]

# Another try would only take longer to fail. Some timeouts of urllib3 have these causes.
_FINAL: Final = (ConnectionRefusedError, socket.gaierror, ssl.SSLError)
_NUMBERS: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_PROXY: Final = "ProxyError"  # Of requests, urllib3, httpx and httpx2.
CLIENT_LOGGER: Final = "huggingface_hub.utils._http"
"""The logger of huggingface_hub that logs a warning before it repeats a request."""


def causes(error: BaseException) -> list[BaseException]:
    """Return an exception and its causes."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def is_unreachable(chain: Sequence[BaseException]) -> bool:
    """Whether exceptions mean that no server responds at an address: refused, unknown, or refused by a proxy."""
    return any(
        isinstance(cause, _FINAL)
        or (isinstance(cause, OSError) and cause.errno in _NUMBERS)
        or type(cause).__name__ == _PROXY
        for cause in chain
    )


def asked_server(chain: Sequence[BaseException]) -> str | None:
    """Return scheme, host and port of the contacted server; None if the exceptions do not contain it."""
    for cause in chain:
        try:
            parts = urlsplit(str(cause.request.url))  # type: ignore[attr-defined]
        except (AttributeError, RuntimeError, ValueError):  # httpx raises RuntimeError if there is no request.
            continue
        if parts.netloc:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return None


def proxy_of(server: str) -> tuple[str, str] | None:
    """Return host and port of the proxy for a server in the environment, and the name of the variable."""
    parts, proxies = urlsplit(server), getproxies()
    kind = parts.scheme if proxies.get(parts.scheme) else "all"
    proxy = proxies.get(kind)
    if not proxy or proxy_bypass(parts.hostname or ""):
        return None
    return urlsplit(proxy if "://" in proxy else f"//{proxy}").netloc.rpartition("@")[2], f"{kind.upper()}_PROXY"


def failing_at_once() -> AbstractContextManager[None]:
    """Keep huggingface_hub from repeating requests in this thread if a server is unreachable.

    It waits 23 seconds between six tries. Before each it logs a warning while it handles the error.
    """
    return heard(CLIENT_LOGGER, _raise_unreachable)


def _raise_unreachable() -> None:
    error = sys.exc_info()[1]
    if error is not None and is_unreachable(causes(error)):
        raise error


@contextmanager
def heard(name: str, react: Callable[[], object]) -> Iterator[None]:
    """Call a function at each warning that a logger gets in this thread while the block runs. It may raise."""
    logger, handler = logging.getLogger(name), _WarningHandler(react)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _WarningHandler(logging.Handler):
    def __init__(self, react: Callable[[], object]) -> None:
        super().__init__(logging.WARNING)
        self._react = react
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if threading.get_ident() == self._thread:
            self._react()
