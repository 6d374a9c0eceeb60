"""Listings of a Hub with several pages: complete with any form of links, or an error."""

from __future__ import annotations

import pytest

from optimum_htp.errors import HubServerError, RevisionNotFoundError
from optimum_htp.hubs.huggingface.hub import _MOST_PAGES
from optimum_htp.plugins import hub as huggingface

FILES = {f"file-{index}.json": b"%d" % index for index in range(5)}
PAGE = 2


@pytest.fixture
def repo(hub):
    return hub.add("org/long-listing", FILES)


@pytest.fixture
def paged(hub, repo):
    """Serve listings a few entries at a time; the next page's link has the given form."""

    def serve(link, endless=False):
        def tamper(method, path, status, body, headers):
            if status == 200 and ("/tree/" in path or "/commits/" in path) and ("Link" in headers or endless):
                following = headers.get("Link", f"<{hub.url}{path}>").partition(">")[0].removeprefix(f"<{hub.url}")
                headers = {**headers, "Link": f'<{link.format(here=hub.url, path=following)}>; rel="next"'}
            return status, body, headers

        hub.page = PAGE
        hub.tamper = tamper

    return serve


@pytest.mark.parametrize("link", ["{here}{path}", "{path}", "https://huggingface.example{path}"])
def test_all_pages_are_read_from_the_contacted_host(paged, repo, access, link):
    """A proxy may pass on the Hub's own host name."""
    paged(link)
    assert huggingface().digests(repo.repo_id, repo.refs["main"], access).keys() == FILES.keys()


def test_short_commit_is_found_on_a_later_page(paged, repo, access):
    first = repo.refs["main"]
    for index in range(4):
        repo.commit({**FILES, "more.txt": b"%d" % index})
    paged("{path}")
    assert huggingface().full_commit(repo.repo_id, first[:8], access) == first
    with pytest.raises(RevisionNotFoundError):
        huggingface().full_commit(repo.repo_id, "0" * 8, access)


def test_listing_without_end_is_an_error_and_never_a_part(paged, repo, access):
    paged("{path}", endless=True)
    with pytest.raises(HubServerError, match=f"has more than {_MOST_PAGES} pages"):
        huggingface().digests(repo.repo_id, repo.refs["main"], access)
