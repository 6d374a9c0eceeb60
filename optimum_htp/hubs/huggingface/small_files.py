"""Downloads one small file of a commit into the cache: a config, a vocabulary, an index, a model card.

huggingface_hub sends one request for the metadata of a file and one for its content. The response to the second
contains both, and is enough if the content has the digest in its name. Otherwise a proxy may have changed it, and both
requests are sent. Time and size are limited. Weights are downloaded by huggingface_hub itself, which resumes them.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urljoin

from optimum_htp.errors import HubServerError
from optimum_htp.hubs.deadline import Deadline
from optimum_htp.hubs.error_translation import refusal
from optimum_htp.hubs.http import Answer, CutOffError, ask, headers_for
from optimum_htp.hubs.huggingface.cache import RepoCache, digest_in_name, is_blob_name
from optimum_htp.masking import get_logger

__all__ = ["check_commit", "fetch_small_file", "is_small", "trusted_etag"]

logger = get_logger(__name__)

_LARGEST: Final = 1 << 28  # Bytes; the largest tokenizers have about 50 MiB.
_TRIES: Final = 6
# Names of files that may be larger: weights, and unknown files.
_SMALL: Final = ("*.json", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.jinja", "*.py", "*.md", "*.bpe", "*.codes")
_QUOTED: Final = re.compile(r'(?:W/)?"?([^"]*)"?')


def is_small(name: str) -> bool:
    """Whether a file is read completely, by its name."""
    return any(fnmatchcase(name, pattern) for pattern in _SMALL)


def fetch_small_file(
    repo_id: str,
    commit: str,
    name: str,
    cache: RepoCache,
    headers: Mapping[str, str],
    deadline: Deadline,
    *,
    anew: bool,
) -> None:
    """Download a file, or record in the cache that the commit has none.

    The headers include the token. With `anew`, the file is downloaded although the cache has its content.
    """
    from huggingface_hub import constants, hf_hub_url

    what, url = f"{name} of {repo_id}", hf_hub_url(repo_id, name, revision=commit)
    plain, packed = ({**headers, "Accept-Encoding": encoding} for encoding in ("identity", "gzip"))
    asking = functools.partial(ask, url=url, deadline=deadline, limit=_LARGEST, tries=_TRIES, stay=True)
    for_content = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)

    def content(answer: Answer) -> str:
        """Return the name of the content that a response describes."""
        check_commit(answer.headers, what, commit)
        return trusted_etag(answer.headers, what)

    def is_missing(answer: Answer) -> bool:
        return anew or not cache.blob(content(answer)).is_file()

    about = asking(
        "GET",
        headers=packed,
        timeout=for_content,
        wanted=lambda answer: _says_what_it_is(answer) and is_missing(answer),
    )
    if about.status < 400 and not (
        _says_what_it_is(about)
        and (about.status != 200 or not is_missing(about) or _is_name(content(about), about.body))
    ):
        about = asking("HEAD", headers=plain, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if about.status == 404 and about.headers.get("X-Error-Code") == "EntryNotFound":
        logger.debug("%s@%s has no %s", repo_id, commit, name)
        if about.headers.get("X-Repo-Commit") == commit:
            cache.note_missing(commit, name)
        return
    if about.status >= 400:
        raise refusal(about, repo_id, commit)
    etag = content(about)
    if is_missing(about):
        if about.status == 200 and _is_name(etag, about.body):
            with cache.filling(etag) as write:
                write(about.body)
        else:
            target = urljoin(about.url, about.headers.get("Location") or about.url)
            answer = asking(
                "GET",
                url=target,
                headers=headers_for(target, about.url, packed),
                timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
                stay=False,
                into=lambda: _whole(cache, etag, _announced(about)),
            )
            if answer.status != 200:
                raise refusal(answer, repo_id, commit)
    cache.link(commit, name, etag)


def check_commit(headers: Mapping[str, str], what: str, commit: str) -> None:
    """Reject a response for another commit than requested, because huggingface_hub uses its commit in a path."""
    said = headers.get("X-Repo-Commit")
    if said != commit:
        raise HubServerError(
            f"The Hub's response for {what} at {commit} is for {said!r}. Check HF_ENDPOINT and any proxy in between."
        )


def trusted_etag(headers: Mapping[str, str], what: str) -> str:
    """Return the name of a file's content, if it is valid. It becomes part of a path."""
    text = headers.get("X-Linked-Etag") or headers.get("ETag") or ""
    match = _QUOTED.fullmatch(text)
    if match is None or not is_blob_name(match[1]):
        raise HubServerError(
            f"The Hub's name for the content of {what}, {text[:80]!r}, is not a valid name. Check HF_ENDPOINT and any "
            "proxy in between."
        )
    return match[1]


@contextmanager
def _whole(cache: RepoCache, etag: str, announced: int | None) -> Iterator[Callable[[bytes], object]]:
    """Write a content that is kept only if it has the announced length, because a proxy may send a page of its own."""
    size = 0
    with cache.filling(etag) as write:

        def counted(piece: bytes) -> None:
            nonlocal size
            size += len(piece)
            write(piece)

        yield counted
        if announced is not None and size != announced:
            raise CutOffError(f"{size} bytes were received, but {announced} were announced")


def _says_what_it_is(answer: Answer) -> bool:
    """Whether a response to GET has the headers of a response to HEAD. huggingface_hub reads them only there."""
    return "X-Repo-Commit" in answer.headers and ("X-Linked-Etag" in answer.headers or "ETag" in answer.headers)


def _is_name(etag: str, body: bytes) -> bool:
    """Whether a content's name is its digest in git or LFS. Then it was not changed or packed on the way."""
    digest = digest_in_name(etag)
    return digest is not None and digest.fits(io.BytesIO(body), len(body))


def _announced(answer: Answer) -> int | None:
    """Return the size of a file's content. The length of a redirect or of a packed body is another."""
    is_content = answer.status == 200 and "Content-Encoding" not in answer.headers
    text = answer.headers.get("X-Linked-Size") or (answer.headers.get("Content-Length") if is_content else None) or ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
