"""HTTP with a Hub, over huggingface_hub's own session: bounded in time, size and redirects, and tried again.

huggingface_hub uses requests before its 1.0, then httpx, then httpx2. Whichever it is, its session is used as it is,
with the user's proxies, certificates and adapters, and without a change that anybody else would notice. Redirects are
followed here, so that a token goes to no other host, and bodies are unpacked here, so that a few bytes cannot
become gigabytes.
"""

from __future__ import annotations

import functools
import importlib
import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from optimum_htp.errors import HubServerError
from optimum_htp.hubs import limits
from optimum_htp.hubs.deadline import FIRST_PAUSE, Deadline
from optimum_htp.hubs.redirects import headers_for, is_trusted, redirection
from optimum_htp.hubs.unreachable import causes, is_unreachable
from optimum_htp.masking import get_logger

__all__ = [
    "TOO_MANY_REQUESTS",
    "Answer",
    "CutOffError",
    "HttpErrors",
    "ask",
    "http_errors",
    "opened",
    "pieces",
]

logger = get_logger(__name__)

TOO_MANY_REQUESTS: Final = 429
_PASSING: Final = (500, 502, 503, 504)  # what a Hub gets over
_CONTENT: Final = (200, 206)
_MOST_REDIRECTS: Final = 10
_PIECE: Final = 1 << 16
_REFUSAL: Final = 1 << 16  # bytes of an error page that are read, so that its connection can be used again


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: Its headers, whose names match in any case.
        url: Where it came from, after redirects.
        body: Its content, unless that was written elsewhere.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    body: bytes = b""


class CutOffError(Exception):
    """An answer that is not as long as it says, or cannot be unpacked. `translated_errors` puts it into words."""


class HttpErrors(NamedTuple):
    """The exceptions of an HTTP library: all, those of time-outs, and those of answers that end too early."""

    transport: tuple[type[BaseException], ...]
    timeouts: tuple[type[BaseException], ...]
    damage: tuple[type[BaseException], ...]


@functools.cache
def http_errors() -> HttpErrors:
    """Return those of the library that the installed huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    name = next(
        root
        for base in HfHubHTTPError.__mro__
        if (root := base.__module__.partition(".")[0]) in ("requests", "httpx", "httpx2")
    )
    library = importlib.import_module(name)
    if name != "requests":
        return HttpErrors(
            (library.HTTPError, library.InvalidURL, library.StreamError),
            (library.TimeoutException,),
            (library.RemoteProtocolError, library.DecodingError, library.ReadError),
        )
    from urllib3 import exceptions as below

    # What reading a body raises comes from urllib3 as it is.
    return HttpErrors(
        (library.exceptions.RequestException, below.HTTPError),
        (library.exceptions.Timeout, below.TimeoutError),
        (library.exceptions.ChunkedEncodingError, library.exceptions.ContentDecodingError),
    )


def ask(
    method: str,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    timeout: float,
    limit: int,
    tries: int,
    stay: bool = False,
    wanted: Callable[[Answer], bool] | None = None,
    into: Callable[[], AbstractContextManager[Callable[[bytes], object]]] | None = None,
) -> Answer:
    """Ask a server, and once more while it is busy, too busy or cut off; refusals are answers too.

    Args:
        method: GET or HEAD.
        url: What to ask for.
        headers: With the token; another host does not get it.
        deadline: How long all of it may take.
        timeout: How long no byte may arrive.
        limit: The most bytes of a body, unpacked.
        tries: How often to try.
        stay: Follow only redirects to the same host, or to a Hub; others are answers, as in huggingface_hub where it
            asks about a file.
        wanted: Whether the body of an answer is to be read, told by its status and headers.
        into: Opens what a body is written to, anew for each try.

    Raises:
        HubServerError: The body is too large, or the redirects lead nowhere.
        CutOffError: The body did not arrive whole.
        TimeoutError: Time is up.
        BaseException: One of `http_errors().transport`.
    """
    failed: tuple[type[BaseException], ...] = (*http_errors().transport, CutOffError)
    failures = 0
    while True:
        if held := limits.seconds_held(url):
            if held >= deadline.left:
                return Answer(TOO_MANY_REQUESTS, {"Retry-After": f"{math.ceil(held)}"}, url)
            time.sleep(held)
        pause = FIRST_PAUSE * 2**failures
        failures += 1
        try:
            with opened(method, url, headers, deadline, timeout=timeout, stay=stay) as response:
                answer = _received(response, deadline, limit, wanted, into)
        except failed as error:
            if failures >= tries or pause >= deadline.left or is_unreachable(causes(error)):
                raise
            logger.debug("Trying %s again in %g s: %s", url, pause, error)
        else:
            if answer.status == TOO_MANY_REQUESTS:
                seconds = limits.retry_after(answer.headers)
                if seconds is not None:
                    limits.hold(answer.url, seconds)
                    pause = max(seconds, 0.1)
            elif answer.status not in _PASSING or failures >= tries:
                return answer
            if pause >= deadline.left:
                return answer
            logger.info("The Hub answered %d to %s. Trying again in %g s.", answer.status, url, pause)
        time.sleep(pause)


@contextmanager
def opened(
    method: str,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    timeout: float,
    stay: bool = False,
) -> Iterator[Any]:
    """Send a request, follow redirects, and give the response, whose body waits to be read.

    Arguments are those of `ask`.

    Raises:
        HubServerError: The redirects lead in a circle, or to what is not HTTP.
        TimeoutError: Time is up.
        BaseException: One of `http_errors().transport`.
    """
    sent = dict(headers)
    for _ in range(_MOST_REDIRECTS + 1):
        with _sent(method, url, sent, deadline.timeout(timeout)) as response:
            following = redirection(url, response)
            if following is None or (stay and not is_trusted(following, url)):
                yield response
                return
        sent, url = headers_for(following, url, sent), following
    raise HubServerError(f"{url} redirects without end. Check HF_ENDPOINT and any proxy between.")


@contextmanager
def _sent(method: str, url: str, headers: Mapping[str, str], timeout: float) -> Iterator[Any]:
    """Send one request with huggingface_hub's session, in the way of its library; redirects are answers."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled(f"{url} is not asked: HF_HUB_OFFLINE is set.")
    session: Any = get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream(method, url, headers=headers, timeout=timeout, follow_redirects=False) as response:
            yield response
        return
    from requests import Request

    # Through the adapter: the session itself reads the whole body of every redirect.
    request = session.prepare_request(Request(method, url, headers=headers))
    settings = session.merge_environment_settings(request.url, {}, True, None, None)
    with session.get_adapter(url=request.url).send(request, timeout=timeout, **settings) as response:
        yield response


