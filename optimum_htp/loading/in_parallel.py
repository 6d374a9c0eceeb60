"""The sessions of a model of several files, made side by side: ONNX Runtime makes each on one core.

Optimum's classes open their files one after the other. Which ones a load will open is told beforehand; the first call
begins all of them, and each later call gets what was begun for it, or opens its file itself where it asks for another
session. What fails says so in the call that asked for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from optimum_htp.loading.mapped import has_entry, open_session, reason_against
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["SessionOpener"]

logger = get_logger(__name__)


@dataclass(frozen=True)
class _Request:
    """What a session is asked to be; two are equal where a session of one will do for the other.

    Options count as they are when the first session is asked for: nobody changes them in the middle of a load.
    """

    path: str
    sess_options: Any
    providers: Any
    provider_options: Any

    def open(self) -> InferenceSession:
        return open_session(self.path, self.sess_options, self.providers, self.provider_options)

    def of(self, path: str) -> _Request:
        return _Request(path, self.sess_options, self.providers, self.provider_options)


class SessionOpener:
    """Opens the ONNX files of one load; a context manager, which waits for what was begun and leaves nothing behind.

    Args:
        expected: Paths that the load will open.
    """

    def __init__(self, expected: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._expected = {os.fspath(path): None for path in expected}
        self._begun: list[tuple[_Request, Future[InferenceSession]]] = []
        self._threads: ThreadPoolExecutor | None = None

    def expect(self, path: str | os.PathLike[str]) -> None:
        """Say that the load will open a file."""
        self._expected[os.fspath(path)] = None

    def open(
        self,
        path: str | os.PathLike[str],
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        **options: Any,
    ) -> InferenceSession:
        """Return `open_session` of the same arguments, and raise what it raises."""
        if reason_against(path, sess_options, providers, options) is not None or _is_bound_to_thread(sess_options):
            return open_session(path, sess_options, providers, provider_options, **options)
        request = _Request(os.fspath(path), sess_options, providers, provider_options)
        self._begin(request)
        requests = [begun for begun, _ in self._begun]
        if request not in requests:
            return request.open()
        # No name for the future: with it, a failure's traceback would keep this load's other sessions in memory.
        return self._begun.pop(requests.index(request))[1].result()

    def _begin(self, first: _Request) -> None:
        """Begin to open all files that are expected, once."""
        expected = list(self._expected)
        self._expected.pop(first.path, None)
        if self._threads is not None or (threads := min(len(expected), _cores())) < 2:
            return
        logger.debug("Opened side by side: %s", ", ".join(expected))
        self._threads = ThreadPoolExecutor(threads, "optimum_htp_session")
        for request in map(first.of, expected):
            try:
                self._begun.append((request, self._threads.submit(request.open)))
            except RuntimeError as error:  # no thread can be started, or none any more: each call opens its own file
                logger.debug("%s is opened when it is asked for: %s", request.path, error)
                return

    def __enter__(self) -> SessionOpener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._threads is not None:
                self._threads.shutdown(cancel_futures=True)
        finally:
            self._begun.clear()


def _is_bound_to_thread(sess_options: Any) -> bool:
    """Whether making a session changes the thread that makes it, which is to be the one that runs it then.

    ONNX Runtime sets the processor's mode for denormals in the thread that makes the first session.
    """
    return sess_options is not None and has_entry(sess_options, "session.set_denormal_as_zero")


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
