"""HTTP requests to a Hub over huggingface_hub's session: limited in time, size and redirects, with retries.

huggingface_hub uses requests before version 1.0, then httpx, then httpx2. Its session is used unchanged, with the
user's proxies, certificates and adapters. This module follows redirects itself, so that the token is sent to no other
host, and unpacks bodies itself, so that a few bytes cannot become gigabytes.
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
from urllib.parse import urljoin, urlsplit

from optimum_htp.errors import HubServerError
from optimum_htp.hubs.base import HubAccess
from optimum_htp.hubs.deadline import FIRST_PAUSE, Deadline, hold, retry_after, seconds_held
from optimum_htp.hubs.unreachable import causes, is_unreachable
from optimum_htp.masking import get_logger

__all__ = [
    "TOO_MANY_REQUESTS",
    "Answer",
    "CutOffError",
    "HttpErrors",
    "ask",
    "headers_for",
    "http_errors",
    "is_trusted",
    "redirection",
    "token_headers",
]

logger = get_logger(__name__)

TOO_MANY_REQUESTS: Final = 429
_PASSING: Final = (500, 502, 503, 504)  # A Hub recovers from these.
_CONTENT: Final = (200, 206)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MOST_REDIRECTS: Final = 10
_PIECE: Final = 1 << 16
_REFUSAL: Final = 1 << 16  # Bytes of an error page that are read, so that the connection can be reused.
# The origins that huggingface_hub accepts as the Hub.
_HUBS: Final = ("https://huggingface.co", "https://hub-ci.huggingface.co", "https://hf.co")


@dataclass(frozen=True)
class Answer:
    """The response of a server: `url` is the address after redirects, and `body` is empty if it was written elsewhere.

    The names of headers are case-insensitive.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    body: bytes = b""


class CutOffError(Exception):
    """A response that is shorter than announced, or cannot be unpacked. `translated_errors` translates it."""


class HttpErrors(NamedTuple):
    """The exceptions of an HTTP library: all, timeouts, and truncated responses."""

    transport: tuple[type[BaseException], ...]
    timeouts: tuple[type[BaseException], ...]
    damage: tuple[type[BaseException], ...]


@functools.cache
def http_errors() -> HttpErrors:
    """Return the exceptions of the library that the installed huggingface_hub uses."""
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

    # Exceptions of urllib3 while a body is read are not wrapped.
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
    """Send a request, and retry while the server is busy or truncates its response. Error statuses are results too.

    Args:
        method: GET or HEAD.
        url: The address.
        headers: Request headers, including the token. Other hosts do not get the token.
        deadline: Time limit for everything.
        timeout: Seconds without received bytes.
        limit: Maximum bytes of a body, unpacked.
        tries: Number of tries.
        stay: Whether to follow only redirects to the same host, or to a Hub. Other redirects are results, as in
            huggingface_hub's requests for the metadata of a file.
        wanted: Whether to read the body of a response, by its status and headers.
        into: Opens the target for a body, again for each try.

    Raises:
        HubServerError: The body is too large, or a redirect is invalid.
        CutOffError: The body is incomplete.
        TimeoutError: The limit is exceeded.
        BaseException: One of `http_errors().transport`.
    """
    failed: tuple[type[BaseException], ...] = (*http_errors().transport, CutOffError)
    failures = 0
    while True:
        if held := seconds_held(url):
            if held >= deadline.left:
                return Answer(TOO_MANY_REQUESTS, {"Retry-After": f"{math.ceil(held)}"}, url)
            time.sleep(held)
        pause = FIRST_PAUSE * 2**failures
        failures += 1
        try:
            with _opened(method, url, headers, deadline, timeout=timeout, stay=stay) as response:
                answer = _received(response, deadline, limit, wanted, into)
        except failed as error:
            if failures >= tries or pause >= deadline.left or is_unreachable(causes(error)):
                raise
            logger.debug("Trying %s again in %g s: %s", url, pause, error)
        else:
            if answer.status == TOO_MANY_REQUESTS:
                seconds = retry_after(answer.headers)
                if seconds is not None:
                    hold(answer.url, seconds)
                    pause = max(seconds, 0.1)
            elif answer.status not in _PASSING or failures >= tries:
                return answer
            if pause >= deadline.left:
                return answer
            logger.info("The Hub responded with %d for %s. Trying again in %g s.", answer.status, url, pause)
        time.sleep(pause)