def _received(
    response: Any,
    deadline: Deadline,
    limit: int,
    wanted: Callable[[Answer], bool] | None,
    into: Callable[[], AbstractContextManager[Callable[[bytes], object]]] | None,
) -> Answer:
    answer = Answer(response.status_code, response.headers, str(response.url))
    if answer.status not in _CONTENT:
        list(_body(response, deadline, _REFUSAL, cut=True))
    elif wanted is not None and not wanted(answer):
        return answer
    elif into is None:
        return replace(answer, body=b"".join(_body(response, deadline, limit)))
    else:
        with into() as write:
            for piece in _body(response, deadline, limit):
                write(piece)
    return answer


def _body(response: Any, deadline: Deadline, limit: int, *, cut: bool = False) -> Iterator[bytes]:
    """Yield a response's body in pieces, as they arrive, unpacked.

    Raises:
        HubServerError: It is larger than the limit, unless it is to be cut there, or packed in an unknown way.
        CutOffError: It is not what its headers announce.
    """
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip", ""):
        raise HubServerError(f"{response.url} is answered in the encoding {packing!r}, which nobody asked for.")
    unpack = zlib.decompressobj(wbits=31) if "gzip" in packing else None
    announced = response.headers.get("Content-Length", "")
    arrived = size = 0
    for packed in pieces(response):
        deadline.arrived(len(packed))
        arrived += len(packed)
        try:
            piece = packed if unpack is None else unpack.decompress(packed, limit - size + 1)
        except zlib.error as error:
            raise CutOffError(f"{response.url} cannot be unpacked: {error}") from error
        size += len(piece)
        if size > limit:
            if cut:
                return
            raise HubServerError(f"{response.url} is answered with more than the {limit} bytes that it may have.")
        yield piece
    if response.request.method == "HEAD":
        return
    if (announced.isascii() and announced.isdigit() and int(announced) != arrived) or (
        unpack is not None and arrived and not unpack.eof
    ):
        raise CutOffError(f"{arrived} bytes of {announced or 'a packed answer'} arrived of {response.url}")


def pieces(response: Any) -> Iterator[bytes]:
    """Yield what arrives, when it arrives, still packed."""
    raw = getattr(response, "raw", None)
    if raw is None:
        yield from response.iter_raw()
        return
    from urllib3.exceptions import ProtocolError

    read = getattr(raw, "read1", raw.read)  # urllib3 before 2 only knows how to wait for all that is asked for
    try:
        while piece := read(_PIECE, decode_content=False):
            yield bytes(piece)
    except ProtocolError as error:
        raise CutOffError(f"{response.url} was cut off: {error}") from error
