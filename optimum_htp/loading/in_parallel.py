"""Opens the sessions of a model of several files in parallel. ONNX Runtime creates each session on one core.

Optimum's classes open their files one after the other. The opener knows the expected files before. The first call
starts all of them. Each later call gets the started session of its file, or opens the file itself if its arguments
differ. An error is raised in the call for the failed session.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optimum_htp.loading.mapped import has_entry, open_session, reason_against
from optimum_htp.masking import get_logger

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

__all__ = ["SessionOpener"]

logger = get_logger(__name__)


@dataclass(frozen=True)
class _Request:
    """The arguments of a session. Equal requests can share a session.

    Options are read at the first request, because they do not change during a load.
    """

    path: str
    sess_options: Any
    providers: Any
    provider_options: Any

    def open(self) -> InferenceSession:
        return open_session(self.path, self.sess_options, self.providers, self.provider_options)

    def of(self, path: str) -> _Request:
        return _Request(path, self.sess_options, self.providers, self.provider_options)


class SessionOpener(AbstractContextManager["SessionOpener"]):
    """Opens the ONNX files of one load, which expects some. On exit, it waits for started sessions and drops them."""

    def __init__(self, expected: Iterable[str | os.PathLike[str]] = ()) -> None:
        self._expected = {os.fspath(path): None for path in expected}
        self._started: list[tuple[_Request, Future[InferenceSession]]] = []
        self._threads: ThreadPoolExecutor | None = None

    def expect(self, path: str | os.PathLike[str]) -> None:
        """Add a file that the load will open."""
        self._expected[os.fspath(path)] = None

    def open(
        self,
        path: str | os.PathLike[str],
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        **options: Any,
    ) -> InferenceSession:
        """Return `open_session` of the same arguments, with its exceptions."""
        if reason_against(path, sess_options, providers, options) is not None or _is_bound_to_thread(sess_options):
            return open_session(path, sess_options, providers, provider_options, **options)
        request = _Request(os.fspath(path), sess_options, providers, provider_options)
        self._start(request)
        requests = [started for started, _ in self._started]
        if request not in requests:
            return request.open()
        # A variable for the future would keep the load's other sessions in memory, in the traceback of a failure.
        return self._started.pop(requests.index(request))[1].result()

    def _start(self, first: _Request) -> None:
        """Start to open all expected files, once."""
        expected = list(self._expected)
        self._expected.pop(first.path, None)
        if self._threads is not None or (threads := min(len(expected), _cores())) < 2:
            return
        logger.debug("Opened in parallel: %s", ", ".join(expected))
        self._threads = ThreadPoolExecutor(threads, "optimum_htp_session")
        for request in map(first.of, expected):
            try:
                self._started.append((request, self._threads.submit(request.open)))
            except RuntimeError as error:  # no more threads can start: each call opens its own file
                logger.debug("%s is opened at its own call: %s", request.path, error)
                return

    def __exit__(self, *_: object) -> None:
        try:
            if self._threads is not None:
                self._threads.shutdown(cancel_futures=True)
        finally:
            self._started.clear()


def _is_bound_to_thread(sess_options: Any) -> bool:
    """Whether a session must be created in the thread that runs it.

    ONNX Runtime sets the processor's mode for denormals in the thread that creates the first session.
    """
    return sess_options is not None and has_entry(sess_options, "session.set_denormal_as_zero")


def _cores() -> int:
    """Return the number of cores that this process can use."""
    if hasattr(os, "sched_getaffinity"):  # not on all systems
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