@contextmanager
def _opened(
    method: str,
    url: str,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    timeout: float,
    stay: bool = False,
) -> Iterator[Any]:
    """Send a request, follow redirects, and yield the response, with an unread body. Arguments are those of `ask`."""
    sent = dict(headers)
    for _ in range(_MOST_REDIRECTS + 1):
        with _sent(method, url, sent, deadline.timeout(timeout)) as response:
            following = redirection(url, response)
            if following is None or (stay and not is_trusted(following, url)):
                yield response
                return
        sent, url = headers_for(following, url, sent), following
    raise HubServerError(f"{url} redirects in a loop. Check HF_ENDPOINT and any proxy in between.")


def token_headers(access: HubAccess) -> dict[str, str]:
    """Return the request headers of huggingface_hub, with the token."""
    from huggingface_hub.utils import build_hf_headers

    return dict(build_hf_headers(token=access.token))


def headers_for(url: str, asked: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers for the target of a redirect. Only the same host and Hubs get the token."""
    if is_trusted(url, asked):
        return dict(headers)
    return {name: value for name, value in headers.items() if name.lower() != "authorization"}


def is_trusted(url: str, asked: str) -> bool:
    """Whether an address is on the same host as another, or on a Hub. A mirror may redirect to the Hub."""
    from huggingface_hub import constants

    return _origin(url) in map(_origin, (asked, constants.ENDPOINT, *_HUBS))


def redirection(url: str, response: Any) -> str | None:
    """Return the target of a redirect; None for other responses. A target that is not HTTP is an error."""
    target = response.headers.get("Location")
    if target is None or response.status_code not in _REDIRECTS:
        return None
    try:
        following: str = urljoin(url, target)
        if _origin(following)[0] in ("http", "https"):
            return following
        reason = "which is not HTTP"
    except ValueError as error:
        reason = f"which is not an address ({error})"
    raise HubServerError(f"{url} redirects to {target!r}, {reason}. Check HF_ENDPOINT and any proxy in between.")


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


@contextmanager
def _sent(method: str, url: str, headers: Mapping[str, str], timeout: float) -> Iterator[Any]:
    """Send one request with huggingface_hub's session. Redirects are results."""
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        raise OfflineModeIsEnabled(f"{url} is not requested, because HF_HUB_OFFLINE is set.")
    session: Any = get_session()
    if callable(getattr(session, "stream", None)):
        with session.stream(method, url, headers=headers, timeout=timeout, follow_redirects=False) as response:
            yield response
        return
    from requests import Request

    # Use the adapter, because the session reads the whole body of every redirect.
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
    """Yield a response's body in pieces, as they arrive, unpacked. With `cut`, the limit ends it without an error."""
    packing = response.headers.get("Content-Encoding", "identity").strip().lower()
    if packing not in ("identity", "gzip", "x-gzip", ""):
        raise HubServerError(f"The response of {response.url} has the encoding {packing!r}, which was not requested.")
    unpack = zlib.decompressobj(wbits=31) if "gzip" in packing else None
    announced = response.headers.get("Content-Length", "")
    arrived = size = 0
    for packed in _pieces(response):
        deadline.arrived(len(packed))
        arrived += len(packed)
        try:
            piece = packed if unpack is None else unpack.decompress(packed, limit - size + 1)
        except zlib.error as error:
            raise CutOffError(f"The response of {response.url} cannot be unpacked: {error}") from error
        size += len(piece)
        if size > limit:
            if cut:
                return
            raise HubServerError(f"The response of {response.url} exceeds its limit of {limit} bytes.")
        yield piece
    if response.request.method == "HEAD":
        return
    if (announced.isascii() and announced.isdigit() and int(announced) != arrived) or (
        unpack is not None and arrived and not unpack.eof
    ):
        raise CutOffError(f"received {arrived} bytes of {announced or 'a packed response'} from {response.url}")


def _pieces(response: Any) -> Iterator[bytes]:
    """Yield the packed content as it arrives."""
    raw = getattr(response, "raw", None)
    if raw is None:
        yield from response.iter_raw()
        return
    from urllib3.exceptions import ProtocolError

    read = getattr(raw, "read1", raw.read)  # urllib3 before 2 can only wait for all requested bytes.
    try:
        while piece := read(_PIECE, decode_content=False):
            yield bytes(piece)
    except ProtocolError as error:
        raise CutOffError(f"the response of {response.url} was truncated: {error}") from error
